// Brings pages into processes that CRIU is restoring or has restored, by userfaultfd.
//
// CRIU gives us each task's userfaultfd over a socket that a `criu lazy-pages` daemon
// would listen on. Pages come from the source over the demand link (what tasks wait for)
// and the bulk links (everything else), always because we asked for them, or in pre-copy
// rounds before the freeze. What cannot be placed yet is kept in page stores.
//
// Threads: one takes descriptors and userfault events, one receives on the demand link,
// one works on each bulk link, one places what is stored. Lock order: mutex_, then one
// address space's; demand_mutex_ before both.
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "common/proto/migration.pb.h"
#include "migrate/address_space.h"
#include "migrate/latency_histogram.h"
#include "migrate/page_fetcher.h"
#include "migrate/page_store.h"
#include "migrate/rate_limiter.h"
#include "migrate/userfault_keeper.h"

namespace gestalt {

struct PageSinkOptions {
  std::uint32_t max_prefetch_pages = FaultAround::kDefaultMaxPages;
  // Of what is read of the source's memory in the background; of the rest the source sees to it.
  std::uint64_t bandwidth_bytes_per_second = 0;
  // Read in place on a link, after which the source is told.
  std::uint64_t told_pages = kToldPages;
};

class PageSink {
 public:
  // `keeper`, if there is one, gets a copy of each descriptor. It must outlive the sink.
  PageSink(Kernel& kernel, PageSinkOptions options, UserfaultKeeper* keeper = nullptr);
  PageSink(const PageSink&) = delete;
  PageSink& operator=(const PageSink&) = delete;
  ~PageSink();  // stop()

  // A link that has been authenticated: demand or bulk. Replaces one that was lost. Bulk
  // links begin with pre-copy rounds (which may be none), unless they replace another.
  void attach(std::uint64_t link, std::unique_ptr<PageConnection> connection);

  // What the source's memory may be read by. Once, before set_pages().
  void set_remote(RemoteMemory remote);
  // What each process has, and the part of it that the rounds brought and that is still
  // good; other stored pages are dropped. Once; until then faults wait.
  [[nodiscard]] Result<void> set_pages(std::map<std::uint32_t, PageSet> present,
                                       const std::map<std::uint32_t, PageSet>& fresh);
  // Listens for CRIU in its work directory and serves faults.
  [[nodiscard]] Result<void> start(const std::string& work_directory);
  // Fetches everything now; returns when all is here, placed or stored.
  [[nodiscard]] Result<void> fetch_all(Deadline deadline);
  // CRIU has registered every mapping (it says so just before it lets the tasks run).
  [[nodiscard]] Result<void> await_restored(Deadline deadline);

  // The tasks run. From here on a lost link is no failure: it is waited for. `push`:
  // fetch in the background too. `on_complete` is called on a thread of the sink, once,
  // when nothing is missing any more.
  void resumed(bool push, std::function<void()> on_complete);
  // Puts these pages in place, if they are missing, before the task runs: what others read
  // of it by /proc, for the kernel does not let them wait for a userfault. After
  // await_restored().
  [[nodiscard]] Result<void> bring(std::uint32_t pid, std::uint64_t start, std::uint64_t end,
                                   Deadline deadline);
  void hurry();  // fetch everything in the background from now on
  // The processes have ended: nothing is missing any more.
  void forget_all();
  [[nodiscard]] bool complete();
  // Ends all threads, gives all descriptors up. If pages are still missing, tasks that
  // touch them get zero pages: their processes must be dead by then.
  void stop();

  [[nodiscard]] std::optional<Error> failure();
  // faults_*, fault_latency_seconds, pages_duplicate, rdma_* as far as they are known; pages_sent:
  // those that were read in place, which the source has not sent.
  void report(wire::MigrationStats& stats);
  [[nodiscard]] std::uint64_t missing_bytes();  // still at the source

 private:
  using Space = std::shared_ptr<AddressSpace>;
  struct Request {
    Space space;
    std::uint64_t address = 0;  // here; the source knows it by another if it was moved
    PageRun run;
  };
  struct Link {
    std::unique_ptr<PageConnection> connection;
    std::unique_ptr<PageFetcher> fetcher;
    std::deque<Request> outstanding;
    std::jthread thread;
    bool lost = false;
    bool rounds = false;  // begins with pre-copy rounds
  };

