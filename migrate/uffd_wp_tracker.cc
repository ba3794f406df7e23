#include "migrate/uffd_wp_tracker.h"

#include <linux/userfaultfd.h>
#include <sys/ioctl.h>

#include <algorithm>
#include <cerrno>

#include "common/format.h"
#include "common/proc.h"
#include "migrate/injector.h"

namespace gestalt {
namespace {

// kGone for a process that has ended, also if its parent has not yet asked.
Result<std::uint64_t> start_of(pid_t pid) {
  GESTALT_ASSIGN(auto stat, read_stat("/proc", pid));
  if (stat.state == 'Z' && stat.threads > 1)
    return fail(ErrorCode::kBlocked, formatted("the main thread of process {} has ended", pid));
  if (stat.state == 'Z' || stat.state == 'X')
    return fail(ErrorCode::kGone, formatted("process {} has ended", pid));
  return stat.start_ticks;
}

Result<void> negotiate(int userfaultfd) {
  uffdio_api api{};
  api.api = UFFD_API;
  api.features =
      UFFD_FEATURE_WP_ASYNC | UFFD_FEATURE_WP_UNPOPULATED | UFFD_FEATURE_PAGEFAULT_FLAG_WP;
  if (::ioctl(userfaultfd, UFFDIO_API, &api) != 0)
    return fail(ErrorCode::kBlocked, "this kernel has no asynchronous write-protection",
                "Linux 6.7 or later");
  return {};
}

}  // namespace

Result<UffdWpTracker::Tracked*> UffdWpTracker::follow(pid_t pid) {
  auto start = start_of(pid);
  auto found = tracked_.find(pid);
  if (found != tracked_.end() && (!start || found->second.start_ticks != *start)) {
    tracked_.erase(found);
    found = tracked_.end();
  }
  if (!start) return std::unexpected(std::move(start).error());
  if (found != tracked_.end()) return &found->second;
  Tracked tracked;
  tracked.start_ticks = *start;
  auto userfaultfd = open_userfaultfd_of(pid);
  if (!userfaultfd) {
    // The thread that was stopped may have gone alone, or by another thread's exec.
    auto now = start_of(pid);
    if (userfaultfd.error().code == ErrorCode::kGone && now && *now == *start)
      userfaultfd.error() = {ErrorCode::kBusy, formatted("process {} is changing", pid),
                             "try again later"};
    return std::unexpected(std::move(userfaultfd).error());
  }
  tracked.userfaultfd = std::move(*userfaultfd);
  GESTALT_TRY(negotiate(tracked.userfaultfd.get()));
  return &tracked_.insert_or_assign(pid, std::move(tracked)).first->second;
}

Result<PageSet> UffdWpTracker::harvest(pid_t pid) {
  constexpr int kMostExecs = 10;
  constexpr int kMostDoubts = 2;
  for (int i = 0; i < kMostExecs; ++i) {
    GESTALT_ASSIGN(auto* tracked, follow(pid));
    GESTALT_ASSIGN(auto pages, harvest_tracked(pid, *tracked, i >= kMostDoubts));
    if (pages) return std::move(*pages);
    tracked_.erase(pid);
  }
  return fail(ErrorCode::kBusy, formatted("process {} runs one program after another", pid),
              "try again later");
}

Result<std::optional<PageSet>> UffdWpTracker::harvest_tracked(pid_t pid, Tracked& tracked,
                                                              bool insist) {
  GESTALT_ASSIGN(auto pagemap, Pagemap::open(pid));
  GESTALT_ASSIGN(auto areas, read_memory_map(pid));
  PageSet pages;
  std::vector<PageSet::Range> ours;
  for (const auto& area : areas) {
    if (!area.is_private_anonymous()) continue;
    GESTALT_ASSIGN(auto outcome, harvest_area(tracked, pagemap, area, insist, pages));
    if (outcome == Outcome::kForeign) return std::nullopt;
    if (outcome == Outcome::kTracked) ours.push_back({area.start, area.end});
  }
  tracked.ours = std::move(ours);
  return pages;
}

bool UffdWpTracker::overlaps(const Tracked& tracked, const MemoryArea& area) {
  auto found = std::ranges::upper_bound(tracked.ours, area.start, {}, &PageSet::Range::end);
  return found != tracked.ours.end() && found->start < area.end;
}

Result<UffdWpTracker::Outcome> UffdWpTracker::harvest_area(const Tracked& tracked,
                                                           const Pagemap& pagemap,
                                                           const MemoryArea& area, bool insist,
                                                           PageSet& pages) {
  auto harvest = [&](PageQuery query, PageProtect protect) {
    return pagemap.scan(area.start, area.end, query, protect, pages);
  };
  if (overlaps(tracked, area)) {
    auto scanned = harvest(PageQuery::kWritten, PageProtect::kYes);
    if (scanned) return Outcome::kTracked;
    if (scanned.error().code != ErrorCode::kPermission)
      return std::unexpected(std::move(scanned).error());
  }
  uffdio_register request{};
  request.range = {area.start, area.end - area.start};
  request.mode = UFFDIO_REGISTER_MODE_WP;
  if (::ioctl(tracked.userfaultfd.get(), UFFDIO_REGISTER, &request) == 0) {
    // All that is present, not just what is unprotected: kernels before 6.13 move pages by
    // mremap with their protection, which means nothing then.
    auto scanned = harvest(PageQuery::kPresent, PageProtect::kYes);
    if (scanned) return Outcome::kTracked;
    if (scanned.error().code != ErrorCode::kPermission)
      return std::unexpected(std::move(scanned).error());
    // Registered, but not here: the program before an exec, of which another process still
    // has the address space.
    if (!insist) return Outcome::kForeign;
  } else if (!insist && (errno == ESRCH || errno == ENOMEM)) {
    return Outcome::kForeign;  // ENOMEM is what the kernel says of an address space that is gone
  }
  // Registered by the process itself, or of a kind that cannot be, or gone: always written.
  GESTALT_TRY(harvest(PageQuery::kPresent, PageProtect::kNo));
  return Outcome::kUntracked;
}

Result<PageSet> UffdWpTracker::harvest_frozen(pid_t pid) {
  GESTALT_ASSIGN(auto start, start_of(pid));
  auto found = tracked_.find(pid);
  bool known = found != tracked_.end() && found->second.start_ticks == start;
  GESTALT_ASSIGN(auto pagemap, Pagemap::open(pid));
  GESTALT_ASSIGN(auto areas, read_memory_map(pid));
  PageSet pages;
  for (const auto& area : areas) {
    if (!area.is_private_anonymous()) continue;
    if (known && overlaps(found->second, area)) {
      auto scanned =
          pagemap.scan(area.start, area.end, PageQuery::kWritten, PageProtect::kNo, pages);
      if (scanned) continue;
      if (scanned.error().code != ErrorCode::kPermission)
        return std::unexpected(std::move(scanned).error());
    }
    GESTALT_TRY(pagemap.scan(area.start, area.end, PageQuery::kPresent, PageProtect::kNo, pages));
  }
  return pages;
}

}  // namespace gestalt
