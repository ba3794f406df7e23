#include "migrate/preflight.h"

#include <sstream>

#include "common/fd.h"
#include "migrate/blockers.h"
#include "migrate/dirty_tracker.h"
#include "migrate/process_tree.h"
#include "migrate/state_dump.h"

namespace gestalt {
namespace {

// Private anonymous memory, in RAM or swapped out.
std::uint64_t anonymous_bytes(pid_t pid) {
  auto text = read_file(std::format("/proc/{}/status", pid));
  if (!text) return 0;  // it has ended
  std::uint64_t kib = 0;
  std::istringstream lines(*text);
  for (std::string key; lines >> key;) {
    std::uint64_t value = 0;
    if ((key == "RssAnon:" || key == "VmSwap:") && lines >> value) kib += value;
    lines.ignore(1 << 16, '\n');
  }
  return kib * 1024;
}

}  // namespace

Result<wire::PreflightReport> preflight_report(pid_t root, const Cgroup& group) {
  GESTALT_ASSIGN(auto tree, read_tree("/proc", root));
  GESTALT_ASSIGN(auto blockers, find_blockers("/proc", tree, group));
  wire::PreflightReport report;
  for (const auto& blocker : blockers) {
    auto& out = *report.add_blockers();
    out.set_pid(static_cast<std::uint32_t>(blocker.pid));
    out.set_what(blocker.what);
    out.set_remedy(blocker.remedy);
  }
  std::uint64_t bytes = 0;
  for (pid_t pid : tree.pids) bytes += anonymous_bytes(pid);
  report.set_resident_bytes(bytes);
  report.set_expected_bytes(bytes);
  report.set_processes(static_cast<std::uint32_t>(tree.pids.size()));
  report.set_threads(tree.threads);
  report.set_tracker(std::string(name_of(probe_tracker())));
  report.set_state_dump(std::string(name_of(known_state_dump())));
  return report;
}

}  // namespace gestalt
