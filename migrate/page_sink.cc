#include "migrate/page_sink.h"

#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <utility>

#include "common/fault.h"
#include "common/log.h"
#include "common/unix_socket.h"

namespace gestalt {
namespace {

// CRIU's last word on the socket: all tasks are restored.
constexpr std::int32_t kRestoreFinished = 0x52535446;
constexpr auto kLocalTimeout = std::chrono::seconds(10);
constexpr std::uint64_t kStagingLimitBytes = 64U << 20;

}  // namespace

PageSink::PageSink(Kernel& kernel, std::map<std::uint32_t, PageRanges> pending) : kernel_(kernel) {
  for (auto& [pid, ranges] : pending) tasks_[pid].pending = std::move(ranges);
}

PageSink::~PageSink() { finish(); }

Result<void> PageSink::start(const std::string& work_directory) {
  socket_path_ = work_directory + "/lazy-pages.socket";
  GESTALT_ASSIGN(listener_, listen_unix(socket_path_, 0600));
  GESTALT_ASSIGN(wake_, make_pipe());
  thread_ = std::jthread([this] { serve(); });
  return {};
}

void PageSink::finish() {
  if (thread_.joinable()) {
    wake_.write.reset();  // the serving thread sees the end of the pipe
    thread_.join();
  }
  std::lock_guard lock(mutex_);
  for (auto& [pid, task] : tasks_) task.uffd.reset();
  connection_.reset();
  listener_.reset();
  if (!socket_path_.empty()) ::unlink(socket_path_.c_str());
}

std::optional<Error> PageSink::failure() {
  std::lock_guard lock(mutex_);
  return failure_;
}

void PageSink::fail_with(Error error) {
  std::lock_guard lock(mutex_);
  if (!failure_) failure_ = std::move(error);
  changed_.notify_all();
}

void PageSink::serve() {
  while (true) {
    auto done = serve_once();
    if (done) continue;
    if (done.error().code != ErrorCode::kGone) fail_with(std::move(done).error());
    return;
  }
}

// kGone when finish() was called.
Result<void> PageSink::serve_once() {
  std::vector<pollfd> polled{{wake_.read.get(), POLLIN, 0},
                             {connection_ ? connection_.get() : listener_.get(), POLLIN, 0}};
  std::vector<std::uint32_t> pids;
  {
    std::lock_guard lock(mutex_);
    for (auto& [pid, task] : tasks_) {
      if (!task.uffd) continue;
      polled.push_back({task.uffd.get(), POLLIN, 0});
      pids.push_back(pid);
    }
  }
  if (::poll(polled.data(), polled.size(), -1) < 0)
    return errno == EINTR ? Result<void>() : fail_errno(errno, "poll userfaults");
  if (polled[0].revents != 0) return fail(ErrorCode::kGone, "finished");
  if (polled[1].revents != 0) {
    GESTALT_TRY(connection_ ? take_descriptor() : take_connection());
  }
  for (std::size_t i = 0; i < pids.size(); ++i)
    if ((polled[i + 2].revents & POLLIN) != 0) GESTALT_TRY(handle_event(pids[i], polled[i + 2].fd));
  return {};
}

Result<void> PageSink::take_connection() {
  connection_ = Fd(::accept4(listener_.get(), nullptr, nullptr, SOCK_CLOEXEC));
  if (!connection_) return fail_errno(errno, "accept CRIU's lazy-pages connection");
  return {};
}

Result<void> PageSink::take_descriptor() {
  std::int32_t pid = 0;
  auto got = read_exact(connection_.get(), std::as_writable_bytes(std::span(&pid, 1)),
                        deadline_in(kLocalTimeout));
  if (!got) {
    // CRIU is gone; how its restore went is its own reply's matter.
    connection_.reset();
    return {};
  }
  if (pid == kRestoreFinished) {
    std::lock_guard lock(mutex_);
    restored_ = true;
    changed_.notify_all();
    return {};
  }
  if (pid < 0) return {};  // a zombie: it has no memory
  GESTALT_ASSIGN(auto fds, receive_fds(connection_.get(), 1, deadline_in(kLocalTimeout)));
  GESTALT_TRY(set_nonblocking(fds[0].get(), true));
  GESTALT_TRY(fault_point(Fault::kDestinationUserfault));
  std::lock_guard lock(mutex_);
  tasks_[static_cast<std::uint32_t>(pid)].uffd = std::move(fds[0]);
  changed_.notify_all();
  return {};
}

Result<void> PageSink::handle_event(std::uint32_t pid, int uffd) {
  auto event = kernel_.read_event(uffd);
  if (!event)
    return event.error().code == ErrorCode::kTimeout ? Result<void>()
                                                     : std::unexpected(event.error());
  std::lock_guard lock(mutex_);
  auto& pending = tasks_[pid].pending;
  switch (event->type) {
    case UserfaultEvent::Type::kPageFault: {
      std::uint64_t page = event->address & ~(kPageBytes - 1);
      if (!pending.contains(page)) return place_zero_page(uffd, page);
      // On its way, or staged; placing it wakes the task.
      waiting_.emplace(pid, page);
      changed_.notify_all();
      return {};
    }
    case UserfaultEvent::Type::kRemove:
    case UserfaultEvent::Type::kUnmap:
      pending.remove(event->address, event->end);
      return {};
    case UserfaultEvent::Type::kRemap:
      pending.move(event->address, event->end, event->target);
      return {};
    case UserfaultEvent::Type::kFork:
      if (event->fork_uffd >= 0) ::close(event->fork_uffd);
      return fail(ErrorCode::kInternal, "a process forked while it was being restored");
    case UserfaultEvent::Type::kOther:
      return {};
  }
  return {};
}

Result<void> PageSink::place_zero_page(int uffd, std::uint64_t address) {
  std::uint64_t placed = 0;
  GESTALT_ASSIGN(auto outcome, kernel_.place_zero(uffd, address, kPageBytes, placed));
  // On kRetry the task takes the same fault again when the change is over.
  if (outcome != PlaceOutcome::kPlaced) kernel_.wake(uffd, address, kPageBytes);
  return {};
}

Result<void> PageSink::place(const PageRun& run, std::span<const std::byte> bytes,
                             Deadline deadline) {
  {
    std::lock_guard lock(mutex_);
    if (failure_) return std::unexpected(*failure_);
    auto task = tasks_.find(run.pid);
    std::uint64_t end = run.address + run.count * kPageBytes;
    if (task == tasks_.end() || !task->second.pending.contains(run.address, end))
      return fail(
          ErrorCode::kProtocol,
          std::format("pages at {:#x} of process {} were not announced", run.address, run.pid));
  }
  GESTALT_ASSIGN(bool placed, place_if_mapped(run, bytes, deadline));
  return placed ? Result<void>() : stage(run, bytes, deadline);
}

Result<bool> PageSink::place_if_mapped(const PageRun& run, std::span<const std::byte> bytes,
                                       Deadline deadline) {
  int uffd = -1;
  bool restored = false;
  {
    std::lock_guard lock(mutex_);
    uffd = tasks_[run.pid].uffd.get();
    restored = restored_;
  }
  if (uffd < 0) return false;
  GESTALT_ASSIGN(auto outcome, place_now(uffd, run, bytes, deadline));
  if (outcome != PlaceOutcome::kNoMapping) return true;
  if (!restored) return false;
  GESTALT_TRY(place_halves(run, bytes, deadline));
  return true;
}

// The kernel takes a range only if it lies inside one mapping; a run may span several.
Result<void> PageSink::place_halves(const PageRun& run, std::span<const std::byte> bytes,
                                    Deadline deadline) {
  if (run.count == 1)
    return fail(ErrorCode::kProtocol,
                std::format("process {} has no mapping at {:#x}", run.pid, run.address));
  PageRun first{run.pid, run.address, run.count / 2};
  std::uint64_t split = first.count * kPageBytes;
  PageRun second{run.pid, run.address + split, run.count - first.count};
  bool zero = bytes.empty();
  GESTALT_ASSIGN([[maybe_unused]] bool a,
                 place_if_mapped(first, zero ? bytes : bytes.first(split), deadline));
  GESTALT_ASSIGN([[maybe_unused]] bool b,
                 place_if_mapped(second, zero ? bytes : bytes.subspan(split), deadline));
  return {};
}

Result<PlaceOutcome> PageSink::place_now(int uffd, const PageRun& run,
                                         std::span<const std::byte> bytes, Deadline deadline) {
  std::uint64_t end = run.address + run.count * kPageBytes;
  for (std::uint64_t address = run.address; address < end;) {
    std::uint64_t placed = 0;
    GESTALT_ASSIGN(
        auto outcome,
        bytes.empty()
            ? kernel_.place_zero(uffd, address, end - address, placed)
            : kernel_.place_pages(uffd, address, bytes.subspan(address - run.address), placed));
    address += placed;
    if (outcome == PlaceOutcome::kPlaced || placed > 0) continue;
    if (outcome == PlaceOutcome::kNoMapping) return outcome;
    if (outcome == PlaceOutcome::kGone)
      return fail(ErrorCode::kGone, std::format("process {} died while it was restored", run.pid));
    if (outcome == PlaceOutcome::kPresent) {
      kernel_.wake(uffd, address, kPageBytes);
      address += kPageBytes;
    } else if (Clock::now() >= deadline) {
      return fail(ErrorCode::kTimeout, "the restored address space kept changing");
    } else {
      std::this_thread::yield();
    }
  }
  std::lock_guard lock(mutex_);
  tasks_[run.pid].pending.remove(run.address, end);
  return PlaceOutcome::kPlaced;
}

Result<void> PageSink::stage(const PageRun& run, std::span<const std::byte> bytes,
                             Deadline deadline) {
  {
    std::unique_lock lock(mutex_);
    auto may_go_on = [&] {
      return failure_ || restored_ || !waiting_.empty() || staged_bytes_ < kStagingLimitBytes;
    };
    if (!changed_.wait_until(lock, deadline, may_go_on))
      return fail(ErrorCode::kTimeout, "CRIU did not finish its restore in time");
    if (failure_) return std::unexpected(*failure_);
  }
  staged_.push_back({run, {bytes.begin(), bytes.end()}});
  staged_bytes_ += bytes.size();
  return serve_waiting(deadline);
}

// Tasks that wait for a page get just that page; its run follows when it can.
Result<void> PageSink::serve_waiting(Deadline deadline) {
  std::set<std::pair<std::uint32_t, std::uint64_t>> waiting;
  {
    std::lock_guard lock(mutex_);
    waiting = waiting_;
  }
  for (auto [pid, page] : waiting) {
    auto has_page = [pid, page](const Staged& staged) {
      return staged.run.pid == pid && page >= staged.run.address &&
             page < staged.run.address + staged.run.count * kPageBytes;
    };
    auto found = std::ranges::find_if(staged_, has_page);
    if (found != staged_.end()) {
      auto bytes = std::span<const std::byte>(found->bytes);
      if (!bytes.empty()) bytes = bytes.subspan(page - found->run.address, kPageBytes);
      GESTALT_ASSIGN([[maybe_unused]] bool placed,
                     place_if_mapped({pid, page, 1}, bytes, deadline));
    }
    std::lock_guard lock(mutex_);
    auto& task = tasks_[pid];
    if (task.pending.contains(page)) continue;
    kernel_.wake(task.uffd.get(), page, kPageBytes);
    waiting_.erase({pid, page});
  }
  return {};
}

Result<void> PageSink::place_staged(Deadline deadline) {
  for (auto& staged : std::exchange(staged_, {})) {
    GESTALT_ASSIGN(bool placed, place_if_mapped(staged.run, staged.bytes, deadline));
    if (!placed)
      return fail(ErrorCode::kProtocol, std::format("CRIU restored no process {}", staged.run.pid));
  }
  staged_bytes_ = 0;
  return {};
}

Result<void> PageSink::receive_all(PageConnection& connection, Deadline deadline) {
  std::vector<std::byte> payload;
  payload.reserve(kMaxPayloadBytes);
  while (true) {
    GESTALT_ASSIGN(auto header, connection.receive_header(deadline));
    GESTALT_TRY(connection.receive_payload(header, payload, deadline));
    if (header.type == FrameType::kPagesEnd) break;
    if (header.type != FrameType::kPages && header.type != FrameType::kZeroPages)
      return fail(ErrorCode::kProtocol, "unexpected frame among the pages");
    GESTALT_ASSIGN(auto run, decode_page_run(header, payload));
    auto bytes = std::span<const std::byte>(payload).subspan(8);
    GESTALT_TRY(place(run, bytes, deadline));
    GESTALT_TRY(fault_point(Fault::kDestinationReceivePages));
  }
  for (bool restored = false; !staged_.empty() && !restored;) {
    {
      std::unique_lock lock(mutex_);
      auto ready = [&] { return failure_ || restored_ || !waiting_.empty(); };
      if (!changed_.wait_until(lock, deadline, ready))
        return fail(ErrorCode::kTimeout, "CRIU did not finish its restore in time");
      if (failure_) return std::unexpected(*failure_);
      restored = restored_;
    }
    GESTALT_TRY(restored ? place_staged(deadline) : serve_waiting(deadline));
  }
  std::lock_guard lock(mutex_);
  for (auto& [pid, task] : tasks_)
    if (!task.pending.empty())
      return fail(ErrorCode::kProtocol,
                  std::format("{} bytes of process {} did not arrive", task.pending.bytes(), pid));
  return {};
}

}  // namespace gestalt
