// The page sink's part that talks with CRIU and answers userfault events.
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <utility>

#include "common/fault.h"
#include "common/log.h"
#include "common/unix_socket.h"
#include "migrate/page_sink.h"

namespace gestalt {
namespace {

// CRIU's last word on the socket: all tasks are restored.
constexpr std::int32_t kRestoreFinished = 0x52535446;
constexpr auto kLocalTimeout = std::chrono::seconds(10);
constexpr int kProbeMilliseconds = 1000;
constexpr int kEventsAtOnce = 64;
// In front of what is only read ahead, so that the task need not wait for all of it.
constexpr std::uint32_t kDemandPages = 8;
constexpr std::uint64_t kStoredAroundBytes = 32 * kPageBytes;
constexpr std::uint64_t kMaxZeroPages = 512;
constexpr std::uint32_t kMaxStridedPages = 64;
constexpr std::size_t kMaxPrefetchRequests = 4096;
constexpr std::size_t kRecentFaults = 8;
constexpr auto kFaultPause = std::chrono::microseconds(500);
constexpr std::uint64_t kMaxBroughtBytes = 64 * kPageBytes;
// Larger than any mapping can be, so that the kernel places nothing, and beginning where
// it does not refuse at once.
constexpr std::uint64_t kNowhere = 0x10000;
constexpr std::uint64_t kNowhereBytes = kAddressLimit / 2;

}  // namespace

void PageSink::serve() {
  {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [this] { return pages_known_ || stopping_; });
  }
  while (true) {
    auto done = serve_once();
    if (done) continue;
    if (done.error().code != ErrorCode::kGone) fail_with(std::move(done).error());
    return;
  }
}

// kGone when stop() was called.
Result<void> PageSink::serve_once() {
  std::vector<pollfd> polled{{wake_.read.get(), POLLIN, 0},
                             {criu_ ? criu_.get() : listener_.get(), POLLIN, 0}};
  std::vector<Space> polled_spaces;
  for (const auto& space : spaces()) {
    auto held = space->lock();
    if (space->uffd() < 0) continue;
    polled.push_back({space->uffd(), POLLIN, 0});
    polled_spaces.push_back(space);
  }
  int count = ::poll(polled.data(), polled.size(), kProbeMilliseconds);
  if (count < 0) return errno == EINTR ? Result<void>() : fail_errno(errno, "poll userfaults");
  if (polled[0].revents != 0) return fail(ErrorCode::kGone, "stopped");
  if (count == 0) return probe_tasks(polled_spaces);
  if (polled[1].revents != 0) GESTALT_TRY(criu_ ? take_descriptor() : take_connection());
  for (std::size_t i = 0; i < polled_spaces.size(); ++i)
    if (polled[i + 2].revents != 0) GESTALT_TRY(handle_events(polled_spaces[i]));
  return {};
}

// A process that ended says so to nobody: ask the kernel for pages nowhere.
Result<void> PageSink::probe_tasks(const std::vector<Space>& spaces) {
  if (!running_) return {};
  for (const auto& space : spaces) {
    auto held = space->lock();
    std::uint64_t placed = 0;
    if (space->closed()) continue;
    auto outcome = kernel_.place_zero(space->uffd(), kNowhere, kNowhereBytes, placed);
    if (outcome && *outcome == PlaceOutcome::kGone) space->close();
  }
  check_complete();
  return {};
}

Result<void> PageSink::take_connection() {
  criu_ = Fd(::accept4(listener_.get(), nullptr, nullptr, SOCK_CLOEXEC));
  if (!criu_) return fail_errno(errno, "accept CRIU's lazy-pages connection");
  return {};
}

