// Receives pages and puts them into processes that CRIU is restoring, by userfaultfd.
//
// CRIU gives us each task's userfaultfd over a socket that a `criu lazy-pages` daemon
// would listen on. Two threads work here: the caller's, which receives pages from the
// source, and one that takes the descriptors and answers faults on pages that the
// source does not have. A fault on a page that is still to come waits for it.
#pragma once

#include <condition_variable>
#include <cstdint>
#include <map>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
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
  void serve();
  [[nodiscard]] Result<void> serve_once();
  [[nodiscard]] Result<void> take_connection();
  [[nodiscard]] Result<void> take_descriptor();
  [[nodiscard]] Result<void> handle_event(std::uint32_t pid, int uffd);
  [[nodiscard]] Result<void> place_zero_page(int uffd, std::uint64_t address);
  [[nodiscard]] Result<int> await_uffd(std::uint32_t pid, Deadline deadline);
  // `bytes` empty: zero pages.
  [[nodiscard]] Result<void> place(const PageRun& run, std::span<const std::byte> bytes,
                                   Deadline deadline);
  void fail_with(Error error);

  Kernel& kernel_;
  std::mutex mutex_;
  std::condition_variable changed_;
  std::map<std::uint32_t, Task> tasks_;
  std::optional<Error> failure_;
  std::string socket_path_;
  Fd listener_;
  Fd connection_;
  Pipe wake_;
  std::jthread thread_;
};

}  // namespace gestalt
