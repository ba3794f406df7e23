#include "common/unix_socket.h"

#include <poll.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstring>

#include "common/format.h"

namespace gestalt {
namespace {

constexpr std::size_t kMaxFds = 16;

Result<sockaddr_un> unix_address(const std::string& path) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  if (path.size() >= sizeof address.sun_path)
    return fail(ErrorCode::kInvalidArgument, formatted("socket path {} is too long", path));
  std::memcpy(address.sun_path, path.c_str(), path.size() + 1);
  return address;
}

}  // namespace

Result<Fd> listen_unix(const std::string& path, mode_t mode, int backlog) {
  GESTALT_ASSIGN(auto address, unix_address(path));
  if (connect_unix(path))
    return fail(ErrorCode::kBusy, formatted("another process listens on {}", path),
                "stop it first");
  ::unlink(path.c_str());
  Fd fd(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  if (!fd) return fail_errno(errno, "make a local socket");
  if (::bind(fd.get(), reinterpret_cast<sockaddr*>(&address), sizeof address) != 0)
    return fail_errno(errno, formatted("bind {}", path));
  if (::chmod(path.c_str(), mode) != 0) return fail_errno(errno, formatted("chmod {}", path));
  if (::listen(fd.get(), backlog) != 0) return fail_errno(errno, formatted("listen on {}", path));
  return fd;
}

Result<Fd> connect_unix(const std::string& path) {
  GESTALT_ASSIGN(auto address, unix_address(path));
  Fd fd(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  if (!fd) return fail_errno(errno, "make a local socket");
  if (::connect(fd.get(), reinterpret_cast<sockaddr*>(&address), sizeof address) != 0)
    return fail_errno(errno, formatted("connect to {}", path));
  return fd;
}

Result<PeerCredentials> peer_credentials(int socket) {
  ucred basic{};
  socklen_t length = sizeof basic;
  if (::getsockopt(socket, SOL_SOCKET, SO_PEERCRED, &basic, &length) != 0)
    return fail_errno(errno, "read the peer's credentials");
  PeerCredentials peer{basic.pid, basic.uid, basic.gid, std::vector<gid_t>(64)};
  while (true) {
    length = static_cast<socklen_t>(peer.groups.size() * sizeof(gid_t));
    if (::getsockopt(socket, SOL_SOCKET, SO_PEERGROUPS, peer.groups.data(), &length) == 0) break;
    if (errno != ERANGE) return fail_errno(errno, "read the peer's groups");
    peer.groups.resize(length / sizeof(gid_t));
  }
  peer.groups.resize(length / sizeof(gid_t));
  return peer;
}

Result<SocketPair> make_socket_pair() {
  int ends[2];
  if (::socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends) != 0)
    return fail_errno(errno, "make a socket pair");
  return SocketPair{Fd(ends[0]), Fd(ends[1])};
}

Result<void> send_fds(int socket, std::span<const int> fds) {
  const std::byte byte{'F'};
  return send_with_fds(socket, {&byte, 1}, fds);
}

Result<void> send_with_fds(int socket, std::span<const std::byte> content,
                           std::span<const int> fds) {
  if (fds.empty() || fds.size() > kMaxFds)
    return fail(ErrorCode::kInvalidArgument, "wrong number of descriptors to send");
  iovec data{const_cast<std::byte*>(content.data()), content.size()};
  alignas(cmsghdr) std::array<char, CMSG_SPACE(kMaxFds * sizeof(int))> control{};
  msghdr message{};
  message.msg_iov = &data;
  message.msg_iovlen = 1;
  message.msg_control = control.data();
  message.msg_controllen = CMSG_SPACE(fds.size_bytes());
  cmsghdr* header = CMSG_FIRSTHDR(&message);
  header->cmsg_level = SOL_SOCKET;
  header->cmsg_type = SCM_RIGHTS;
  header->cmsg_len = CMSG_LEN(fds.size_bytes());
  std::memcpy(CMSG_DATA(header), fds.data(), fds.size_bytes());
  if (::sendmsg(socket, &message, MSG_NOSIGNAL) < 0) return fail_errno(errno, "send descriptors");
  return {};
}

Result<std::vector<Fd>> receive_fds(int socket, std::size_t count, Deadline deadline) {
  GESTALT_TRY(wait_for(socket, POLLIN, deadline));
  char byte = 0;
  iovec data{&byte, 1};
  alignas(cmsghdr) std::array<char, CMSG_SPACE(kMaxFds * sizeof(int))> control{};
  msghdr message{};
  message.msg_iov = &data;
  message.msg_iovlen = 1;
  message.msg_control = control.data();
  message.msg_controllen = control.size();
  ssize_t received = ::recvmsg(socket, &message, MSG_CMSG_CLOEXEC);
  if (received < 0) return fail_errno(errno, "receive descriptors");
  std::vector<Fd> fds;
  for (cmsghdr* header = CMSG_FIRSTHDR(&message); header != nullptr;
       header = CMSG_NXTHDR(&message, header)) {
    if (header->cmsg_level != SOL_SOCKET || header->cmsg_type != SCM_RIGHTS) continue;
    std::size_t bytes = header->cmsg_len - CMSG_LEN(0);
    for (std::size_t i = 0; i < bytes / sizeof(int); ++i) {
      int fd = -1;
      std::memcpy(&fd, CMSG_DATA(header) + i * sizeof(int), sizeof fd);
      fds.emplace_back(fd);
    }
  }
  if (received == 0) return fail(ErrorCode::kUnavailable, "the peer closed the connection");
  if (fds.size() != count)
    return fail(ErrorCode::kProtocol,
                formatted("expected {} descriptors, got {}", count, fds.size()));
  return fds;
}

}  // namespace gestalt