Result<void> PageSink::take_descriptor() {
  std::int32_t pid = 0;
  auto got = read_exact(criu_.get(), std::as_writable_bytes(std::span(&pid, 1)),
                        deadline_in(kLocalTimeout));
  if (!got) {
    // CRIU is gone; how its restore went is its own reply's matter.
    criu_.reset();
    return {};
  }
  if (pid == kRestoreFinished) {
    std::lock_guard lock(mutex_);
    restored_ = true;
    changed_.notify_all();
    return {};
  }
  if (pid < 0) return {};  // a zombie: it has no memory
  GESTALT_ASSIGN(auto fds, receive_fds(criu_.get(), 1, deadline_in(kLocalTimeout)));
  GESTALT_TRY(set_nonblocking(fds[0].get(), true));
  GESTALT_TRY(fault_point(Fault::kDestinationUserfault));
  std::lock_guard lock(mutex_);
  auto number = static_cast<std::uint32_t>(pid);
  auto known = std::ranges::find(spaces_, number, [](const Space& space) { return space->pid(); });
  if (known == spaces_.end()) {
    spaces_.push_back(std::make_shared<AddressSpace>(
        kernel_, number, PageSet(), PageSet(), store_of(number), options_.max_prefetch_pages));
    known = std::prev(spaces_.end());
  }
  auto held = (*known)->lock();
  GESTALT_ASSIGN(auto on_close, keep(fds[0].get()));
  (*known)->set_uffd(std::move(fds[0]), std::move(on_close));
  return {};
}

Result<std::function<void()>> PageSink::keep(int uffd) {
  if (keeper_ == nullptr) return std::function<void()>();
  GESTALT_ASSIGN(auto number, keeper_->keep(uffd));
  return [keeper = keeper_, number] { keeper->release(number); };
}

Result<void> PageSink::handle_events(const Space& space) {
  std::vector<Request> demands;
  bool complete = false;
  {
    AddressSpace::Urgent urgent(*space);
    std::lock_guard lock(mutex_);
    auto held = space->lock();
    for (int i = 0; i < kEventsAtOnce && space->uffd() >= 0; ++i) {
      auto event = kernel_.read_event(space->uffd());
      if (!event && event.error().code == ErrorCode::kTimeout) break;
      if (!event) return std::unexpected(std::move(event).error());
      GESTALT_TRY(handle_event(space, *event, demands));
    }
    complete = space->complete();
  }
  for (auto& demand : demands) send_demand(std::move(demand));
  if (complete) check_complete();
  return {};
}

// Under mutex_ and the space's lock.
Result<void> PageSink::handle_event(const Space& space, const UserfaultEvent& event,
                                    std::vector<Request>& demands) {
  switch (event.type) {
    case UserfaultEvent::Type::kPageFault:
      return handle_fault(space, event.address / kPageBytes * kPageBytes, demands);
    case UserfaultEvent::Type::kRemove:
    case UserfaultEvent::Type::kUnmap:
      space->removed(event.address, event.end);
      break;
    case UserfaultEvent::Type::kRemap:
      space->moved(event.address, event.end, event.target);
      break;
    case UserfaultEvent::Type::kFork: {
      Fd uffd(event.fork_uffd);
      GESTALT_TRY(set_nonblocking(uffd.get(), true));
      GESTALT_ASSIGN(auto on_close, keep(uffd.get()));
      spaces_.push_back(space->fork(std::move(uffd), std::move(on_close)));
      break;
    }
    case UserfaultEvent::Type::kOther:
      break;
  }
  changed_.notify_all();
  return {};
}

Result<void> PageSink::handle_fault(const Space& space, std::uint64_t page,
                                    std::vector<Request>& demands) {
  if (space->local.contains(page)) {
    if (running_) ++faults_local_;
    return place_stored(*space, page, kStoredAroundBytes);
  }
  bool under_way = space->in_flight.contains(page);
  if (!under_way && !space->remote.contains(page)) {
    place_zero_around(*space, page);
    return {};
  }
  // Several threads may wait for the same page.
  if (!space->waiting.emplace(page, Clock::now()).second) return {};
  if (running_) ++faults_demand_;
  recent_faults_.emplace_front(space, page);
  if (recent_faults_.size() > kRecentFaults) recent_faults_.pop_back();
  auto plan = space->around.on_fault(page / kPageBytes);
  if (!under_way) {
    std::uint64_t bytes = kPageBytes;
    if (plan.stride == 1 && plan.first == page / kPageBytes + 1)
      bytes += std::min(plan.count, kDemandPages - 1) * kPageBytes;
    demands.push_back(take_range(space, space->remote.next(page, bytes)));
  }
  enqueue_prefetch(space, plan);
  return {};
}

