// The mappings of a process, as /proc/PID/maps lists them. proc(5).
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "common/fd.h"
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

// For some areas of many: the kernel is asked for each (PROCMAP_QUERY, Linux 6.11), or, where it
// cannot answer, the whole list is read once. Not thread-safe.
class MemoryMap {
 public:
  // kGone: the process does not exist.
  [[nodiscard]] static Result<MemoryMap> open(pid_t pid);
  // The area that contains the address, or else the next one behind it; none: there is no more.
  // kGone: the process has ended.
  [[nodiscard]] Result<std::optional<MemoryArea>> find(std::uint64_t address);

 private:
  MemoryMap(pid_t pid, Fd file) : pid_(pid), file_(std::move(file)) {}
  pid_t pid_;
  Fd file_;
  std::vector<MemoryArea> areas_;  // all, once they have been read
};

}  // namespace gestalt
