// Local stream sockets: who is at the other end, and descriptors across them.
#pragma once

#include <sys/types.h>

#include <cstddef>
#include <span>
#include <string>
#include <vector>

#include "common/clock.h"
#include "common/fd.h"
#include "common/result.h"

namespace gestalt {

struct PeerCredentials {
  pid_t pid = 0;  // in the caller's pid namespace; 0 if it has none there
  uid_t uid = 0;
  gid_t gid = 0;
  std::vector<gid_t> groups;
};

// Binds and listens; a stale socket file is replaced, a live one is kBusy.
[[nodiscard]] Result<Fd> listen_unix(const std::string& path, mode_t mode, int backlog = 64);
// Non-blocking afterwards.
[[nodiscard]] Result<Fd> connect_unix(const std::string& path);
// As the kernel recorded them when the peer connected.
[[nodiscard]] Result<PeerCredentials> peer_credentials(int socket);

// Connected to each other; they keep messages apart. Close-on-exec.
struct SocketPair {
  Fd ours;
  Fd theirs;
};
[[nodiscard]] Result<SocketPair> make_socket_pair();

// One byte with descriptors attached, and back. At most 16.
[[nodiscard]] Result<void> send_fds(int socket, std::span<const int> fds);
// A whole message instead of the byte, for a socket that keeps messages apart.
[[nodiscard]] Result<void> send_with_fds(int socket, std::span<const std::byte> content,
                                         std::span<const int> fds);
// Waits for them until the deadline; fewer than `count` is kProtocol.
[[nodiscard]] Result<std::vector<Fd>> receive_fds(int socket, std::size_t count, Deadline deadline);

}  // namespace gestalt
