#include "migrate/fake_transport.h"

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <cstring>
#include <deque>
#include <mutex>
#include <vector>

#include "migrate/kernel.h"

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

  // The same, or until something is in `also`.
  Result<void> wait_for_any(std::deque<std::uint64_t>& also, Deadline deadline) {
    std::unique_lock lock(mutex_);
    if (!changed_.wait_until(lock, deadline,
                             [&] { return cut_ || !queue_.empty() || !also.empty(); }))
      return fail(ErrorCode::kTimeout, "timed out waiting for the peer");
    if (queue_.empty() && also.empty())
      return fail(ErrorCode::kUnavailable, "the fake connection is cut");
    return {};
  }

  void put_into(std::deque<std::uint64_t>& list, std::uint64_t value) {
    std::lock_guard lock(mutex_);
    list.push_back(value);
    changed_.notify_all();
  }

  std::optional<std::uint64_t> take_from(std::deque<std::uint64_t>& list) {
    std::lock_guard lock(mutex_);
    if (list.empty()) return std::nullopt;
    std::uint64_t value = list.front();
    list.pop_front();
    return value;
  }

  [[nodiscard]] bool is_cut() {
    std::lock_guard lock(mutex_);
    return cut_;
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

constexpr std::uint32_t kSharedKey = 7;
constexpr std::uint32_t kProcessKeys = 1U << 31;

// What one end shares with the other.
struct FakeMemory {
  std::mutex mutex;
  std::vector<std::byte> bytes;
  std::uint64_t reads = 0;
};

class FakeStream final : public Stream, public OneSided {
 public:
  FakeStream(std::shared_ptr<Direction> out, std::shared_ptr<Direction> in,
             std::shared_ptr<FakeMemory> near, std::shared_ptr<FakeMemory> far, FakeFaults faults)
      : out_(std::move(out)),
        in_(std::move(in)),
        near_(std::move(near)),
        far_(std::move(far)),
        faults_(faults) {}
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

  OneSided* one_sided() override { return faults_.one_sided ? this : nullptr; }
  Result<std::span<std::byte>> landing(std::size_t bytes) override {
    landing_.resize(bytes);
    return std::span(landing_);
  }
  Result<SharedMemory> share(std::size_t bytes) override {
    near_->bytes.resize(bytes);
    return shared();
  }
  [[nodiscard]] SharedMemory shared() const override {
    return {near_->bytes, reinterpret_cast<std::uint64_t>(near_->bytes.data()), kSharedKey};
  }
  Result<void> read(std::span<const RemoteRead> reads, std::uint64_t token) override {
    if (in_->is_cut()) return fail(ErrorCode::kUnavailable, "the fake connection is cut");
    for (const auto& each : reads) {
      if (read_one(each)) continue;
      shut_down();
      return fail(ErrorCode::kUnavailable, "the other node's memory cannot be read");
    }
    in_->put_into(finished_, token);
    return {};
  }
  std::optional<std::uint64_t> take_finished() override { return in_->take_from(finished_); }
  Result<void> wait_any(Deadline deadline) override {
    return in_->wait_for_any(finished_, deadline);
  }

 private:
  bool read_one(const RemoteRead& read) {
    std::lock_guard lock(far_->mutex);
    if (far_->reads++ == faults_.cut_at_read) return false;
    received_ += read.into.size();
    if ((read.rkey & kProcessKeys) != 0) {
      auto pid = static_cast<pid_t>(read.rkey & ~kProcessKeys);
      auto bytes = linux_kernel().read_memory(pid, read.address, read.into);
      return bytes && *bytes == read.into.size();
    }
    auto base = reinterpret_cast<std::uint64_t>(far_->bytes.data());
    if (read.rkey != kSharedKey || read.address < base ||
        read.address - base > far_->bytes.size() ||
        far_->bytes.size() - (read.address - base) < read.into.size())
      return false;
    std::memcpy(read.into.data(), far_->bytes.data() + (read.address - base), read.into.size());
    return true;
  }

  std::shared_ptr<Direction> out_;
  std::shared_ptr<Direction> in_;
  std::shared_ptr<FakeMemory> near_;
  std::shared_ptr<FakeMemory> far_;
  FakeFaults faults_;
  std::vector<std::byte> landing_;
  std::deque<std::uint64_t> finished_;  // guarded by in_
  std::atomic<std::uint64_t> sent_ = 0;
  std::atomic<std::uint64_t> received_ = 0;
};

}  // namespace

std::uint32_t fake_process_key(std::uint32_t pid) { return pid | kProcessKeys; }

std::pair<std::unique_ptr<Stream>, std::unique_ptr<Stream>> make_fake_streams(FakeFaults faults) {
  auto forward = std::make_shared<Direction>(faults);
  auto backward = std::make_shared<Direction>(FakeFaults{});
  auto near = std::make_shared<FakeMemory>();
  auto far = std::make_shared<FakeMemory>();
  return {std::make_unique<FakeStream>(forward, backward, near, far, faults),
          std::make_unique<FakeStream>(backward, forward, far, near, faults)};
}

}  // namespace gestalt
