#include "daemon/tasks.h"

#include <time.h>
#include <unistd.h>

#include <algorithm>

#include "common/cgroup.h"
#include "common/proc.h"

namespace gestalt {
namespace {

bool is_active(char state) { return state == 'R' || state == 'D'; }

double seconds_since_boot() {
  timespec now{};
  ::clock_gettime(CLOCK_BOOTTIME, &now);
  return static_cast<double>(now.tv_sec) + static_cast<double>(now.tv_nsec) / 1e9;
}

// A pid from elsewhere is fine in a job that moved here: its root's is from elsewhere too.
bool is_outside(const TaskView& view, std::uint32_t pid, std::uint64_t job_id) {
  auto outside = [&](std::uint32_t each) { return each < view.pid_first || each > view.pid_last; };
  if (view.pid_first == 0 || !outside(pid)) return false;
  auto root = view.roots.find(job_id);
  bool moved_here =
      job_id != 0 && root != view.roots.end() && root->second != 0 && outside(root->second);
  return !moved_here;
}

// A task of gestalt-ghosts that only holds the pid of a process on another node.
bool is_ghost(const std::string& proc, const ProcessStat& stat) {
  if (stat.comm != "ghost") return false;
  auto parent = read_stat(proc, stat.parent_pid);
  auto owner = read_ids(proc, stat.parent_pid);
  return parent && owner && parent->comm == "gestalt-ghosts" && owner->real_uid == 0;
}

}  // namespace

Result<wire::Task> read_task(const TaskView& view, std::uint32_t pid) {
  auto process = static_cast<pid_t>(pid);
  GESTALT_ASSIGN(auto stat, read_stat(view.proc, process));
  if (is_ghost(view.proc, stat))
    return fail(ErrorCode::kGone, std::format("process {} runs on another node", pid));
  GESTALT_ASSIGN(auto ids, read_ids(view.proc, process));
  static const auto ticks = static_cast<double>(::sysconf(_SC_CLK_TCK));
  static const auto page_bytes = static_cast<std::uint64_t>(::sysconf(_SC_PAGESIZE));
  wire::Task task;
  task.set_pid(pid);
  task.set_parent_pid(static_cast<std::uint32_t>(stat.parent_pid));
  task.set_node(view.node);
  task.set_uid(ids.real_uid);
  task.set_state(std::string(1, stat.state));
  task.set_threads(stat.threads);
  task.set_resident_bytes(stat.resident_pages * page_bytes);
  task.set_cpu_seconds(static_cast<double>(stat.user_ticks + stat.system_ticks) / ticks);
  double age = seconds_since_boot() - static_cast<double>(stat.start_ticks) / ticks;
  task.set_started_seconds_ago(std::max(age, 0.0));
  task.set_command(command_line(view.proc, process));
  if (auto path = cgroup_path(view.proc, process)) task.set_job_id(job_of_cgroup(*path));
  if (view.hidden_pids.contains(pid) || view.departed_jobs.contains(task.job_id()))
    return fail(ErrorCode::kGone, std::format("process {} runs on another node", pid));
  auto root = view.roots.find(task.job_id());
  task.set_is_root(root != view.roots.end() && root->second == pid);
  task.set_outside_slice(is_outside(view, pid, task.job_id()));
  return task;
}

Result<std::vector<wire::Task>> list_tasks(const TaskView& view) {
  GESTALT_ASSIGN(auto pids, list_pids(view.proc));
  std::sort(pids.begin(), pids.end());
  std::vector<wire::Task> tasks;
  tasks.reserve(pids.size());
  for (pid_t pid : pids)
    if (auto task = read_task(view, static_cast<std::uint32_t>(pid)))
      tasks.push_back(std::move(*task));
  return tasks;
}

Result<TaskCounts> count_tasks(const std::string& proc) {
  GESTALT_ASSIGN(auto pids, list_pids(proc));
  TaskCounts counts;
  for (pid_t pid : pids) {
    auto stat = read_stat(proc, pid);
    if (!stat || is_ghost(proc, *stat)) continue;
    ++counts.processes;
    if (stat->threads <= 1) {
      counts.active += is_active(stat->state) ? 1 : 0;
      continue;
    }
    std::string threads = std::format("{}/{}/task", proc, pid);
    auto ids = list_pids(threads);
    if (!ids) continue;
    for (pid_t id : *ids)
      if (auto thread = read_stat(threads, id)) counts.active += is_active(thread->state) ? 1 : 0;
  }
  return counts;
}

}  // namespace gestalt
