// The node's eyes: what runs in the cluster pid namespace, and how busy the node is. Two
// sources say the same: the kernel module by a few messages, and /proc by some files for each
// process.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "common/result.h"

namespace gestalt {

// How to find the cluster pid namespace of this node.
struct ClusterPids {
  std::string proc;    // a procfs of it
  pid_t init_pid = 0;  // its init, as this process's own namespace has it
};

// A process. Pids are of the cluster pid namespace.
struct TaskRecord {
  std::uint32_t pid = 0;
  std::uint32_t parent_pid = 0;  // 0: none there
  std::uint32_t uid = 0;         // real
  char state = '?';              // as in /proc/PID/stat
  std::uint32_t threads = 0;
  double cpu_seconds = 0;
  double start_seconds = 0;  // since boot
  std::uint64_t resident_bytes = 0;
  std::string comm;
  std::uint64_t job_id = 0;
};

// A process, and a number that is another one when what /proc says of it has changed; 0: to be
// found out there.
struct TaskGlimpse {
  std::uint32_t pid = 0;
  std::uint64_t signature = 0;
};

struct TaskCounts {
  std::uint32_t processes = 0;  // without ghosts
  std::uint32_t active = 0;     // threads that run, want to, or wait for a device
};

struct LoadSample {
  double load_average_1 = 0;
  std::uint64_t memory_total_bytes = 0;
  std::uint64_t memory_available_bytes = 0;
};

// Not thread-safe. kUnavailable: this source is of no use any more.
class TaskSource {
 public:
  virtual ~TaskSource() = default;
  [[nodiscard]] virtual const char* name() const = 0;
  // By pid; without ghosts (daemon/ghosts), and without those that end meanwhile.
  [[nodiscard]] virtual Result<std::vector<TaskRecord>> list(const ClusterPids& where) = 0;
  // By pid, ghosts too.
  [[nodiscard]] virtual Result<std::vector<TaskGlimpse>> glimpse(const ClusterPids& where) = 0;
  [[nodiscard]] virtual Result<TaskCounts> count(const ClusterPids& where) = 0;
  [[nodiscard]] virtual Result<LoadSample> load() = 0;
};

}  // namespace gestalt
