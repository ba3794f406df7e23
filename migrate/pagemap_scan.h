// Asking the kernel about the pages of a process: PAGEMAP_SCAN (since 6.7), and the older
// /proc/PID/pagemap. Documentation/admin-guide/mm/pagemap.rst.
#pragma once

#include <sys/types.h>

#include <cstdint>

#include "common/fd.h"
#include "common/result.h"
#include "migrate/page_set.h"

namespace gestalt {

// Which pages a scan is for. All of them are present or swapped out.
enum class PageQuery {
  kPresent,         // all
  kPresentNotZero,  // without those that map the kernel's page of zeros, where it says so
  kWritten,         // not write-protected by userfaultfd
  kSoftDirty,       // written since the process's soft-dirty bits were cleared
};

enum class PageProtect { kNo, kYes };  // by userfaultfd, in the same step

class Pagemap {
 public:
  // It stays that of the program which the process runs now, also over an exec.
  [[nodiscard]] static Result<Pagemap> open(pid_t pid);

  // Adds the pages of [start, end) to `pages`. kWritten, and protecting, is for areas that
  // are registered with an asynchronous userfaultfd: another is kPermission.
  [[nodiscard]] Result<void> scan(std::uint64_t start, std::uint64_t end, PageQuery query,
                                  PageProtect protect, PageSet& pages) const;

 private:
  explicit Pagemap(Fd file) : file_(std::move(file)) {}
  [[nodiscard]] Result<void> read_entries(std::uint64_t start, std::uint64_t end, PageQuery query,
                                          PageSet& pages) const;

  Fd file_;
};

}  // namespace gestalt
