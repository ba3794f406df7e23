// Tracking by userfaultfd's asynchronous write-protection (Linux 6.7): the kernel itself
// lifts a page's protection at the first write to it, and nobody has to answer.
//
// Each process gets a userfaultfd, of which only we have a descriptor. Every private
// anonymous area is registered with it; a harvest asks for the pages that are not
// protected and protects them in the same step. What is new (mmap, mremap, brk, an exec)
// has no registration, and its pages no protection: all of them count as written.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <vector>

#include "migrate/dirty_tracker.h"
#include "migrate/memory_map.h"
#include "migrate/pagemap_scan.h"

namespace gestalt {

class UffdWpTracker final : public DirtyTracker {
 public:
  [[nodiscard]] std::string_view name() const override { return "uffd-wp"; }
  [[nodiscard]] Result<PageSet> harvest(pid_t pid) override;
  [[nodiscard]] Result<PageSet> harvest_frozen(pid_t pid) override;

 private:
  struct Tracked {
    Fd userfaultfd;
    std::uint64_t start_ticks = 0;     // another process may get the pid
    std::vector<PageSet::Range> ours;  // registered, as of the last harvest; ascending
  };
  [[nodiscard]] Result<Tracked*> follow(pid_t pid);
  // Nothing: the process has exchanged its address space. `insist`: an area that cannot be
  // tracked is no sign of that any more, it counts as written.
  [[nodiscard]] Result<std::optional<PageSet>> harvest_tracked(pid_t pid, Tracked& tracked,
                                                               bool insist);
  enum class Outcome { kTracked, kUntracked, kForeign };
  [[nodiscard]] static Result<Outcome> harvest_area(const Tracked& tracked, const Pagemap& pagemap,
                                                    const MemoryArea& area, bool insist,
                                                    PageSet& pages);
  [[nodiscard]] static bool overlaps(const Tracked& tracked, const MemoryArea& area);

  std::map<pid_t, Tracked> tracked_;
};

}  // namespace gestalt
