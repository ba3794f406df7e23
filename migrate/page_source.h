// Sends the pages of frozen processes.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <map>

#include "migrate/kernel.h"
#include "migrate/page_ranges.h"
#include "migrate/page_wire.h"

namespace gestalt {

struct PageCounts {
  std::uint64_t sent = 0;  // with their bytes
  std::uint64_t zero = 0;  // as runs
};

class PageSource {
 public:
  PageSource(Kernel& kernel, PageConnection& connection)
      : kernel_(kernel), connection_(connection) {}

  // Every page of `pages` (by pid), then kPagesEnd. `progress` is called after each
  // chunk with the bytes done.
  [[nodiscard]] Result<PageCounts> send_all(const std::map<std::uint32_t, PageRanges>& pages,
                                            const std::function<void(std::uint64_t)>& progress,
                                            Deadline deadline);

 private:
  [[nodiscard]] Result<void> send_chunk(std::uint32_t pid, std::uint64_t address, std::uint64_t end,
                                        Deadline deadline);
  [[nodiscard]] Result<void> send_zero(Deadline deadline);

  Kernel& kernel_;
  PageConnection& connection_;
  std::vector<std::byte> buffer_;
  PageRun zero_run_;  // grows over chunks until something else comes
  PageCounts counts_;
};

// True if all bytes of the page are zero.
[[nodiscard]] bool is_zero_page(std::span<const std::byte> page);

}  // namespace gestalt
