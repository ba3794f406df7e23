// Which pages of running processes were written, for pre-copy rounds. One tracker for
// all processes of a migration unit. Not thread-safe.
#pragma once

#include <sys/types.h>

#include <memory>
#include <string>
#include <string_view>

#include "common/cgroup.h"
#include "common/result.h"
#include "migrate/page_set.h"

namespace gestalt {

class DirtyTracker {
 public:
  // Ends the tracking of every process; nothing of it is left in them.
  virtual ~DirtyTracker() = default;
  [[nodiscard]] virtual std::string_view name() const = 0;
  // Private anonymous pages of a running process that are present (or swapped out) and
  // were written since this process's last harvest; all that are present at the first.
  // From here on the next interval counts. A page that is written while this runs is in
  // this result or the next, perhaps in both. New, moved and unmapped mappings and an
  // exec are taken care of. kGone: the process has ended. kBlocked: it cannot be tracked.
  [[nodiscard]] virtual Result<PageSet> harvest(pid_t pid) = 0;
  // The same of a process that is frozen, for the last time: nothing is protected anew.
  // Of a process that was never harvested: all present pages.
  [[nodiscard]] virtual Result<PageSet> harvest_frozen(pid_t pid) = 0;
};

enum class TrackerKind { kNone, kSoftDirty, kUserfaultWriteProtect };
[[nodiscard]] std::string_view name_of(TrackerKind kind);  // "none" "soft-dirty" "uffd-wp"

// The better one that this kernel has; asked once (a test on a child of ours), then remembered.
[[nodiscard]] TrackerKind probe_tracker();

// `group` holds the processes; soft-dirty must stop them for a moment at each harvest.
// kBlocked for kNone.
[[nodiscard]] Result<std::unique_ptr<DirtyTracker>> make_dirty_tracker(TrackerKind kind,
                                                                       Cgroup& group);

}  // namespace gestalt
