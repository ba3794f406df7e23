// The source's end of the demand and bulk links: answers requests for pages of frozen
// processes, each link on a thread of its own, so that a demanded page never waits
// behind others. Members may be called from one thread.
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <thread>

#include "migrate/page_chunk.h"
#include "migrate/rate_limiter.h"

namespace gestalt {

class PageServer {
 public:
  using Connect =
      std::function<Result<std::unique_ptr<PageConnection>>(std::uint64_t link, Deadline)>;

  PageServer(Kernel& kernel, ChunkOptions options, std::uint64_t bandwidth_bytes_per_second,
             Connect connect);
  PageServer(const PageServer&) = delete;
  PageServer& operator=(const PageServer&) = delete;
  ~PageServer();  // stop()

  // The demand link and so many bulk links.
  [[nodiscard]] Result<void> connect(std::uint64_t bulk_links, Deadline deadline);
  // The staging memory of those links that are one-sided.
  [[nodiscard]] std::map<std::uint64_t, Staging> staging();
  // Before serve(): for pre-copy rounds.
  [[nodiscard]] std::uint64_t bulk_links() const { return links_.size() - 1; }
  [[nodiscard]] PageConnection& bulk_link(std::uint64_t index);

  // Serves exactly these pages. A link that is lost is left lost, until keep_alive().
  void serve(std::map<std::uint32_t, PageSet> pages);
  // The process is about to lose its memory, which another one keeps.
  void keep_memory(pid_t pid, pid_t keeper) { keepers_.add(pid, keeper); }
  // From now on lost links are connected again, as long as it takes.
  void keep_alive();
  // Ends all threads and connections. cancel() may be called from any thread, stop() not.
  void cancel();
  void stop();

  [[nodiscard]] RateLimiter& limiter() { return limiter_; }
  [[nodiscard]] ChunkOptions chunk_options() const { return options_; }
  [[nodiscard]] Kernel& kernel() { return kernel_; }
  // Those that went by the source's doing: staged ones, too.
  [[nodiscard]] std::uint64_t pages_sent() const { return pages_sent_; }
  [[nodiscard]] std::uint64_t pages_zero() const { return pages_zero_; }
  // Read of remote ranges, as far as the destination has told: up to kToldPages less for each link.
  [[nodiscard]] std::uint64_t pages_in_place() const { return pages_in_place_; }
  [[nodiscard]] std::uint64_t wire_bytes();
  // A process whose pages were to be served has ended: they are lost.
  [[nodiscard]] bool pages_lost() const { return pages_lost_; }

 private:
  struct Link {
    std::unique_ptr<PageConnection> connection;
    std::jthread thread;
  };
  void work(std::uint64_t number, Link& link);
  [[nodiscard]] Result<void> answer_requests(std::uint64_t number, PageConnection& connection);
  [[nodiscard]] Result<PageCounts> answer(std::uint64_t number, PageConnection& connection,
                                          const FrameHeader& header,
                                          std::span<const std::byte> payload, ChunkWriter& writer);
  [[nodiscard]] Result<void> count_in_place(PageConnection& connection, const FrameHeader& header);
  [[nodiscard]] Result<void> check_request(std::uint64_t number, const PageRun& run);
  [[nodiscard]] bool connect_again(std::uint64_t number, Link& link);

  Kernel& kernel_;
  ChunkOptions options_;
  RateLimiter limiter_;
  Connect connect_;
  std::map<std::uint32_t, PageSet> pages_;
  MemoryKeepers keepers_;
  std::mutex mutex_;  // guards the connections' pointers and stopping_
  std::condition_variable changed_;
  std::map<std::uint64_t, Link> links_;
  bool keep_alive_ = false;
  bool stopping_ = false;
  std::uint64_t old_wire_bytes_ = 0;  // of lost connections
  std::atomic<bool> pages_lost_ = false;
  std::atomic<std::uint64_t> pages_sent_ = 0;
  std::atomic<std::uint64_t> pages_zero_ = 0;
  std::atomic<std::uint64_t> pages_in_place_ = 0;
};

}  // namespace gestalt
