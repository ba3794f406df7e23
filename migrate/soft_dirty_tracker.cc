#include "migrate/soft_dirty_tracker.h"

#include "common/format.h"
#include "common/proc.h"
#include "migrate/memory_map.h"
#include "migrate/pagemap_scan.h"

namespace gestalt {
namespace {

constexpr auto kFreezeTimeout = std::chrono::seconds(5);

// Frozen while it lives, unless it was already.
class FrozenMoment {
 public:
  static Result<FrozenMoment> begin(Cgroup& group) {
    if (group.frozen()) return FrozenMoment(nullptr);
    FrozenMoment moment(&group);
    GESTALT_TRY(group.freeze(deadline_in(kFreezeTimeout)));
    return moment;
  }
  FrozenMoment(FrozenMoment&& other) noexcept : group_(std::exchange(other.group_, nullptr)) {}
  FrozenMoment& operator=(FrozenMoment&&) = delete;
  ~FrozenMoment() {
    if (group_ != nullptr) (void)group_->thaw(deadline_in(kFreezeTimeout));
  }

 private:
  explicit FrozenMoment(Cgroup* group) : group_(group) {}
  Cgroup* group_;
};

}  // namespace

Result<PageSet> read_soft_dirty(pid_t pid, bool all) {
  GESTALT_ASSIGN(auto pagemap, Pagemap::open(pid));
  GESTALT_ASSIGN(auto areas, read_memory_map(pid));
  PageSet pages;
  for (const auto& area : areas)
    if (area.is_private_anonymous())
      GESTALT_TRY(pagemap.scan(area.start, area.end,
                               all ? PageQuery::kPresent : PageQuery::kSoftDirty, PageProtect::kNo,
                               pages));
  return pages;
}

Result<void> clear_soft_dirty(pid_t pid) {
  return write_control_file(formatted("/proc/{}/clear_refs", pid), "4");
}

Result<PageSet> SoftDirtyTracker::harvest(pid_t pid) {
  GESTALT_ASSIGN(auto moment, FrozenMoment::begin(group_));
  GESTALT_ASSIGN(auto pages, harvest_frozen(pid));
  GESTALT_TRY(clear_soft_dirty(pid));
  GESTALT_ASSIGN(auto stat, read_stat("/proc", pid));
  known_[pid] = stat.start_ticks;
  return pages;
}

Result<PageSet> SoftDirtyTracker::harvest_frozen(pid_t pid) {
  auto stat = read_stat("/proc", pid);
  if (!stat || stat->state == 'Z' || stat->state == 'X') {
    known_.erase(pid);
    return fail(ErrorCode::kGone, formatted("process {} has ended", pid));
  }
  auto found = known_.find(pid);
  return read_soft_dirty(pid, found == known_.end() || found->second != stat->start_ticks);
}

}  // namespace gestalt
