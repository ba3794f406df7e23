// What a process's files on its own node say, in the terms of the leader's view: CPUs and
// NUMA nodes by the cluster's numbers, times since the leader's boot. Run for thousands of
// processes each second.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

namespace gestalt {

struct TaskPlace {
  std::string_view node;
  std::uint32_t node_index = 0;
  // The node's CPU n, counted modulo cpus since a container runs on more than it has, is
  // the cluster's first_cpu + n.
  std::uint32_t first_cpu = 0;
  std::uint32_t cpus = 0;
  // The node's boot time less the leader's. Added to a time since the node's boot it gives
  // one since the leader's.
  std::int64_t boot_difference_ticks = 0;
};

// /proc/PID/stat and /proc/PID/task/TID/stat: the processor and the start time, which is
// at least 0. Anything that is no such line is returned as it is.
[[nodiscard]] std::string localize_stat(std::string_view stat, const TaskPlace& place);

// /proc/PID/stat as the kernel gives it to those who may not trace the process: without
// addresses and the exit status (fs/proc/array.c, do_task_stat).
[[nodiscard]] std::string without_addresses(std::string stat);

// /proc/PID/status: Cpus_allowed and Mems_allowed, both also as lists. A mask that makes
// no sense becomes all of the node's CPUs.
[[nodiscard]] std::string localize_status(std::string_view status, const TaskPlace& place);

// /proc/PID/cgroup as "0::/lxc/NODE/path", so that `ps -o lxc` prints the node. Other
// hierarchies than cgroup v2 are left out: ps would take a container's name from them.
[[nodiscard]] std::string node_cgroup(std::string_view cgroup, std::string_view node);

}  // namespace gestalt
