// The mappings of a process, as /proc/PID/maps lists them. proc(5).
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "common/result.h"

namespace gestalt {

struct MemoryArea {
  std::uint64_t start = 0;
  std::uint64_t end = 0;
  std::string permissions;  // "rw-p"
  std::uint64_t offset = 0;
  std::string device;  // "fe:00"
  std::uint64_t inode = 0;
  std::string name;  // path, "[heap]", or empty

  [[nodiscard]] bool is_private() const { return permissions[3] == 'p'; }
  [[nodiscard]] bool is_executable() const { return permissions[2] == 'x'; }
  // Private memory without a file: heap, stacks, MAP_ANONYMOUS. Not what the kernel
  // itself put there ([vdso]), nor huge pages (whose name is /anon_hugepage).
  [[nodiscard]] bool is_private_anonymous() const;
};

[[nodiscard]] Result<MemoryArea> parse_memory_area(std::string_view line);
[[nodiscard]] Result<std::vector<MemoryArea>> parse_memory_map(std::string_view text);
// Empty for a process that is exiting; kGone for one that does not exist.
[[nodiscard]] Result<std::vector<MemoryArea>> read_memory_map(pid_t pid);

}  // namespace gestalt