Result<void> PageSink::bring(std::uint32_t pid, std::uint64_t start, std::uint64_t end,
                             Deadline deadline) {
  start = start / kPageBytes * kPageBytes;
  end = std::min((end + kPageBytes - 1) / kPageBytes * kPageBytes, start + kMaxBroughtBytes);
  Space space;
  {
    std::lock_guard lock(mutex_);
    auto known = std::ranges::find(spaces_, pid, [](const Space& each) { return each->pid(); });
    if (known == spaces_.end()) return {};
    space = *known;
  }
  auto first_of = [&](const PageSet& set) {
    auto range = set.next(start, kPageBytes);
    return range.start < end ? range : PageSet::Range{};
  };
  while (true) {
    std::vector<Request> demands;
    std::unique_lock lock(mutex_);
    if (failure_) return std::unexpected(*failure_);
    auto held = space->lock();
    for (auto range = first_of(space->local); !range.empty(); range = first_of(space->local))
      GESTALT_TRY(place_stored(*space, range.start, end - range.start));
    for (auto range = first_of(space->remote); !range.empty(); range = first_of(space->remote))
      demands.push_back(take_range(
          space,
          space->remote.next(range.start, std::min(end - range.start, kDemandPages * kPageBytes))));
    bool done = demands.empty() && first_of(space->in_flight).empty();
    held.unlock();
    if (done) return {};
    lock.unlock();
    for (auto& demand : demands) send_demand(std::move(demand));
    lock.lock();
    auto here = [&] {
      auto locked = space->lock();
      return failure_ || (first_of(space->in_flight).empty() && first_of(space->remote).empty());
    };
    if (!changed_.wait_until(lock, deadline, here))
      return fail(ErrorCode::kTimeout, "the pages did not arrive in time");
  }
}

void PageSink::enqueue_prefetch(const Space& space, FaultAround::Plan plan) {
  if (plan.count == 0) return;
  if (plan.stride == 1) {
    prefetch_.push_back({space, plan.first * kPageBytes, {space->pid(), 0, plan.count}});
  } else if (plan.stride == -1) {
    std::uint64_t first = plan.first - std::min<std::uint64_t>(plan.first, plan.count - 1);
    prefetch_.push_back({space, first * kPageBytes, {space->pid(), 0, plan.count}});
  } else {
    for (std::uint32_t k = 0; k < std::min(plan.count, kMaxStridedPages); ++k) {
      std::uint64_t page = plan.first + static_cast<std::uint64_t>(plan.stride) * k;
      prefetch_.push_back({space, page * kPageBytes, {space->pid(), 0, 1}});
    }
  }
  while (prefetch_.size() > kMaxPrefetchRequests) prefetch_.pop_front();
  changed_.notify_all();
}

// A page that the source does not have. Zero pages cost nothing but their table entries,
// so a task that fills fresh memory gets more of them at a time.
void PageSink::place_zero_around(AddressSpace& space, std::uint64_t page) {
  if (running_) ++faults_zero_;
  zero_window_pages_ = page == last_zero_end_ ? std::min(zero_window_pages_ * 2, kMaxZeroPages) : 1;
  std::uint64_t end = page + zero_window_pages_ * kPageBytes;
  for (const PageSet* set : {&space.remote, &space.in_flight, &space.local}) {
    auto next = set->next(page, kPageBytes);
    if (!next.empty()) end = std::min(end, next.start);
  }
  std::uint64_t done = 0;
  auto outcome = space.place(page, end - page, nullptr, done);
  if (done == 0 && end - page > kPageBytes)  // beyond the mapping's end
    outcome = space.place(page, kPageBytes, nullptr, done);
  last_zero_end_ = page + done;
  if (done > 0) return;
  if (outcome && *outcome == AddressSpace::Placed::kGone) return space.close();
  // While the address space changes, the task takes the same fault again.
  kernel_.wake(space.uffd(), page, kPageBytes);
}

