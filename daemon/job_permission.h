// Who may do what to whom; pure rules.
#pragma once

#include "common/proc.h"

namespace gestalt {

// kill(2): root, or the sender's uid is the target's real or saved uid.
[[nodiscard]] inline bool may_signal(uid_t sender, const ProcessIds& target) {
  return sender == 0 || sender == target.real_uid || sender == target.saved_uid;
}

// A job is its owner's and root's.
[[nodiscard]] inline bool may_manage(uid_t caller, uid_t owner) {
  return caller == 0 || caller == owner;
}

}  // namespace gestalt
