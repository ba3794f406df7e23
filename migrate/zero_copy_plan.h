// Which of a frozen process's pages can be pinned where they are without changing anything in it,
// and in which ranges.
//
// A pin faults in what is missing, and copies what is shared: so a range consists only of pages
// that are present, anonymous, and mapped by nobody else (bits 63, 61 and 56 of /proc/PID/pagemap;
// PAGEMAP_SCAN does not tell the last), in one private anonymous mapping that may be read. Zeros
// that were only read (the kernel's common page), swapped pages, pages merged by KSM and those
// shared by a fork are not. The gap between two wanted pages is bridged only by pages for which
// all that holds, too: those that need not be sent again, of a program that writes here and there.
// A hole is never bridged: it would become a page. Documentation/admin-guide/mm/pagemap.rst.
#pragma once

#include <sys/types.h>

#include <array>
#include <cstdint>
#include <string_view>
#include <vector>

#include "common/result.h"
#include "migrate/page_set.h"

namespace gestalt {

struct ZeroCopyLimits {
  // To read a few pages by process_vm_readv(2) is quicker than to register them: docs/zero-copy.md.
  std::uint64_t min_region_pages = 8;
  std::uint64_t max_bridged_pages = 32;  // in one gap; less than kPagesPerBlock
  std::uint64_t max_regions = 16384;
  std::uint64_t max_region_bytes = 256U << 20;  // a system call cannot be stopped halfway
};

// Why a wanted page is left to be staged.
enum class ZeroCopyRefusal {
  kMapping,     // not private anonymous memory, or not readable, or not mapped at all
  kNotPresent,  // swapped out, or nothing there (any more)
  kShared,      // also in another process, or the page of zeros, or merged
  kProtected,   // by userfaultfd, on a kernel whose pins want to write (before 6.2)
  kFew,         // less than min_region_pages together
  kRegions,     // beyond max_regions
  kKernel,      // the kernel would not: a device's or control group's limit; or no time was left
  kCount,
};
[[nodiscard]] std::string_view name_of(ZeroCopyRefusal refusal);
using ZeroCopyRefusals =
    std::array<std::uint64_t, static_cast<std::size_t>(ZeroCopyRefusal::kCount)>;  // pages

struct ZeroCopyRange {
  std::uint64_t start = 0;
  std::uint64_t end = 0;
  std::uint64_t wanted_pages = 0;  // the others are bridges

  [[nodiscard]] std::uint64_t pages() const { return (end - start) / kPageBytes; }
};

struct ZeroCopyPlan {
  std::vector<ZeroCopyRange> ranges;  // by address
  ZeroCopyRefusals refused{};
};

// Of a process that does not change its memory meanwhile. Reads /proc/PID/maps and pagemap.
// kGone: it has ended. Thread-safe.
[[nodiscard]] Result<ZeroCopyPlan> plan_zero_copy(pid_t pid, const PageSet& wanted,
                                                  const ZeroCopyLimits& limits);

}  // namespace gestalt
