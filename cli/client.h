// One request to the daemon, for the commands that need no more than that.
#pragma once

#include <functional>
#include <string>

#include "common/clock.h"
#include "common/fd.h"
#include "common/proto/control.pb.h"

namespace gestalt::cli {

// GESTALT_SOCKET, else paths::kClientSocket.
[[nodiscard]] std::string daemon_socket_path();
// The error says where the daemon was looked for and what to do.
[[nodiscard]] Result<Fd> connect_daemon(const std::string& path);

struct Call {
  wire::Message request;
  Clock::duration timeout = std::chrono::seconds(10);
  std::function<void(const wire::Message&)> on_notice;  // messages before the reply; may be empty
};

// Sends the request and hands its reply to `use`, whose result is the exit code. All
// failures are reported here: kExitGestalt when the daemon is not there or goes away,
// else what the error's code stands for.
[[nodiscard]] int call_daemon(Call call, const std::function<int(const wire::Message&)>& use);

// First thing in a program: a socket that takes the place of a closed standard stream would be
// read and written as that stream.
void fill_standard_descriptors();

}  // namespace gestalt::cli
