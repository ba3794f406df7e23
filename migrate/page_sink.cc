#include "migrate/page_sink.h"

#include <unistd.h>

#include <algorithm>

#include "common/fault.h"
#include "common/log.h"
#include "common/unix_socket.h"

namespace gestalt {

PageSink::PageSink(Kernel& kernel, PageSinkOptions options, UserfaultKeeper* keeper)
    : kernel_(kernel),
      options_(options),
      keeper_(keeper),
      limiter_(options.bandwidth_bytes_per_second) {}

PageSink::~PageSink() { stop(); }

std::shared_ptr<PageStore> PageSink::store_of(std::uint32_t pid) {
  auto& store = stores_[pid];
  if (!store) store = std::make_shared<PageStore>();
  return store;
}

std::vector<PageSink::Space> PageSink::spaces() {
  std::lock_guard lock(mutex_);
  return spaces_;
}

void PageSink::attach(std::uint64_t number, std::unique_ptr<PageConnection> connection) {
  std::jthread old;
  {
    std::lock_guard lock(mutex_);
    if (stopping_) return;
    Link& link = links_[number];
    if (link.connection) link.connection->stream().shut_down();
    link.lost = true;  // also for a thread that waits for something to ask for
    changed_.notify_all();
    old = std::move(link.thread);
  }
  if (old.joinable()) old.join();
  std::lock_guard sending(demand_mutex_);  // nobody may be sending on the old connection
  std::lock_guard lock(mutex_);
  if (stopping_) return;
  Link& link = links_[number];
  link.fetcher.reset();
  bool replaces = std::exchange(link.connection, std::move(connection)) != nullptr;
  link.fetcher = make_fetcher(number, *link.connection, replaces);
  link.lost = false;
  link.rounds = number != kDemandLink && !replaces;
  if (link.rounds) ++open_rounds_;
  link.thread = std::jthread([this, number, &link] {
    if (number == kDemandLink)
      work_on_demand(link);
    else
      work_on_bulk(number, link);
  });
}

// What a link's source memory was announced as ended with it: whatever replaces it, is asked.
std::unique_ptr<PageFetcher> PageSink::make_fetcher(std::uint64_t number,
                                                    PageConnection& connection, bool again) {
  if (again || connection.stream().one_sided() == nullptr) return make_request_fetcher(connection);
  auto fetcher = std::make_unique<OneSidedFetcher>(
      connection, number == kDemandLink ? demand_reads_ : bulk_reads_, options_.told_pages);
  if (auto ready = fetcher->prepare(staging_shape(number).bytes()); !ready)
    log::warning("pages are not read by RDMA", log::field("link", number),
                 log::field("error", ready.error().text()));
  return fetcher;
}

void PageSink::set_remote(RemoteMemory remote) {
  std::lock_guard lock(mutex_);
  remote_ = std::move(remote);
  for (auto& [number, link] : links_) {
    auto* fetcher = dynamic_cast<OneSidedFetcher*>(link.fetcher.get());
    auto staging = remote_.staging.find(number);
    if (fetcher == nullptr || staging == remote_.staging.end()) continue;
    if (auto opened = fetcher->open(staging->second, remote_.ranges); !opened)
      log::warning("pages are not read by RDMA", log::field("link", number),
                   log::field("error", opened.error().text()));
  }
}

Result<void> PageSink::set_pages(std::map<std::uint32_t, PageSet> present,
                                 const std::map<std::uint32_t, PageSet>& fresh) {
  std::lock_guard lock(mutex_);
  for (auto& [pid, pages] : present) {
    auto store = store_of(pid);
    PageSet stored = store->stored();
    PageSet local;
    if (auto good = fresh.find(pid); good != fresh.end()) {
      local = good->second;
      local.intersect(pages);
      PageSet lacking = local;
      lacking.remove(stored);
      if (!lacking.empty())
        return fail(ErrorCode::kProtocol, "pages are said to be here that never came");
    }
    PageSet stale = stored;
    stale.remove(local);
    stale.for_each([&](std::uint64_t start, std::uint64_t end) { store->drop(start, end); });
    pages.remove(local);
    spaces_.push_back(std::make_shared<AddressSpace>(kernel_, pid, std::move(pages),
                                                     std::move(local), std::move(store),
                                                     options_.max_prefetch_pages));
  }
  for (auto& [pid, store] : stores_)
    if (!present.contains(pid)) store->clear();  // its process has ended meanwhile
  pages_known_ = true;
  changed_.notify_all();
  return {};
}

Result<void> PageSink::start(const std::string& work_directory) {
  socket_path_ = work_directory + "/lazy-pages.socket";
  GESTALT_ASSIGN(listener_, listen_unix(socket_path_, 0600));
  GESTALT_ASSIGN(wake_, make_pipe());
  events_ = std::jthread([this] { serve(); });
  return {};
}

Result<void> PageSink::fetch_all(Deadline deadline) {
  std::unique_lock lock(mutex_);
  fetching_ = true;
  changed_.notify_all();
  auto all_here = [this] {
    if (failure_ || stopping_) return true;
    return std::ranges::all_of(spaces_, [](const Space& space) {
      auto held = space->lock();
      return space->remote.empty() && space->in_flight.empty();
    });
  };
  if (!changed_.wait_until(lock, deadline, all_here))
    return fail(ErrorCode::kTimeout, "the pages did not arrive in time");
  fetching_ = false;
  if (failure_) return std::unexpected(*failure_);
  if (stopping_) return fail(ErrorCode::kUnavailable, "cancelled");
  return {};
}

Result<void> PageSink::await_restored(Deadline deadline) {
  std::unique_lock lock(mutex_);
  if (!changed_.wait_until(lock, deadline, [this] { return failure_ || restored_ || stopping_; }))
    return fail(ErrorCode::kTimeout, "CRIU did not finish its restore in time");
  if (failure_) return std::unexpected(*failure_);
  if (stopping_) return fail(ErrorCode::kUnavailable, "cancelled");
  return {};
}

void PageSink::resumed(bool push, std::function<void()> on_complete) {
  {
    std::lock_guard lock(mutex_);
    running_ = true;
    fetching_ = push;
    on_complete_ = std::move(on_complete);
    changed_.notify_all();
  }
  placer_ = std::jthread([this] { place_all_stored(); });
  check_complete();
}

void PageSink::hurry() {
  std::lock_guard lock(mutex_);
  fetching_ = true;
  changed_.notify_all();
}

void PageSink::forget_all() {
  for (const auto& space : spaces()) {
    auto held = space->lock();
    space->close();
  }
  check_complete();
}

bool PageSink::complete() {
  std::lock_guard lock(mutex_);
  return completed_;
}

// An address space that misses nothing is given back to the kernel at once.
void PageSink::check_complete() {
  std::function<void()> tell;
  {
    std::lock_guard lock(mutex_);
    if (!running_ || completed_ || stopping_) return;
    for (const auto& space : spaces_) {
      auto held = space->lock();
      if (!space->closed() && space->complete()) space->close();
      if (!space->closed()) return;
    }
    completed_ = true;
    tell = std::exchange(on_complete_, nullptr);
  }
  if (tell) tell();
}

void PageSink::fail_with(Error error) {
  std::lock_guard lock(mutex_);
  if (!failure_) failure_ = std::move(error);
  changed_.notify_all();
}

// Requests whose answers will not come.
void PageSink::give_back(std::deque<Request>& requests) {
  for (const auto& request : requests) {
    auto held = request.space->lock();
    PageSet lost;
    lost.add(request.address, request.address + request.run.count * kPageBytes);
    lost.intersect(request.space->in_flight);
    request.space->in_flight.remove(lost);
    request.space->remote.add(lost);
  }
  requests.clear();
}

void PageSink::link_failed(std::uint64_t number, Error error) {
  std::deque<Request> requests;
  {
    std::lock_guard lock(mutex_);
    Link& link = links_[number];
    link.lost = true;
    // The source must notice too, or it would never connect again.
    if (link.connection) link.connection->stream().shut_down();
    requests = std::exchange(link.outstanding, {});
    if (std::exchange(link.rounds, false)) --open_rounds_;
    if (!running_ && !stopping_ && !failure_) failure_ = error;
    if (running_ && !stopping_ && !completed_)
      log::warning("page connection lost", log::field("link", number),
                   log::field("error", error.text()));
  }
  give_back(requests);
  {
    std::lock_guard lock(mutex_);
    changed_.notify_all();
  }
  // Tasks may wait for pages that were under way on it.
  if (number != kDemandLink) demand_again();
}

void PageSink::stop() {
  {
    std::lock_guard lock(mutex_);
    stopping_ = true;
    for (auto& [number, link] : links_)
      if (link.connection) link.connection->stream().shut_down();
    changed_.notify_all();
  }
  wake_.write.reset();  // the serving thread sees the end of the pipe
  for (auto* thread : {&events_, &placer_})
    if (thread->joinable()) thread->join();
  for (auto& [number, link] : links_)
    if (link.thread.joinable()) link.thread.join();
  for (const auto& space : spaces()) {
    auto held = space->lock();
    space->close();
  }
  criu_.reset();
  listener_.reset();
  if (!socket_path_.empty()) ::unlink(std::exchange(socket_path_, {}).c_str());
}

std::optional<Error> PageSink::failure() {
  std::lock_guard lock(mutex_);
  return failure_;
}

std::uint64_t PageSink::missing_bytes() {
  std::uint64_t pages = 0;
  for (const auto& space : spaces()) {
    auto held = space->lock();
    pages += space->remote.pages() + space->in_flight.pages();
  }
  return pages * kPageBytes;
}

void PageSink::report(wire::MigrationStats& stats) {
  std::lock_guard lock(stats_mutex_);
  stats.set_faults_demand(faults_demand_);
  stats.set_faults_local(faults_local_);
  stats.set_faults_zero(faults_zero_);
  stats.set_faults_avoided(placed_after_resume_ -
                           std::min<std::uint64_t>(placed_after_resume_, faults_demand_));
  stats.set_pages_duplicate(unwanted_pages_);
  stats.set_pages_sent(demand_reads_.pages_in_place + bulk_reads_.pages_in_place);
  stats.set_rdma_reads(demand_reads_.reads + bulk_reads_.reads);
  stats.set_rdma_read_bytes(demand_reads_.bytes + bulk_reads_.bytes);
  stats.set_rdma_demand_reads(demand_reads_.reads);
  auto& latency = *stats.mutable_fault_latency_seconds();
  latency.set_p50(latency_.quantile(0.5));
  latency.set_p99(latency_.quantile(0.99));
  latency.set_p999(latency_.quantile(0.999));
  latency.set_max(latency_.max());
}

}  // namespace gestalt
