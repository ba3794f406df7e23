#include "migrate/preflight.h"

#include <algorithm>

#include "migrate/blockers.h"
#include "migrate/dirty_tracker.h"
#include "migrate/process_tree.h"
#include "migrate/state_dump.h"

namespace gestalt {

Result<wire::PreflightReport> preflight_report(pid_t root, const Cgroup* group,
                                               const UnitTies& ties,
                                               const wire::MigrationDestination& destination,
                                               bool any_cpu) {
  GESTALT_ASSIGN(auto tree, read_tree("/proc", root));
  std::vector<Blocker> blockers;
  if (group != nullptr) {
    GESTALT_ASSIGN(blockers, find_blockers("/proc", tree, *group, ties));
  } else {
    blockers = find_blockers("/proc", tree, ties);
  }
  std::ranges::copy(destination_blockers("/proc", tree, destination, any_cpu),
                    std::back_inserter(blockers));
  wire::PreflightReport report;
  for (const auto& blocker : blockers) {
    auto& out = *report.add_blockers();
    out.set_pid(static_cast<std::uint32_t>(blocker.pid));
    out.set_what(blocker.what);
    out.set_remedy(blocker.remedy);
  }
  auto bytes = anonymous_bytes("/proc", tree);
  report.set_resident_bytes(bytes);
  report.set_expected_bytes(bytes);
  report.set_processes(static_cast<std::uint32_t>(tree.pids.size()));
  report.set_threads(tree.threads);
  report.set_tracker(std::string(name_of(probe_tracker())));
  report.set_state_dump(std::string(name_of(known_state_dump())));
  return report;
}

}  // namespace gestalt
