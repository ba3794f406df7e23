// The cluster's CPUs and NUMA nodes as sysfs shows one machine's: what takes the place of
// /sys/devices/system/cpu and /sys/devices/system/node. Pure; see docs/view.md for who
// mounts it.
#pragma once

#include <map>
#include <span>
#include <string>

#include "daemon/view/merged_files.h"

namespace gestalt {

struct SysEntry {
  enum class Kind { kDirectory, kFile, kSymlink };
  Kind kind = Kind::kDirectory;
  std::string text;  // a file's content or a link's target
  bool operator==(const SysEntry&) const = default;
};

// By path relative to /sys/devices/system ("cpu/cpu3/online"); a directory comes before
// what is in it.
using SysTree = std::map<std::string, SysEntry, std::less<>>;

// Node M is nodes[M], at most the kernel's 1,024. Each is one NUMA node and one package;
// its cores and their threads are as its cpuinfo has them. All its CPUs are online.
[[nodiscard]] SysTree build_sys_tree(std::span<const NodeFiles> nodes);

}  // namespace gestalt
