#include "daemon/sources/proc_task_source.h"

#include <unistd.h>

#include <algorithm>
#include <sstream>

#include "common/cgroup.h"
#include "common/fd.h"
#include "common/format.h"
#include "common/proc.h"
#include "daemon/sources/ghost_tasks.h"

namespace gestalt {
namespace {

bool is_active(char state) { return state == 'R' || state == 'D'; }

Result<TaskRecord> record_of(const std::string& proc, const ProcessStat& stat) {
  static const auto ticks = static_cast<double>(::sysconf(_SC_CLK_TCK));
  static const auto page_bytes = static_cast<std::uint64_t>(::sysconf(_SC_PAGESIZE));
  GESTALT_ASSIGN(auto ids, read_ids(proc, stat.pid));
  TaskRecord record{
      .pid = static_cast<std::uint32_t>(stat.pid),
      .parent_pid = static_cast<std::uint32_t>(stat.parent_pid),
      .uid = ids.real_uid,
      .state = stat.state,
      .threads = stat.threads,
      .cpu_seconds = static_cast<double>(stat.user_ticks + stat.system_ticks) / ticks,
      .start_seconds = static_cast<double>(stat.start_ticks) / ticks,
      .resident_bytes = stat.resident_pages * page_bytes,
      .comm = stat.comm,
  };
  if (auto path = cgroup_path(proc, stat.pid)) record.job_id = job_of_cgroup(*path);
  return record;
}

std::uint32_t active_threads(const std::string& proc, const ProcessStat& stat) {
  if (stat.threads <= 1) return is_active(stat.state) ? 1 : 0;
  std::string threads = formatted("{}/{}/task", proc, stat.pid);
  std::uint32_t active = 0;
  for (pid_t id : list_pids(threads).value_or(std::vector<pid_t>()))
    if (auto thread = read_stat(threads, id)) active += is_active(thread->state) ? 1U : 0U;
  return active;
}

// Of all processes but ghosts.
Result<void> for_each_stat(const std::string& proc,
                           const std::function<void(const ProcessStat&)>& each) {
  GESTALT_ASSIGN(auto pids, list_pids(proc));
  std::ranges::sort(pids);
  auto ghosts = ghost_tasks(proc);
  for (pid_t pid : pids) {
    if (ghosts.contains(pid)) continue;
    auto stat = read_stat(proc, pid);
    if (stat && !ghosts.is_new(stat->parent_pid)) each(*stat);
  }
  return {};
}

}  // namespace

Result<Memory> parse_meminfo(const std::string& text) {
  std::istringstream lines(text);
  Memory memory;
  std::string key;
  std::uint64_t kilobytes = 0;
  std::string rest;
  while (lines >> key >> kilobytes && std::getline(lines, rest)) {
    if (key == "MemTotal:") memory.total_bytes = kilobytes * 1024;
    if (key == "MemAvailable:") memory.available_bytes = kilobytes * 1024;
  }
  if (memory.total_bytes == 0) return fail(ErrorCode::kProtocol, "meminfo without MemTotal");
  return memory;
}

Result<TaskRecord> read_task_record(const std::string& proc, pid_t pid) {
  GESTALT_ASSIGN(auto stat, read_stat(proc, pid));
  if (is_ghost_keeper(proc, stat.parent_pid))
    return fail(ErrorCode::kGone, formatted("process {} runs on another node", pid));
  return record_of(proc, stat);
}

Result<std::vector<TaskRecord>> ProcTaskSource::list(const ClusterPids& where) {
  std::vector<TaskRecord> records;
  GESTALT_TRY(for_each_stat(where.proc, [&](const ProcessStat& stat) {
    if (auto record = record_of(where.proc, stat)) records.push_back(std::move(*record));
  }));
  return records;
}

Result<std::vector<TaskGlimpse>> ProcTaskSource::glimpse(const ClusterPids& where) {
  GESTALT_ASSIGN(auto pids, list_pids(where.proc));
  std::ranges::sort(pids);
  std::vector<TaskGlimpse> glimpses;
  glimpses.reserve(pids.size());
  for (pid_t pid : pids) glimpses.push_back({.pid = static_cast<std::uint32_t>(pid)});
  return glimpses;
}

Result<TaskCounts> ProcTaskSource::count(const ClusterPids& where) {
  TaskCounts counts;
  GESTALT_TRY(for_each_stat(where.proc, [&](const ProcessStat& stat) {
    ++counts.processes;
    counts.active += active_threads(where.proc, stat);
  }));
  return counts;
}

Result<LoadSample> ProcTaskSource::load() {
  LoadSample load;
  if (auto text = read_file("/proc/loadavg", 4096))
    std::istringstream(*text) >> load.load_average_1;
  GESTALT_ASSIGN(auto text, read_file("/proc/meminfo"));
  GESTALT_ASSIGN(auto memory, parse_meminfo(text));
  load.memory_total_bytes = memory.total_bytes;
  load.memory_available_bytes = memory.available_bytes;
  return load;
}

}  // namespace gestalt
