// What a client's request must satisfy before it is looked at: identity and limits are
// the kernel's word, never the client's.
#pragma once

#include <vector>

#include "common/proto/control.pb.h"
#include "common/result.h"
#include "common/unix_socket.h"

namespace gestalt {

inline constexpr std::size_t kMaxArgumentBytes = 2U << 20;  // argv and environment together
inline constexpr std::size_t kMaxArguments = 65'536;
inline constexpr int kMaxPids = 1024;  // in a KillRequest

// Sizes and strings; kInvalidArgument names what is wrong.
[[nodiscard]] Result<void> check_spec(const wire::JobSpec& spec);
[[nodiscard]] Result<void> check_kill(const wire::KillRequest& request);

// Puts the peer's identity into the spec, whatever the client wrote there.
void set_identity(const PeerCredentials& peer, wire::JobSpec& spec);

// The limits that a client wants, held within those it has: nobody but root gets a hard
// limit above his own. Resources that the client did not name get its own limits.
[[nodiscard]] std::vector<wire::ResourceLimit> bounded_limits(
    const std::vector<wire::ResourceLimit>& wanted, const std::vector<wire::ResourceLimit>& own,
    bool is_root);
// /proc/PID/limits.
[[nodiscard]] Result<std::vector<wire::ResourceLimit>> parse_limits(const std::string& text);
// The peer's own; kPermission if its pid is another process's by now.
[[nodiscard]] Result<std::vector<wire::ResourceLimit>> limits_of(const PeerCredentials& peer);

}  // namespace gestalt
