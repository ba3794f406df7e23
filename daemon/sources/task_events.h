// What processes of this node do, as it happens: told by the kernel module, or by the kernel's
// proc connector. Both tell when something was lost; then only a look at everything helps.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <vector>

#include "common/result.h"

namespace gestalt {

// Of a process; those of threads are left out. An exit may be told more than once, before its pid
// is free, if its last threads end at the same moment.
struct TaskEvent {
  enum class Kind { kFork, kExec, kExit };
  Kind kind{};
  pid_t pid = 0;                      // in the node's initial pid namespace; of a fork, the child
  std::uint32_t namespace_inode = 0;  // of the pid namespace it is in; 0: not known
  std::uint32_t namespace_level = 0;  // below the initial one; where the inode is known
};

struct TaskNews {
  std::vector<TaskEvent> events;  // no effect before its cause
  bool lost = false;              // there was more
};

// Tells from when it was opened. Not thread-safe.
class TaskEvents {
 public:
  // Messages in one take(): a storm of forks must not keep the reader from its other work.
  static constexpr int kMostMessages = 64;

  virtual ~TaskEvents() = default;
  [[nodiscard]] virtual const char* name() const = 0;
  // Readable while there is something to take(). Stays this object's.
  [[nodiscard]] virtual int descriptor() const = 0;
  // Does not wait. An error: this source is of no use any more.
  [[nodiscard]] virtual Result<TaskNews> take() = 0;
};

struct PidNamespace {
  std::uint32_t inode = 0;  // 0: not known
  std::uint32_t level = 0;  // below that of this process's procfs
};

// `proc`: a procfs that has the process `pid`, as /proc.
[[nodiscard]] Result<PidNamespace> pid_namespace_of(const std::string& proc, pid_t pid);

// Whether something may have happened in it. Namespaces are told apart by inode; one that is
// deeper may be below it.
[[nodiscard]] bool concerns(const TaskNews& news, const PidNamespace& where);

}  // namespace gestalt
