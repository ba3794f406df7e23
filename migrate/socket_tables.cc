#include "migrate/socket_tables.h"

#include <fcntl.h>
#include <linux/netlink.h>
#include <linux/rtnetlink.h>
#include <linux/sock_diag.h>
#include <linux/unix_diag.h>
#include <sched.h>
#include <sys/socket.h>

#include <charconv>
#include <cstring>
#include <sstream>
#include <thread>

#include "common/fd.h"
#include "common/format.h"

namespace gestalt {
namespace {

constexpr std::size_t kMaxTableBytes = 256U << 20;

// The column of the inode number: counted from 0, or the last one.
constexpr int kLast = -1;
constexpr int kInternetColumn = 9;

template <class Function>
void for_each_inode(const std::string& path, int column, Function function) {
  auto text = read_file(path, kMaxTableBytes);
  if (!text) return;  // a kernel without that family
  std::istringstream lines(*text);
  std::string line;
  std::getline(lines, line);
  while (std::getline(lines, line)) {
    std::istringstream fields(line);
    std::string field;
    for (int i = 0; (column == kLast || i <= column) && fields >> field; ++i) {
    }
    std::uint64_t inode = 0;
    std::from_chars(field.data(), field.data() + field.size(), inode);
    if (inode != 0) function(inode);
  }
}

Fd ask_for_peers() {
  Fd socket(::socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_SOCK_DIAG));
  struct {
    nlmsghdr header;
    unix_diag_req body;
  } request{};
  request.header.nlmsg_len = sizeof request;
  request.header.nlmsg_type = SOCK_DIAG_BY_FAMILY;
  request.header.nlmsg_flags = NLM_F_REQUEST | NLM_F_DUMP;
  request.body.sdiag_family = AF_UNIX;
  request.body.udiag_states = ~0U;
  request.body.udiag_show = UDIAG_SHOW_PEER;
  timeval limit{.tv_sec = 2, .tv_usec = 0};
  if (!socket || ::setsockopt(socket.get(), SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit) != 0 ||
      ::send(socket.get(), &request, sizeof request, 0) != ssize_t{sizeof request})
    return {};
  return socket;
}

void take_peer(const nlmsghdr& header, SocketTables& tables) {
  if (header.nlmsg_len < NLMSG_LENGTH(sizeof(unix_diag_msg))) return;
  unix_diag_msg body;
  std::memcpy(&body, NLMSG_DATA(&header), sizeof body);
  auto rest = header.nlmsg_len - NLMSG_LENGTH(sizeof body);
  const auto* data = static_cast<const char*>(NLMSG_DATA(&header)) + NLMSG_ALIGN(sizeof body);
  while (rest >= sizeof(rtattr)) {
    rtattr attribute;
    std::memcpy(&attribute, data, sizeof attribute);
    if (attribute.rta_len < sizeof attribute || attribute.rta_len > rest) return;
    if (attribute.rta_type == UNIX_DIAG_PEER && attribute.rta_len >= RTA_LENGTH(4)) {
      std::uint32_t peer = 0;
      std::memcpy(&peer, data + RTA_LENGTH(0), sizeof peer);
      tables.unix_peers[body.udiag_ino] = peer;
    }
    auto step = std::min<std::size_t>(RTA_ALIGN(attribute.rta_len), rest);
    data += step;
    rest -= static_cast<std::uint32_t>(step);
  }
}

void read_peers(SocketTables& tables) {
  Fd socket = ask_for_peers();
  if (!socket) return;
  alignas(nlmsghdr) char buffer[32768];
  while (true) {
    auto received = ::recv(socket.get(), buffer, sizeof buffer, 0);
    if (received <= 0) return;
    auto left = static_cast<std::uint32_t>(received);
    for (auto* header = reinterpret_cast<nlmsghdr*>(buffer); NLMSG_OK(header, left);
         header = NLMSG_NEXT(header, left)) {
      if (header->nlmsg_type == NLMSG_DONE || header->nlmsg_type == NLMSG_ERROR) return;
      take_peer(*header, tables);
    }
  }
}

}  // namespace

std::uint64_t socket_inode(std::string_view link) {
  constexpr std::string_view kPrefix = "socket:[";
  if (!link.starts_with(kPrefix)) return 0;
  std::uint64_t inode = 0;
  std::from_chars(link.data() + kPrefix.size(), link.data() + link.size(), inode);
  return inode;
}

SocketTables read_socket_tables(const std::string& proc, pid_t pid) {
  SocketTables tables;
  auto path = [&](const char* table) { return formatted("{}/{}/net/{}", proc, pid, table); };
  for (const char* table :
       {"tcp", "tcp6", "udp", "udp6", "udplite", "udplite6", "raw", "raw6", "icmp", "icmp6"})
    for_each_inode(path(table), kInternetColumn,
                   [&](auto inode) { tables.internet.insert(inode); });
  for_each_inode(path("packet"), kLast, [&](auto inode) { tables.packet.insert(inode); });
  for_each_inode(path("netlink"), kLast, [&](auto inode) { tables.netlink.insert(inode); });
  constexpr int kUnixColumn = 6;
  for_each_inode(path("unix"), kUnixColumn, [&](auto inode) { tables.unix_peers[inode] = 0; });
  // A thread's doing: we stay where we are.
  std::thread([&] {
    auto network = open_file(formatted("{}/{}/ns/net", proc, pid), O_RDONLY);
    if (network && ::setns(network->get(), CLONE_NEWNET) == 0) read_peers(tables);
  }).join();
  return tables;
}

}  // namespace gestalt
