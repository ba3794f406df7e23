#include "migrate/pagemap_scan.h"

#include <fcntl.h>
#include <linux/fs.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <span>

#include "common/format.h"

namespace gestalt {
namespace {

constexpr std::uint64_t kEntryPresent = 1ULL << 63;
constexpr std::uint64_t kEntrySwapped = 1ULL << 62;
constexpr std::uint64_t kEntrySoftDirty = 1ULL << 55;

// Always with PRESENT or SWAPPED: for WRITTEN alone the kernel takes a short cut that
// reports, and protects, also what is not there. No category is asked back, so that all
// neighbours are one region.
pm_scan_arg scan_request(PageQuery query, PageProtect protect) {
  pm_scan_arg request{};
  request.size = sizeof request;
  request.category_anyof_mask = PAGE_IS_PRESENT | PAGE_IS_SWAPPED;
  switch (query) {
    case PageQuery::kPresent:
      break;
    case PageQuery::kPresentNotZero:
      request.category_mask = request.category_inverted = PAGE_IS_PFNZERO;
      break;
    case PageQuery::kWritten:
      request.category_mask = PAGE_IS_WRITTEN;
      request.flags = PM_SCAN_CHECK_WPASYNC;
      break;
    case PageQuery::kSoftDirty:
      request.category_mask = PAGE_IS_SOFT_DIRTY;
      break;
  }
  if (protect == PageProtect::kYes) request.flags = PM_SCAN_CHECK_WPASYNC | PM_SCAN_WP_MATCHING;
  return request;
}

}  // namespace

Result<Pagemap> Pagemap::open(pid_t pid) {
  auto file = open_file(formatted("/proc/{}/pagemap", pid), O_RDONLY);
  if (!file && (file.error().code == ErrorCode::kNotFound || file.error().code == ErrorCode::kGone))
    return fail(ErrorCode::kGone, formatted("process {} does not exist", pid));
  if (!file) return std::unexpected(std::move(file).error());
  return Pagemap(std::move(*file));
}

Result<void> Pagemap::scan(std::uint64_t start, std::uint64_t end, PageQuery query,
                           PageProtect protect, PageSet& pages) const {
  std::array<page_region, 2048> regions;
  auto request = scan_request(query, protect);
  request.end = end;
  request.vec = reinterpret_cast<std::uint64_t>(regions.data());
  request.vec_len = regions.size();
  while (start < end) {
    request.start = start;
    int count = ::ioctl(file_.get(), PAGEMAP_SCAN, &request);
    if (count < 0 && errno == EINTR) continue;
    if (count < 0 && errno == ENOTTY && protect == PageProtect::kNo && query != PageQuery::kWritten)
      return read_entries(start, end, query, pages);
    if (count < 0) return fail_errno(errno, "scan a process's pages");
    for (const auto& region : std::span(regions).first(static_cast<std::size_t>(count)))
      pages.add(region.start, region.end);
    if (request.walk_end <= start) return fail(ErrorCode::kSystem, "a scan of pages stands still");
    start = request.walk_end;
  }
  return {};
}

Result<void> Pagemap::read_entries(std::uint64_t start, std::uint64_t end, PageQuery query,
                                   PageSet& pages) const {
  std::array<std::uint64_t, 8192> entries;
  while (start < end) {
    auto wanted = std::min<std::uint64_t>((end - start) / kPageBytes, entries.size());
    ssize_t count = ::pread(file_.get(), entries.data(), wanted * 8,
                            static_cast<off_t>(start / kPageBytes * 8));
    if (count < 0) return fail_errno(errno, "read a process's page map");
    if (count < 8) return {};  // nothing is mapped up there any more
    for (std::uint64_t entry : std::span(entries).first(static_cast<std::size_t>(count) / 8)) {
      bool there = (entry & (kEntryPresent | kEntrySwapped)) != 0;
      bool matches = query != PageQuery::kSoftDirty || (entry & kEntrySoftDirty) != 0;
      if (there && matches) pages.add(start, start + kPageBytes);
      start += kPageBytes;
    }
  }
  return {};
}

}  // namespace gestalt
