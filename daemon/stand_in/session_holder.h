// The leader of a session that has come along with a process: the same session id as at home, so
// that getsid(2) and the restored processes agree. It has a new pseudo-terminal as the session's
// controlling one, is the stand-in's parent, and ends with it.
#pragma once

#include <sys/types.h>

#include <cstdint>

namespace gestalt {

// Where the stand-in finds its terminal's master: --terminal.
inline constexpr int kHeldTerminal = 5;

// Starts the stand-in of that migration under `pid`, or another if that is taken, and waits for its
// end. The exit status of this process, which is the leader of a new session.
[[nodiscard]] int hold_session(std::uint64_t job_id, std::uint64_t migration_id, pid_t pid);

}  // namespace gestalt
