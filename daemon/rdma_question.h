// Whether pages can go by RDMA. A program of its own is asked: gestaltd does without RDMA's
// libraries, and a driver takes its time.
#pragma once

#include "daemon/asio.h"

namespace gestalt {

// `command` prints nothing and succeeds, or prints why not: a line, and one with the remedy, which
// may be empty. One that has not ended in time is ended (kTimeout).
[[nodiscard]] Awaitable<Result<void>> ask_for_rdma(std::vector<std::string> command,
                                                   Clock::duration timeout);

}  // namespace gestalt
