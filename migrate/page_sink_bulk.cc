// The page sink's part that asks for pages and receives them.
#include <algorithm>

#include "common/fault.h"
#include "migrate/page_sink.h"

namespace gestalt {
namespace {

// Small enough that a fault on a page under way does not wait long, large enough to keep
// the connection busy: 4 x 256 KiB for each link. (512 KiB are 6 % slower in eager mode,
// 128 KiB 5 %.)
constexpr std::uint64_t kRequestBytes = 64 * kPageBytes;
constexpr std::size_t kWindowRequests = 4;
// Under one hold of an address space's lock.
constexpr std::uint64_t kPlaceBytes = 64 * kPageBytes;
// Around a fault, fetched before the rest.
constexpr std::uint64_t kNeighbourhoodBytes = 2U << 20;

}  // namespace

// ------------------------------------------------------------- bulk links

void PageSink::work_on_bulk(std::uint64_t number, Link& link) {
  Result<void> done;
  if (link.rounds) {
    done = receive_rounds(*link.connection);
    if (done) {
      std::lock_guard lock(mutex_);
      link.rounds = false;
      --open_rounds_;
      changed_.notify_all();
    }
  }
  if (done) done = pull(link);
  if (!done) link_failed(number, std::move(done).error());
}

Result<void> PageSink::receive_rounds(PageConnection& connection) {
  ChunkReader reader;
  std::vector<ChunkRun> runs;
  while (true) {
    GESTALT_ASSIGN(auto header, connection.receive_header(Deadline::max()));
    if (header.type == FrameType::kPushEnd) return {};
    if (header.type == FrameType::kRoundEnd) {
      GESTALT_TRY(connection.send(FrameType::kRoundAck, header.argument, std::string_view(),
                                  deadline_in(std::chrono::seconds(30))));
      continue;
    }
    if (header.type != FrameType::kChunk)
      return fail(ErrorCode::kProtocol, "unexpected frame among the pages of a round");
    GESTALT_ASSIGN(auto run, reader.receive(connection, header, runs, Deadline::max()));
    GESTALT_TRY(fault_point(Fault::kDestinationReceivePages));
    std::shared_ptr<PageStore> store;
    {
      std::lock_guard lock(mutex_);
      store = store_of(run.pid);
    }
    for (const auto& each : runs) {
      std::uint64_t bytes = each.count * kPageBytes;
      if (each.kind == RunKind::kData) GESTALT_TRY(store->put(each.address, each.bytes));
      if (each.kind == RunKind::kZero) store->put_zero(each.address, bytes);
      if (each.kind == RunKind::kAbsent) store->drop(each.address, each.address + bytes);
    }
  }
}

Result<void> PageSink::pull(Link& link) {
  while (true) {
    while (link.outstanding.size() < kWindowRequests) {
      auto request = next_request(link);
      if (!request) break;
      const PageRun& run = request->run;
      if (remote_.ranges.find(run) != nullptr) limiter_.take(run.count * kPageBytes);
      link.outstanding.push_back(std::move(*request));
      GESTALT_TRY(link.fetcher->submit(link.outstanding.back().run, Deadline::max()));
    }
    if (link.outstanding.empty()) return {};  // stopping, or another one replaces the link
    GESTALT_TRY(receive_answer(link));
  }
}

// Empty: there is nothing to do while answers are awaited, or nothing any more.
std::optional<PageSink::Request> PageSink::next_request(const Link& link) {
  std::unique_lock lock(mutex_);
  while (!stopping_ && !link.lost) {
    if (auto request = take_prefetch()) return request;
    if (fetching_) {
      for (const auto& [space, address] : recent_faults_)
        if (auto request = take_near(space, address)) return request;
      if (auto request = take_next()) return request;
    }
    if (!link.outstanding.empty()) return std::nullopt;
    changed_.wait(lock);
  }
  return std::nullopt;
}

// Under mutex_ and the space's lock.
PageSink::Request PageSink::take_range(const Space& space, PageSet::Range range) const {
  std::uint64_t bytes = std::min(range.bytes(), kRequestBytes);
  std::uint64_t source = space->source_address(range.start, bytes);
  bytes = remote_.ranges.uniform_bytes(space->pid(), source, bytes);
  space->remote.remove(range.start, range.start + bytes);
  space->in_flight.add(range.start, range.start + bytes);
  return {space, range.start,
          PageRun{space->pid(), source, static_cast<std::uint32_t>(bytes / kPageBytes)}};
}

std::optional<PageSink::Request> PageSink::take_prefetch() {
  while (!prefetch_.empty()) {
    Request& wanted = prefetch_.front();
    auto held = wanted.space->lock();
    auto range = wanted.space->remote.next(wanted.address, kRequestBytes);
    std::uint64_t end = wanted.address + wanted.run.count * kPageBytes;
    if (range.empty() || range.start >= end) {
      held.unlock();
      prefetch_.pop_front();
      continue;
    }
    range.end = std::min(range.end, end);
    return take_range(wanted.space, range);
  }
  return std::nullopt;
}

std::optional<PageSink::Request> PageSink::take_near(const Space& space, std::uint64_t address) {
  auto held = space->lock();
  auto range = space->remote.next(address, kRequestBytes);
  if (range.empty() || range.start >= address + kNeighbourhoodBytes) {
    std::uint64_t before = address - std::min(address, kNeighbourhoodBytes);
    range = space->remote.next(before, kRequestBytes);
    if (range.empty() || range.start >= address) return std::nullopt;
  }
  return take_range(space, range);
}

std::optional<PageSink::Request> PageSink::take_next() {
  for (const auto& space : spaces_) {
    auto held = space->lock();
    auto range = space->remote.next(0, kRequestBytes);
    if (!range.empty()) return take_range(space, range);
  }
  return std::nullopt;
}

// ------------------------------------------------------------- demand link

void PageSink::work_on_demand(Link& link) {
  demand_again();
  while (true) {
    auto done = receive_answer(link);
    if (done) continue;
    link_failed(kDemandLink, std::move(done).error());
    return;
  }
}

// ------------------------------------------------------------- what arrives

Result<void> PageSink::receive_answer(Link& link) {
  GESTALT_ASSIGN(auto pages, link.fetcher->next());
  GESTALT_TRY(fault_point(Fault::kDestinationReceivePages));
  std::optional<Request> request;
  bool demanded = false;
  {
    std::lock_guard lock(mutex_);
    if (link.outstanding.empty()) return fail(ErrorCode::kProtocol, "pages that nobody asked for");
    request = take_outstanding(link, pages.run);
    auto known = links_.find(kDemandLink);
    demanded = known != links_.end() && &known->second == &link;
  }
  if (!request) return fail(ErrorCode::kProtocol, "other pages than those that were asked for");
  return arrive(*request, pages.runs, demanded);
}

// Pages that are read come as they come. Where two address spaces ask for the same of the
// source's pages, either gets what came first.
std::optional<PageSink::Request> PageSink::take_outstanding(Link& link, const PageRun& run) {
  auto found = std::ranges::find_if(link.outstanding, [&](const Request& request) {
    const PageRun& asked = request.run;
    return asked.pid == run.pid && asked.address == run.address && asked.count == run.count;
  });
  if (found == link.outstanding.end()) return std::nullopt;
  Request request = std::move(*found);
  link.outstanding.erase(found);
  return request;
}

Result<void> PageSink::arrive(const Request& request, const std::vector<ChunkRun>& runs,
                              bool demanded) {
  for (const auto& run : runs) GESTALT_TRY(arrive_run(request, run, demanded));
  bool wake = false;
  {
    std::lock_guard lock(mutex_);
    auto held = request.space->lock();
    wake = request.space->remote.empty() && request.space->in_flight.empty();
    if (wake || !running_) changed_.notify_all();
  }
  if (wake) check_complete();
  return {};
}

Result<void> PageSink::arrive_run(const Request& request, const ChunkRun& run, bool demanded) {
  AddressSpace& space = *request.space;
  std::uint64_t start = request.address + (run.address - request.run.address);
  std::uint64_t end = start + run.count * kPageBytes;
  std::uint64_t unwanted = 0;
  for (std::uint64_t at = start; at < end;) {
    auto held = demanded ? space.lock() : space.lock_politely();
    auto range = space.in_flight.next(at, kPlaceBytes);
    if (range.empty() || range.start >= end) {
      unwanted += (end - at) / kPageBytes;
      break;
    }
    unwanted += (range.start - at) / kPageBytes;
    range.end = std::min(range.end, end);
    std::uint64_t bytes = range.bytes();
    std::uint64_t source = space.source_address(range.start, bytes);
    range.end = range.start + bytes;
    if (source != run.address + (range.start - start)) {
      // Another mapping was moved there, and its pages are under way too.
      unwanted += bytes / kPageBytes;
      at = range.end;
      continue;
    }
    auto placed = put_in(space, range, run, start);
    if (!placed && placed.error().code == ErrorCode::kBusy) {
      // The event that changes the address space must be read first.
      held.unlock();
      std::this_thread::yield();
      at = range.start;
      continue;
    }
    if (!placed) return placed;
    at = range.end;
  }
  if (unwanted > 0) {
    std::lock_guard lock(stats_mutex_);
    unwanted_pages_ += unwanted;
  }
  return {};
}

// Places a range of a run that begins at `run_address` here, or stores it while CRIU has
// not registered its mapping. Under the space's lock. kBusy: to be tried again.
Result<void> PageSink::put_in(AddressSpace& space, PageSet::Range range, const ChunkRun& run,
                              std::uint64_t run_address) {
  if (run.kind == RunKind::kAbsent)
    return fail(ErrorCode::kProtocol, "the source does not have a page that it announced");
  while (!range.empty()) {
    const std::byte* data =
        run.bytes.empty() ? nullptr : run.bytes.data() + (range.start - run_address);
    std::uint64_t done = 0;
    auto outcome = AddressSpace::Placed::kNoMapping;
    // Asked before the kernel is: the mapping may be registered in between.
    bool restored = restored_;
    if (space.uffd() >= 0) {
      GESTALT_ASSIGN(outcome, space.place(range.start, range.bytes(), data, done));
      note_placed(space, range.start, range.start + done);
      range.start += done;
    }
    if (outcome == AddressSpace::Placed::kChanging) return fail(ErrorCode::kBusy, "changing");
    if (outcome == AddressSpace::Placed::kGone) {
      space.close();
      return {};
    }
    if (outcome != AddressSpace::Placed::kNoMapping) continue;
    if (!restored) {
      if (data == nullptr) space.store().put_zero(range.start, range.bytes());
      if (data != nullptr) GESTALT_TRY(space.store().put(range.start, {data, range.bytes()}));
      space.in_flight.remove(range.start, range.end);
      space.local.add(range.start, range.end);
      return place_awaited(space, range);
    }
    // The kernel takes a range only if it lies inside one mapping.
    if (range.bytes() > kPageBytes) {
      std::uint64_t half = range.bytes() / 2 / kPageBytes * kPageBytes;
      GESTALT_TRY(put_in(space, {range.start, range.start + half}, run, run_address));
      range.start += half;
      continue;
    }
    space.in_flight.remove(range.start, range.end);  // unmapped meanwhile
    range.start = range.end;
  }
  return {};
}

// A task of CRIU's may wait for one of the pages that were just stored: its own mapping
// is registered, only not all of the range.
Result<void> PageSink::place_awaited(AddressSpace& space, PageSet::Range range) {
  std::vector<std::uint64_t> pages;
  for (auto it = space.waiting.lower_bound(range.start);
       it != space.waiting.end() && it->first < range.end; ++it)
    pages.push_back(it->first);
  for (std::uint64_t page : pages) GESTALT_TRY(place_stored(space, page, kPageBytes));
  return {};
}

// Under the space's lock.
void PageSink::note_placed(AddressSpace& space, std::uint64_t start, std::uint64_t end) {
  if (start == end) return;
  space.in_flight.remove(start, end);
  space.remote.remove(start, end);
  space.local.remove(start, end);
  auto now = Clock::now();
  std::lock_guard lock(stats_mutex_);
  if (running_) placed_after_resume_ += (end - start) / kPageBytes;
  auto first = space.waiting.lower_bound(start);
  auto last = space.waiting.lower_bound(end);
  for (auto it = first; it != last; ++it)
    if (running_) latency_.add(seconds_between(it->second, now));
  space.waiting.erase(first, last);
}

}  // namespace gestalt
