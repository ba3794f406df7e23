#include "daemon/tasks.h"

#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <sstream>
#include <unordered_set>

#include "common/cgroup.h"
#include "common/fd.h"
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

bool is_keeper(const std::string& proc, pid_t pid) {
  auto stat = read_stat(proc, pid);
  if (!stat || stat->comm != "gestalt-ghosts") return false;
  auto owner = read_ids(proc, pid);
  return owner && owner->real_uid == 0;
}

std::vector<pid_t> children_of(const std::string& proc, pid_t pid) {
  std::vector<pid_t> children;
  auto text = read_file(std::format("{}/{}/task/{}/children", proc, pid, pid), 64U << 20);
  if (!text) return children;
  std::istringstream numbers(*text);
  for (pid_t child = 0; numbers >> child;) children.push_back(child);
  return children;
}

// The tasks of gestalt-ghosts, which only hold the pids of processes on other nodes.
struct Ghosts {
  pid_t keeper = 0;
  std::unordered_set<pid_t> pids;

  [[nodiscard]] bool contains(pid_t pid) const { return pids.contains(pid); }
  // One that has just been made.
  [[nodiscard]] bool is_new(const ProcessStat& stat) const {
    return keeper != 0 && stat.parent_pid == keeper;
  }
};

// All of them at once: there may be many more of them than there are processes here. Their
// keeper is a child of the cluster's init.
Ghosts ghosts_in(const std::string& proc) {
  for (pid_t child : children_of(proc, 1)) {
    if (!is_keeper(proc, child)) continue;
    auto ghosts = children_of(proc, child);
    return {.keeper = child, .pids = {ghosts.begin(), ghosts.end()}};
  }
  return {};
}

Error is_elsewhere(std::uint32_t pid) {
  return {ErrorCode::kGone, std::format("process {} runs on another node", pid), {}};
}

Result<wire::Task> describe(const TaskView& view, const ProcessStat& stat) {
  auto process = stat.pid;
  auto pid = static_cast<std::uint32_t>(process);
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
    return std::unexpected(is_elsewhere(pid));
  auto root = view.roots.find(task.job_id());
  task.set_is_root(root != view.roots.end() && root->second == pid);
  task.set_outside_slice(is_outside(view, pid, task.job_id()));
  return task;
}

}  // namespace

Result<wire::Task> read_task(const TaskView& view, std::uint32_t pid) {
  GESTALT_ASSIGN(auto stat, read_stat(view.proc, static_cast<pid_t>(pid)));
  if (is_keeper(view.proc, stat.parent_pid)) return std::unexpected(is_elsewhere(pid));
  return describe(view, stat);
}

Result<std::vector<wire::Task>> list_tasks(const TaskView& view) {
  GESTALT_ASSIGN(auto pids, list_pids(view.proc));
  std::sort(pids.begin(), pids.end());
  std::vector<wire::Task> tasks;
  auto ghosts = ghosts_in(view.proc);
  for (pid_t pid : pids) {
    if (ghosts.contains(pid)) continue;
    auto stat = read_stat(view.proc, pid);
    if (!stat || ghosts.is_new(*stat)) continue;
    if (auto task = describe(view, *stat)) tasks.push_back(std::move(*task));
  }
  return tasks;
}

Result<TaskCounts> count_tasks(const std::string& proc) {
  GESTALT_ASSIGN(auto pids, list_pids(proc));
  TaskCounts counts;
  auto ghosts = ghosts_in(proc);
  for (pid_t pid : pids) {
    if (ghosts.contains(pid)) continue;
    auto stat = read_stat(proc, pid);
    if (!stat || ghosts.is_new(*stat)) continue;
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

Clock::duration TaskCounter::interval_for(Clock::duration cost) {
  return std::min(cost * 50, kOldest);
}

Result<TaskCounts> TaskCounter::count(const std::string& proc) {
  auto began = Clock::now();
  if (proc == proc_ && began < due_) return last_;
  GESTALT_ASSIGN(last_, count_tasks(proc));
  proc_ = proc;
  due_ = began + interval_for(Clock::now() - began);
  return last_;
}

}  // namespace gestalt