// From `address` on, which is in the store. Under the space's lock.
Result<void> PageSink::place_stored(AddressSpace& space, std::uint64_t address,
                                    std::uint64_t limit_bytes) {
  std::uint64_t bytes = space.local.next(address, limit_bytes).bytes();
  std::uint64_t source = space.source_address(address, bytes);
  auto stored = space.store().find(source, bytes);
  bool restored = restored_;  // before the kernel is asked, as in put_in()
  if (!stored) return fail(ErrorCode::kInternal, "a page that was here is gone");
  std::uint64_t done = 0;
  GESTALT_ASSIGN(auto outcome, space.place(address, stored->bytes, stored->data, done));
  if (done == 0 && outcome == AddressSpace::Placed::kNoMapping) {
    // A range must lie inside one mapping.
    GESTALT_ASSIGN(outcome, space.place(address, kPageBytes, stored->data, done));
    if (done == 0 && outcome == AddressSpace::Placed::kNoMapping) {
      if (!restored) return {};
      space.local.remove(address, address + kPageBytes);  // unmapped meanwhile
      return {};
    }
  }
  if (outcome == AddressSpace::Placed::kGone) {
    space.close();
    return {};
  }
  note_placed(space, address, address + done);
  if (space.owns_store()) space.store().drop(source, source + done);
  // Changing: the waiting task takes the same fault again.
  if (done == 0) kernel_.wake(space.uffd(), address, kPageBytes);
  return {};
}

// Pauses while there are faults: on a busy machine this thread would take the processor from
// those who wait, or hold a lock while others have it.
void PageSink::place_all_stored() {
  std::uint64_t faults = 0;
  auto give_way = [&] {
    std::uint64_t now = faults_local_ + faults_demand_;
    if (now == std::exchange(faults, now)) return std::this_thread::yield();
    std::this_thread::sleep_for(kFaultPause);
  };
  for (bool found = true; found && !stopping_;) {  // again for what was forked meanwhile
    found = false;
    for (const auto& space : spaces()) {
      while (!stopping_) {
        auto held = space->lock_politely();
        auto range = space->local.next(0, kStoredAroundBytes * 4);
        if (range.empty()) break;
        found = true;
        auto placed = place_stored(*space, range.start, range.bytes());
        if (!placed) return fail_with(std::move(placed).error());
        held.unlock();
        give_way();
      }
      check_complete();
    }
  }
}

void PageSink::send_demand(Request request) {
  std::lock_guard sending(demand_mutex_);
  PageFetcher* fetcher = nullptr;
  PageRun run = request.run;
  {
    std::lock_guard lock(mutex_);
    Link& link = links_[kDemandLink];
    if (link.connection && !link.lost) {
      fetcher = link.fetcher.get();
      link.outstanding.push_back(std::move(request));
    }
  }
  if (fetcher == nullptr) {
    // Asked for again when the link is back.
    std::deque<Request> requests;
    requests.push_back(std::move(request));
    return give_back(requests);
  }
  // Should it fail, the receiving thread notices too, and gives the request back.
  (void)fetcher->submit(run, deadline_in(kLocalTimeout));
}

void PageSink::demand_again() {
  std::vector<Request> demands;
  {
    std::lock_guard lock(mutex_);
    for (const auto& space : spaces_) {
      auto held = space->lock();
      for (const auto& [page, since] : space->waiting)
        if (space->remote.contains(page))
          demands.push_back(take_range(space, space->remote.next(page, kPageBytes)));
    }
  }
  for (auto& demand : demands) send_demand(std::move(demand));
}

}  // namespace gestalt
