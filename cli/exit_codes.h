// What the command line exits with. docs/exit-codes.md is the user's version of this.
#pragma once

#include "common/result.h"

namespace gestalt::cli {

inline constexpr int kExitOk = 0;
inline constexpr int kExitFailed = 1;
inline constexpr int kExitUsage = 2;
inline constexpr int kExitNotFound = 3;
inline constexpr int kExitPermission = 4;
inline constexpr int kExitBlocked = 5;
inline constexpr int kExitUnavailable = 6;
// As env(1), nice(1) and timeout(1) have them.
inline constexpr int kExitGestalt = 125;
inline constexpr int kExitCannotExecute = 126;
inline constexpr int kExitCommandNotFound = 127;

// For every command but `run`: the daemon answered the request with this error.
[[nodiscard]] int command_exit_code(ErrorCode code);
// For `run`, where all other codes belong to the program.
[[nodiscard]] int run_exit_code(ErrorCode code);

}  // namespace gestalt::cli
