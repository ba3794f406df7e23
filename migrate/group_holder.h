// Keeps a process group in existence whose leader is elsewhere, so that others can be put into it:
// a child with the group's pid that does nothing.
#pragma once

#include <sys/types.h>

#include "common/result.h"

namespace gestalt {

class GroupHolder {
 public:
  // In the caller's session. kBusy: that pid, or group, or session, is there already.
  [[nodiscard]] static Result<GroupHolder> make(pid_t group);
  GroupHolder(GroupHolder&& other) noexcept : pid_(std::exchange(other.pid_, 0)) {}
  GroupHolder& operator=(GroupHolder&&) = delete;
  ~GroupHolder();  // ends the child; the group lives on in its other members

 private:
  explicit GroupHolder(pid_t pid) : pid_(pid) {}
  pid_t pid_;
};

}  // namespace gestalt
