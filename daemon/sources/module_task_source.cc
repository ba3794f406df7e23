#include "daemon/sources/module_task_source.h"

#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <format>
#include <string_view>

#include "common/cgroup.h"
#include "common/proc.h"
#include "daemon/sources/ghost_tasks.h"

namespace gestalt {
namespace {

constexpr double kNanoseconds = 1e9;
// Control groups come and go with jobs.
constexpr std::size_t kMostGroups = 10'000;

std::string_view comm_of(const gestalt_task& task) {
  const auto* name = reinterpret_cast<const char*>(task.comm);
  return {name, ::strnlen(name, sizeof task.comm)};
}

// In the ticks of /proc: what is less is not seen there.
std::uint64_t ticks_of(std::uint64_t nanoseconds) {
  static const auto each =
      static_cast<std::uint64_t>(kNanoseconds) / static_cast<std::uint64_t>(::sysconf(_SC_CLK_TCK));
  return nanoseconds / each;
}

std::uint64_t signature_of(gestalt_task task) {
  for (auto* time : {&task.utime_ns, &task.stime_ns, &task.cutime_ns, &task.cstime_ns})
    *time = ticks_of(*time);
  auto hash = std::hash<std::string_view>{}({reinterpret_cast<const char*>(&task), sizeof task});
  return hash == 0 ? 1 : hash;
}

bool is_keeper(const gestalt_task& task) {
  return task.ppid == 1 && task.uid == 0 && comm_of(task) == kGhostKeeperName;
}

}  // namespace

std::uint64_t ModuleTaskSource::job_of(const ClusterPids& where, const gestalt_task& task) {
  auto known = task.cgroup_id == 0 ? jobs_.end() : jobs_.find(task.cgroup_id);
  if (known != jobs_.end()) return known->second;
  auto path = cgroup_path(where.proc, static_cast<pid_t>(task.tgid));
  if (!path) return 0;
  auto job_id = job_of_cgroup(*path);
  if (jobs_.size() > kMostGroups) jobs_.clear();
  if (task.cgroup_id != 0) jobs_[task.cgroup_id] = job_id;
  return job_id;
}

Result<std::vector<TaskRecord>> ModuleTaskSource::list(const ClusterPids& where) {
  std::vector<gestalt_task> tasks;
  GESTALT_TRY(
      client_.tasks(where.init_pid, [&](const gestalt_task& task) { tasks.push_back(task); }));
  std::uint32_t keeper = 0;
  for (const auto& task : tasks)
    if (is_keeper(task)) keeper = task.pid;
  std::vector<TaskRecord> records;
  records.reserve(tasks.size());
  for (const auto& task : tasks) {
    if (keeper != 0 && task.ppid == keeper) continue;
    records.push_back({
        .pid = task.pid,
        .parent_pid = task.ppid,
        .uid = task.uid,
        .state = static_cast<char>(task.state),
        .threads = task.threads,
        .cpu_seconds = static_cast<double>(task.utime_ns + task.stime_ns) / kNanoseconds,
        .start_seconds = static_cast<double>(task.start_boottime_ns) / kNanoseconds,
        .resident_bytes = task.rss_anon_bytes + task.rss_file_bytes + task.rss_shmem_bytes,
        .comm = std::string(comm_of(task)),
        .job_id = job_of(where, task),
    });
  }
  return records;
}

Result<std::vector<TaskGlimpse>> ModuleTaskSource::glimpse(const ClusterPids& where) {
  std::vector<TaskGlimpse> glimpses;
  GESTALT_TRY(client_.tasks(where.init_pid, [&](const gestalt_task& task) {
    glimpses.push_back({.pid = task.pid, .signature = signature_of(task)});
  }));
  return glimpses;
}

Result<TaskCounts> ModuleTaskSource::count(const ClusterPids& where) {
  GESTALT_ASSIGN(auto counts, client_.counts(where.init_pid));
  auto ghosts = static_cast<std::uint32_t>(ghost_tasks(where.proc).pids.size());
  return TaskCounts{.processes = counts.processes - std::min(ghosts, counts.processes),
                    .active = counts.runnable + counts.uninterruptible};
}

Result<LoadSample> ModuleTaskSource::load() {
  GESTALT_ASSIGN(auto load, client_.load());
  return LoadSample{.load_average_1 = static_cast<double>(load.load_1[0]) /
                                      static_cast<double>(std::max(load.load_scale, 1U)),
                    .memory_total_bytes = load.memory_total_bytes,
                    .memory_available_bytes = load.memory_available_bytes};
}

}  // namespace gestalt
