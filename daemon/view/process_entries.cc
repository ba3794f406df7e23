#include "daemon/view/process_entries.h"

#include <algorithm>
#include <array>

namespace gestalt {
namespace {

constexpr mode_t kAll = S_IFREG | 0444;
constexpr mode_t kOwner = S_IFREG | 0400;
constexpr mode_t kLink = S_IFLNK | 0777;
constexpr mode_t kOwnersDirectory = S_IFDIR | 0500;

constexpr std::array kEntries = {
    ProcessEntry{.name = "stat", .mode = kAll, .pushed = TaskFile::kStat},
    ProcessEntry{.name = "status", .mode = kAll, .pushed = TaskFile::kStatus},
    ProcessEntry{.name = "statm", .mode = kAll, .pushed = TaskFile::kStatm},
    ProcessEntry{.name = "cmdline", .mode = kAll, .pushed = TaskFile::kCmdline},
    ProcessEntry{.name = "cgroup", .mode = kAll, .pushed = TaskFile::kCgroup},
    ProcessEntry{.name = "environ", .mode = kOwner, .pushed = TaskFile::kEnviron},
    ProcessEntry{.name = "comm", .mode = kAll, .made_here = true},
    ProcessEntry{.name = "attr", .mode = S_IFDIR | 0555, .made_here = true},
    ProcessEntry{.name = "auxv", .mode = kOwner},
    ProcessEntry{.name = "autogroup", .mode = kAll, .in_task = false},
    ProcessEntry{.name = "cpuset", .mode = kAll},
    ProcessEntry{.name = "cwd", .mode = kLink},
    ProcessEntry{.name = "exe", .mode = kLink},
    ProcessEntry{.name = "fd", .mode = kOwnersDirectory},
    ProcessEntry{.name = "fdinfo", .mode = kOwnersDirectory},
    ProcessEntry{.name = "io", .mode = kOwner},
    ProcessEntry{.name = "limits", .mode = kAll},
    ProcessEntry{.name = "loginuid", .mode = kAll},
    ProcessEntry{.name = "maps", .mode = kOwner},
    ProcessEntry{.name = "mountinfo", .mode = kOwner},
    ProcessEntry{.name = "mounts", .mode = kOwner},
    ProcessEntry{.name = "ns", .mode = kOwnersDirectory},
    ProcessEntry{.name = "numa_maps", .mode = kOwner},
    ProcessEntry{.name = "oom_adj", .mode = kAll},
    ProcessEntry{.name = "oom_score", .mode = kAll},
    ProcessEntry{.name = "oom_score_adj", .mode = kAll},
    ProcessEntry{.name = "personality", .mode = kOwner},
    ProcessEntry{.name = "root", .mode = kLink},
    ProcessEntry{.name = "sched", .mode = kAll},
    ProcessEntry{.name = "schedstat", .mode = kAll},
    ProcessEntry{.name = "sessionid", .mode = kAll},
    ProcessEntry{.name = "smaps", .mode = kOwner},
    ProcessEntry{.name = "smaps_rollup", .mode = kOwner, .in_task = false},
    ProcessEntry{.name = "syscall", .mode = kOwner},
    ProcessEntry{.name = "task", .mode = S_IFDIR | 0555, .in_task = false},
    ProcessEntry{.name = "timerslack_ns", .mode = kOwner, .in_task = false},
    ProcessEntry{.name = "wchan", .mode = kAll, .made_here = true},
};

}  // namespace

std::span<const ProcessEntry> process_entries() { return kEntries; }

std::optional<std::size_t> find_process_entry(std::string_view name) {
  auto found = std::ranges::find(kEntries, name, &ProcessEntry::name);
  if (found == kEntries.end()) return std::nullopt;
  return static_cast<std::size_t>(found - kEntries.begin());
}

std::string_view comm_of_stat(std::string_view stat) {
  auto begin = stat.find('(');
  auto end = stat.rfind(')');
  if (begin == std::string_view::npos || end == std::string_view::npos || end <= begin) return {};
  return stat.substr(begin + 1, end - begin - 1);
}

}  // namespace gestalt
