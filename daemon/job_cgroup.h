// A job's cgroup, MOUNT/gestalt/job-ID: made by the stand-in, ended from here when the
// stand-in cannot do it any more.
#pragma once

#include <cstdint>
#include <set>
#include <string>

#include "common/result.h"

namespace gestalt {

class JobCgroups {
 public:
  // `mount` is where cgroup2 is mounted; empty: there is none, nothing works.
  explicit JobCgroups(std::string mount) : mount_(std::move(mount)) {}

  [[nodiscard]] std::string directory(std::uint64_t job_id) const;
  // SIGKILL to every process in it and below, frozen or not. No such cgroup: no error.
  Result<void> kill(std::uint64_t job_id) const;
  // Removes it and all below it. False while there are processes in it: those that were
  // killed take a moment to go.
  [[nodiscard]] bool remove(std::uint64_t job_id) const;
  // Jobs whose cgroup holds processes; jobs that have one.
  [[nodiscard]] std::set<std::uint64_t> populated() const;
  [[nodiscard]] std::set<std::uint64_t> all() const;

 private:
  std::string mount_;
};

}  // namespace gestalt
