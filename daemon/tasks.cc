#include "daemon/tasks.h"

#include <time.h>

#include <algorithm>

#include "common/format.h"
#include "common/proc.h"
#include "daemon/sources/proc_task_source.h"

namespace gestalt {
namespace {

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

Error is_elsewhere(std::uint32_t pid) {
  return {ErrorCode::kGone, formatted("process {} runs on another node", pid), {}};
}

Result<wire::Task> describe(const TaskView& view, const TaskRecord& record) {
  wire::Task task;
  task.set_pid(record.pid);
  task.set_parent_pid(record.parent_pid);
  task.set_node(view.node);
  task.set_uid(record.uid);
  task.set_state(std::string(1, record.state));
  task.set_threads(record.threads);
  task.set_resident_bytes(record.resident_bytes);
  task.set_cpu_seconds(record.cpu_seconds);
  task.set_started_seconds_ago(std::max(seconds_since_boot() - record.start_seconds, 0.0));
  task.set_job_id(record.job_id);
  if (view.hidden_pids.contains(record.pid) || view.departed_jobs.contains(record.job_id))
    return std::unexpected(is_elsewhere(record.pid));
  task.set_command(command_line(view.proc, static_cast<pid_t>(record.pid)));
  auto root = view.roots.find(task.job_id());
  task.set_is_root(root != view.roots.end() && root->second == record.pid);
  task.set_outside_slice(is_outside(view, record.pid, task.job_id()));
  return task;
}

}  // namespace

Result<wire::Task> read_task(const TaskView& view, std::uint32_t pid) {
  GESTALT_ASSIGN(auto record, read_task_record(view.proc, static_cast<pid_t>(pid)));
  return describe(view, record);
}

std::vector<wire::Task> describe_tasks(const TaskView& view,
                                       const std::vector<TaskRecord>& records) {
  std::vector<wire::Task> tasks;
  for (const auto& record : records)
    if (auto task = describe(view, record)) tasks.push_back(std::move(*task));
  return tasks;
}

Clock::duration TaskCounter::interval_for(Clock::duration cost) {
  return std::min(cost * 50, kOldest);
}

Result<TaskCounts> TaskCounter::count(pid_t init_pid,
                                      const std::function<Result<TaskCounts>()>& count) {
  auto began = Clock::now();
  if (init_pid == init_pid_ && began < due_) return last_;
  GESTALT_ASSIGN(last_, count());
  init_pid_ = init_pid;
  due_ = began + interval_for(Clock::now() - began);
  return last_;
}

}  // namespace gestalt