  // page_sink.cc
  void fail_with(Error error);
  void link_failed(std::uint64_t number, Error error);
  void give_back(std::deque<Request>& requests);
  [[nodiscard]] std::unique_ptr<PageFetcher> make_fetcher(std::uint64_t number,
                                                          PageConnection& connection, bool again);
  [[nodiscard]] std::shared_ptr<PageStore> store_of(std::uint32_t pid);
  [[nodiscard]] std::vector<Space> spaces();
  void check_complete();

  // page_sink_bulk.cc
  void work_on_bulk(std::uint64_t number, Link& link);
  [[nodiscard]] Result<void> receive_rounds(PageConnection& connection);
  [[nodiscard]] Result<void> pull(Link& link);
  [[nodiscard]] std::optional<Request> next_request(const Link& link);
  [[nodiscard]] std::optional<Request> take_prefetch();
  [[nodiscard]] std::optional<Request> take_near(const Space& space, std::uint64_t address);
  [[nodiscard]] std::optional<Request> take_next();
  [[nodiscard]] Request take_range(const Space& space, PageSet::Range range) const;
  void work_on_demand(Link& link);
  [[nodiscard]] Result<void> receive_answer(Link& link);
  [[nodiscard]] std::optional<Request> take_outstanding(Link& link, const PageRun& run);
  [[nodiscard]] Result<void> arrive(const Request& request, const std::vector<ChunkRun>& runs,
                                    bool demanded);
  [[nodiscard]] Result<void> arrive_run(const Request& request, const ChunkRun& run, bool demanded);
  [[nodiscard]] Result<void> put_in(AddressSpace& space, PageSet::Range range, const ChunkRun& run,
                                    std::uint64_t run_address);
  [[nodiscard]] Result<void> place_awaited(AddressSpace& space, PageSet::Range range);
  void note_placed(AddressSpace& space, std::uint64_t start, std::uint64_t end);

  // page_sink_events.cc
  void serve();
  [[nodiscard]] Result<void> serve_once();
  [[nodiscard]] Result<void> take_connection();
  [[nodiscard]] Result<void> take_descriptor();
  [[nodiscard]] Result<std::function<void()>> keep(int uffd);
  [[nodiscard]] Result<void> handle_events(const Space& space);
  [[nodiscard]] Result<void> probe_tasks(const std::vector<Space>& spaces);
  [[nodiscard]] Result<void> handle_event(const Space& space, const UserfaultEvent& event,
                                          std::vector<Request>& demands);
  [[nodiscard]] Result<void> handle_fault(const Space& space, std::uint64_t page,
                                          std::vector<Request>& demands);
  void place_zero_around(AddressSpace& space, std::uint64_t page);
  [[nodiscard]] Result<void> place_stored(AddressSpace& space, std::uint64_t address,
                                          std::uint64_t limit_bytes);
  void enqueue_prefetch(const Space& space, FaultAround::Plan plan);
  void send_demand(Request request);
  void demand_again();
  void place_all_stored();

  Kernel& kernel_;
  PageSinkOptions options_;
  UserfaultKeeper* keeper_;

  std::mutex mutex_;
  std::condition_variable changed_;
  std::vector<Space> spaces_;
  std::map<std::uint32_t, std::shared_ptr<PageStore>> stores_;
  std::map<std::uint64_t, Link> links_;
  std::deque<Request> prefetch_;  // `run` unused: only space and range matter
  std::deque<std::pair<Space, std::uint64_t>> recent_faults_;
  std::optional<Error> failure_;
  std::function<void()> on_complete_;
  RemoteMemory remote_;  // changes no more once the pages are known
  bool pages_known_ = false;
  bool fetching_ = false;  // all that is remote
  std::atomic<bool> restored_ = false;
  std::atomic<bool> running_ = false;
  std::atomic<bool> stopping_ = false;
  bool completed_ = false;
  unsigned open_rounds_ = 0;  // bulk links still in pre-copy rounds

  std::mutex demand_mutex_;  // sending on the demand link

  std::mutex stats_mutex_;
  LatencyHistogram latency_;
  std::atomic<std::uint64_t> faults_demand_ = 0;
  std::atomic<std::uint64_t> faults_local_ = 0;
  std::atomic<std::uint64_t> faults_zero_ = 0;
  std::uint64_t placed_after_resume_ = 0;
  std::uint64_t unwanted_pages_ = 0;
  RateLimiter limiter_;
  ReadCounts demand_reads_;
  ReadCounts bulk_reads_;

  std::string socket_path_;
  Fd listener_;
  Fd criu_;
  Pipe wake_;
  std::uint64_t last_zero_end_ = 0;
  std::uint64_t zero_window_pages_ = 1;
  std::jthread events_;
  std::jthread placer_;
};

}  // namespace gestalt
