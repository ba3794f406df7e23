// Receives pages and puts them into processes that CRIU is restoring, by userfaultfd.
//
// CRIU gives us each task's userfaultfd over a socket that a `criu lazy-pages` daemon
// would listen on. Two threads work here: the caller's, which receives pages from the
// source, and one that takes the descriptors and answers faults on pages that the
// source does not have. A fault on a page that is still to come waits for it.
//
// CRIU registers a task's mappings only at the end of its restore. Pages that come
// before are staged, up to a limit; beyond it the source is made to wait, unless a task
// waits for a page.
#pragma once

#include <condition_variable>
#include <cstdint>
#include <map>
#include <mutex>
#include <optional>
#include <set>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "common/fd.h"
#include "migrate/kernel.h"
#include "migrate/page_ranges.h"
#include "migrate/page_wire.h"

namespace gestalt {

class PageSink {
 public:
  // `pending`: by pid, the pages that the source owes us; no other page is accepted.
  PageSink(Kernel& kernel, std::map<std::uint32_t, PageRanges> pending);
  ~PageSink();
  PageSink(const PageSink&) = delete;
  PageSink& operator=(const PageSink&) = delete;

  // Listens on `lazy-pages.socket` in CRIU's work directory and starts serving.
  [[nodiscard]] Result<void> start(const std::string& work_directory);

  // Receives frames up to kPagesEnd and places the pages. An error if any is missing.
  [[nodiscard]] Result<void> receive_all(PageConnection& connection, Deadline deadline);

  // Ends serving and gives the descriptors up: from here on the kernel handles faults.
  void finish();

  // The first thing that went wrong in the serving thread.
  [[nodiscard]] std::optional<Error> failure();

 private:
  struct Task {
    Fd uffd;
    PageRanges pending;
  };
  struct Staged {
    PageRun run;
    std::vector<std::byte> bytes;  // empty: zero pages
  };
  void serve();
  [[nodiscard]] Result<void> serve_once();
  [[nodiscard]] Result<void> take_connection();
  [[nodiscard]] Result<void> take_descriptor();
  [[nodiscard]] Result<void> handle_event(std::uint32_t pid, int uffd);
  [[nodiscard]] Result<void> place_zero_page(int uffd, std::uint64_t address);
  // `bytes` empty: zero pages.
  [[nodiscard]] Result<void> place(const PageRun& run, std::span<const std::byte> bytes,
                                   Deadline deadline);
  [[nodiscard]] Result<PlaceOutcome> place_now(int uffd, const PageRun& run,
                                               std::span<const std::byte> bytes, Deadline deadline);
  // False while there is no mapping yet; after the restore that is an error.
  [[nodiscard]] Result<bool> place_if_mapped(const PageRun& run, std::span<const std::byte> bytes,
                                             Deadline deadline);
  [[nodiscard]] Result<void> place_halves(const PageRun& run, std::span<const std::byte> bytes,
                                          Deadline deadline);
  [[nodiscard]] Result<void> stage(const PageRun& run, std::span<const std::byte> bytes,
                                   Deadline deadline);
  [[nodiscard]] Result<void> serve_waiting(Deadline deadline);
  [[nodiscard]] Result<void> place_staged(Deadline deadline);
  void fail_with(Error error);

  Kernel& kernel_;
  std::mutex mutex_;
  std::condition_variable changed_;
  std::map<std::uint32_t, Task> tasks_;
  bool restored_ = false;  // CRIU said so: every mapping is registered
  // Pages that tasks wait for, by pid and address.
  std::set<std::pair<std::uint32_t, std::uint64_t>> waiting_;
  std::vector<Staged> staged_;  // the receiving thread's own
  std::uint64_t staged_bytes_ = 0;
  std::optional<Error> failure_;
  std::string socket_path_;
  Fd listener_;
  Fd connection_;
  Pipe wake_;
  std::jthread thread_;
};

}  // namespace gestalt
