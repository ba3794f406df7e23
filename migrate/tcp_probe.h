// Makes the TCP connections of restored processes go on at once.
#pragma once

#include <sys/types.h>

#include <vector>

namespace gestalt {

// Has each connection of these processes say where it stands: the peer's answer acknowledges what
// it got before the move, which would otherwise be sent again, a second later. CRIU lets the
// kernel do so (tcp(7), TCP_REPAIR) when it ends its restore, which is before the network is
// connected again. The processes may be stopped.
void probe_tcp_peers(const std::vector<pid_t>& pids);

}  // namespace gestalt
