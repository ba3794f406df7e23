// What runs in the cluster pid namespace of a node, read from its procfs.
#pragma once

#include <cstdint>
#include <map>
#include <set>
#include <string>
#include <vector>

#include "common/clock.h"
#include "common/proto/control.pb.h"
#include "common/result.h"

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
// Processes that end while they are read are left out.
[[nodiscard]] Result<std::vector<wire::Task>> list_tasks(const TaskView& view);

struct TaskCounts {
  std::uint32_t processes = 0;
  std::uint32_t active = 0;  // threads that run, want to, or wait for a device
};
[[nodiscard]] Result<TaskCounts> count_tasks(const std::string& proc);

// Counts again and again, but spends no more than a fiftieth of the time with it, up to this
// age of what it says.
class TaskCounter {
 public:
  static constexpr Clock::duration kOldest = std::chrono::seconds(5);
  [[nodiscard]] static Clock::duration interval_for(Clock::duration cost);

  [[nodiscard]] Result<TaskCounts> count(const std::string& proc);

 private:
  std::string proc_;
  TaskCounts last_;
  Clock::time_point due_{};
};

}  // namespace gestalt
