// Tracking by the kernel's soft-dirty bits, which it sets at a page's first write after they
// were cleared. Documentation/admin-guide/mm/soft-dirty.rst. They are read and cleared
// in two steps, so the process must stand still for both.
#pragma once

#include <cstdint>
#include <map>

#include "migrate/dirty_tracker.h"

namespace gestalt {

// Pages of a process that stands still; `all`: also those that were not written.
[[nodiscard]] Result<PageSet> read_soft_dirty(pid_t pid, bool all);
[[nodiscard]] Result<void> clear_soft_dirty(pid_t pid);

class SoftDirtyTracker final : public DirtyTracker {
 public:
  explicit SoftDirtyTracker(Cgroup& group) : group_(group) {}
  [[nodiscard]] std::string_view name() const override { return "soft-dirty"; }
  [[nodiscard]] Result<PageSet> harvest(pid_t pid) override;
  [[nodiscard]] Result<PageSet> harvest_frozen(pid_t pid) override;

 private:
  Cgroup& group_;
  std::map<pid_t, std::uint64_t> known_;  // by pid: when it started
};

}  // namespace gestalt
