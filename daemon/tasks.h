// What runs in the cluster pid namespace of a node, as users are told of it.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <set>
#include <string>
#include <vector>

#include "common/clock.h"
#include "common/proto/control.pb.h"
#include "common/result.h"
#include "daemon/sources/task_source.h"

namespace gestalt {

// What one needs to know to describe a node's tasks.
struct TaskView {
  std::string proc;  // a procfs of the cluster pid namespace
  std::string node;
  std::uint32_t pid_first = 0;  // the node's slice; 0: not assigned yet
  std::uint32_t pid_last = 0;
  std::map<std::uint64_t, std::uint32_t> roots;  // job id → pid of its root process
  // Jobs that run elsewhere, and their stand-ins here: as if they did not exist.
  std::set<std::uint64_t> departed_jobs;
  std::set<std::uint32_t> hidden_pids;
};

// kGone if the process does not exist (any more) or is hidden.
[[nodiscard]] Result<wire::Task> read_task(const TaskView& view, std::uint32_t pid);
// Processes that end meanwhile are left out.
[[nodiscard]] std::vector<wire::Task> describe_tasks(const TaskView& view,
                                                     const std::vector<TaskRecord>& records);

// Counts again and again, but spends no more than a fiftieth of the time with it, up to this
// age of what it says.
class TaskCounter {
 public:
  static constexpr Clock::duration kOldest = std::chrono::seconds(5);
  [[nodiscard]] static Clock::duration interval_for(Clock::duration cost);

  // `count` counts, in the namespace whose init is this.
  [[nodiscard]] Result<TaskCounts> count(pid_t init_pid,
                                         const std::function<Result<TaskCounts>()>& count);

 private:
  pid_t init_pid_ = 0;
  TaskCounts last_;
  Clock::time_point due_{};
};

}  // namespace gestalt
