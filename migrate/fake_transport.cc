#include "migrate/fake_transport.h"

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <deque>
#include <mutex>

namespace gestalt {
namespace {

// Bounded, so that a sender blocks as on a real connection.
constexpr std::size_t kCapacityBytes = 256U << 10;

class Direction {
 public:
  explicit Direction(FakeFaults faults) : faults_(faults) {}

  Result<void> put(std::span<const std::byte> bytes, Deadline deadline) {
    std::unique_lock lock(mutex_);
    while (!bytes.empty()) {
      if (!changed_.wait_until(lock, deadline,
                               [&] { return cut_ || queue_.size() < kCapacityBytes; }))
        return fail(ErrorCode::kTimeout, "timed out waiting for the peer");
      if (total_ >= faults_.cut_after_bytes) cut_ = true;
      if (cut_) {
        changed_.notify_all();
        return fail(ErrorCode::kUnavailable, "the fake connection is cut");
      }
      auto count = std::min<std::uint64_t>(
          {bytes.size(), kCapacityBytes - queue_.size(), faults_.cut_after_bytes - total_});
      queue_.insert(queue_.end(), bytes.begin(),
                    bytes.begin() + static_cast<std::ptrdiff_t>(count));
      if (faults_.corrupt_byte_at >= total_ && faults_.corrupt_byte_at < total_ + count) {
        auto& byte = queue_[queue_.size() - count + (faults_.corrupt_byte_at - total_)];
        byte = ~byte;
      }
      total_ += count;
      bytes = bytes.subspan(count);
      changed_.notify_all();
    }
    return {};
  }

  Result<void> take(std::span<std::byte> into, Deadline deadline) {
    std::unique_lock lock(mutex_);
    while (!into.empty()) {
      if (!changed_.wait_until(lock, deadline, [&] { return cut_ || !queue_.empty(); }))
        return fail(ErrorCode::kTimeout, "timed out waiting for the peer");
      if (queue_.empty()) return fail(ErrorCode::kUnavailable, "the fake connection is cut");
      std::size_t count = std::min(into.size(), queue_.size());
      std::copy_n(queue_.begin(), count, into.begin());
      queue_.erase(queue_.begin(), queue_.begin() + static_cast<std::ptrdiff_t>(count));
      into = into.subspan(count);
      changed_.notify_all();
    }
    return {};
  }

  Result<void> wait(Deadline deadline) {
    std::unique_lock lock(mutex_);
    if (!changed_.wait_until(lock, deadline, [&] { return cut_ || !queue_.empty(); }))
      return fail(ErrorCode::kTimeout, "timed out waiting for the peer");
    return {};
  }

  void cut() {
    std::lock_guard lock(mutex_);
    cut_ = true;
    changed_.notify_all();
  }

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<std::byte> queue_;
  FakeFaults faults_;
  std::uint64_t total_ = 0;
  bool cut_ = false;
};

class FakeStream final : public Stream {
 public:
  FakeStream(std::shared_ptr<Direction> out, std::shared_ptr<Direction> in)
      : out_(std::move(out)), in_(std::move(in)) {}
  ~FakeStream() override { FakeStream::shut_down(); }

  Result<void> send(std::span<const std::byte> bytes, Deadline deadline) override {
    GESTALT_TRY(out_->put(bytes, deadline));
    sent_ += bytes.size();
    return {};
  }
  Result<void> receive(std::span<std::byte> into, Deadline deadline) override {
    GESTALT_TRY(in_->take(into, deadline));
    received_ += into.size();
    return {};
  }
  Result<void> wait_readable(Deadline deadline) override { return in_->wait(deadline); }
  void shut_down() override {
    out_->cut();
    in_->cut();
  }
  std::uint64_t bytes_sent() const override { return sent_; }
  std::uint64_t bytes_received() const override { return received_; }

 private:
  std::shared_ptr<Direction> out_;
  std::shared_ptr<Direction> in_;
  std::atomic<std::uint64_t> sent_ = 0;
  std::atomic<std::uint64_t> received_ = 0;
};

}  // namespace

std::pair<std::unique_ptr<Stream>, std::unique_ptr<Stream>> make_fake_streams(FakeFaults faults) {
  auto forward = std::make_shared<Direction>(faults);
  auto backward = std::make_shared<Direction>(FakeFaults{});
  return {std::make_unique<FakeStream>(forward, backward),
          std::make_unique<FakeStream>(backward, forward)};
}

}  // namespace gestalt
