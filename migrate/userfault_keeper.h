// A child process that holds copies of userfaultfds. When the last copy of one is closed,
// the kernel gives zero pages for whatever is still missing: a crash of the process that
// brings the pages would silently corrupt the tasks. With a keeper they wait instead,
// until they are killed. Thread-safe.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <mutex>

#include "common/fd.h"
#include "common/result.h"

namespace gestalt {

class UserfaultKeeper {
 public:
  UserfaultKeeper() = default;
  UserfaultKeeper(const UserfaultKeeper&) = delete;
  UserfaultKeeper& operator=(const UserfaultKeeper&) = delete;
  ~UserfaultKeeper();  // lets all go and reaps the child

  // `cgroup_directory`: of the tasks. If this process dies, the child goes once nobody is
  // left there.
  [[nodiscard]] Result<void> start(int cgroup_directory);
  // The number by which to let it go again.
  [[nodiscard]] Result<std::uint32_t> keep(int uffd);
  void release(std::uint32_t number);

 private:
  std::mutex mutex_;
  Fd socket_;
  pid_t child_ = 0;
  std::uint32_t next_ = 0;
};

}  // namespace gestalt
