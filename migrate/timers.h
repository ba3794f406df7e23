// Keeps periodic timerfds alive through CRIU.
//
// The kernel re-arms a periodic timerfd that has expired only when it is read (or asked
// by timerfd_gettime). Until then its fdinfo says "0 left", which CRIU saves, and
// restores as a timer that is switched off. fs/timerfd.c, criu/timerfd.c.
#pragma once

#include <sys/types.h>

#include <string>
#include <vector>

#include "common/result.h"

namespace gestalt {

// Makes the kernel count and re-arm what has expired in these processes, so that the
// ticks of a long wait are not lost. What cannot be reached is left as it is.
void forward_timers(const std::vector<pid_t>& pids);

// Changes the saved files (`files.img`'s content) so that a periodic timerfd which had
// expired again by then expires at once when it is restored. The number of timers
// changed; kProtocol if the content makes no sense.
[[nodiscard]] Result<int> rearm_expired_timers(std::string& files_image);

// The same for the images in a directory; nothing to do without files.img.
[[nodiscard]] Result<int> rearm_expired_timers_in(const std::string& directory);

}  // namespace gestalt
