// Control groups, version 2: one group for each job, to freeze, kill and list its
// processes. Documentation/admin-guide/cgroup-v2.rst.
#pragma once

#include <sys/types.h>

#include <string>
#include <vector>

#include "common/clock.h"
#include "common/fd.h"
#include "common/result.h"

namespace gestalt {

// Where the cgroup2 hierarchy is mounted, by /proc/self/mountinfo.
[[nodiscard]] Result<std::string> cgroup2_mount();
// A process with all its threads. `directory`: the group's. kGone: it has ended.
[[nodiscard]] Result<void> move_to_cgroup(int directory, pid_t pid);

// The name of a job's group below the mount: "gestalt/job-7".
[[nodiscard]] std::string job_cgroup_name(std::uint64_t job_id);
// The job that a cgroup path (as in /proc/PID/cgroup) belongs to; 0 for none.
[[nodiscard]] std::uint64_t job_of_cgroup(std::string_view path);

// A group that exists. Does not remove it when it goes. Thread-safe.
class Cgroup {
 public:
  // Makes the group, and those above it, where they do not exist.
  [[nodiscard]] static Result<Cgroup> create(const std::string& name);
  // The one that a process is in.
  [[nodiscard]] static Result<Cgroup> of(pid_t pid);

  [[nodiscard]] const std::string& path() const { return path_; }
  // For clone3's CLONE_INTO_CGROUP.
  [[nodiscard]] int directory_fd() const { return directory_.get(); }

  // Takes in a process with all its threads. kGone: it has ended.
  [[nodiscard]] Result<void> add(pid_t pid);
  // Waits until the kernel reports the new state. A frozen process runs no
  // instruction, but can be killed and read.
  [[nodiscard]] Result<void> freeze(Deadline deadline);
  [[nodiscard]] Result<void> thaw(Deadline deadline);
  [[nodiscard]] bool frozen() const;
  // SIGKILL to all members, frozen or not, atomically against forks.
  [[nodiscard]] Result<void> kill();
  // To the lowest priority, as far as it may: what is to end has much memory to give back.
  void yield_to_others() const;
  // Ids as the caller's pid namespace has them, without those that are dying.
  [[nodiscard]] Result<std::vector<pid_t>> processes() const;
  [[nodiscard]] Result<std::vector<pid_t>> threads() const;
  [[nodiscard]] Result<void> wait_empty(Deadline deadline);
  // Only an empty group can be removed.
  [[nodiscard]] Result<void> remove();

 private:
  Cgroup(std::string path, Fd directory)
      : path_(std::move(path)), directory_(std::move(directory)) {}
  [[nodiscard]] Result<void> write(const char* file, const char* text);
  [[nodiscard]] Result<std::vector<pid_t>> ids(const char* file) const;
  [[nodiscard]] Result<void> wait_event(const char* line, Deadline deadline);

  std::string path_;
  Fd directory_;
};

}  // namespace gestalt
