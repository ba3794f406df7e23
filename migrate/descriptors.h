// Open descriptors of processes, as /proc/PID/fd has them.
#pragma once

#include <sys/types.h>

#include <string>
#include <vector>

namespace gestalt {

struct Descriptor {
  pid_t pid = 0;
  std::string number;
  std::string target;  // of the link: a path, "pipe:[7]", "anon_inode:[eventfd]"

  [[nodiscard]] std::string text() const;  // for people
};

// Nothing of a process that has ended.
[[nodiscard]] std::vector<Descriptor> descriptors_of(const std::string& proc, pid_t pid);

}  // namespace gestalt
