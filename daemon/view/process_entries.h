// What there is in /proc/PID of a process on another node, and how it comes here.
#pragma once

#include <sys/stat.h>

#include <cstdint>
#include <optional>
#include <span>
#include <string_view>

#include "daemon/view/cluster_model.h"

namespace gestalt {

struct ProcessEntry {
  std::string_view name;
  mode_t mode = 0;  // with the type
  std::optional<TaskFile> pushed = std::nullopt;
  bool made_here = false;  // comm, attr: from what is pushed
  bool in_task = true;     // also in /proc/PID/task/TID
};

// Modes are the kernel's (fs/proc/base.c), with one difference: where the kernel lets
// everybody open a file and then gives it only to those who may trace the process, the file
// is its owner's alone.
[[nodiscard]] std::span<const ProcessEntry> process_entries();
// An index into process_entries().
[[nodiscard]] std::optional<std::size_t> find_process_entry(std::string_view name);

// "name" of "pid (name) S ...".
[[nodiscard]] std::string_view comm_of_stat(std::string_view stat);

}  // namespace gestalt
