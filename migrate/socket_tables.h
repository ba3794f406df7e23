// The sockets of a network namespace, by inode number: what a descriptor "socket:[123]" is.
// proc_net(5), sock_diag(7).
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <string>
#include <string_view>
#include <unordered_map>
#include <unordered_set>

namespace gestalt {

struct SocketTables {
  std::unordered_set<std::uint64_t>
      internet;                              // TCP, UDP, raw, ping: bound to an address of the node
  std::unordered_set<std::uint64_t> packet;  // bound to an interface of the node
  std::unordered_set<std::uint64_t> netlink;
  // Of unix sockets, the one that it is connected to; 0: none, or not known.
  std::unordered_map<std::uint64_t, std::uint64_t> unix_peers;

  [[nodiscard]] bool knows(std::uint64_t inode) const {
    return internet.contains(inode) || packet.contains(inode) || netlink.contains(inode) ||
           unix_peers.contains(inode);
  }
};

// As the process sees them. Peers only with CAP_SYS_ADMIN, if it is in another network namespace.
[[nodiscard]] SocketTables read_socket_tables(const std::string& proc, pid_t pid);

// Of "socket:[123]"; 0 for anything else.
[[nodiscard]] std::uint64_t socket_inode(std::string_view link);

}  // namespace gestalt
