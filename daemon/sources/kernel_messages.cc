#include "daemon/sources/kernel_messages.h"

#include <linux/netlink.h>
#include <sys/socket.h>

#include <algorithm>
#include <cerrno>

namespace gestalt {
namespace {

template <class Header>
bool for_each_part(Bytes bytes, std::size_t length(const Header&),
                   std::uint16_t type(const Header&), const OnPart& each) {
  constexpr std::size_t kAlignment = 4;
  while (!bytes.empty()) {
    auto header = copy_of<Header>(bytes);
    if (!header) return false;
    auto whole = length(*header);
    if (whole < sizeof(Header) || whole > bytes.size()) return false;
    each(type(*header), bytes.subspan(sizeof(Header), whole - sizeof(Header)));
    auto aligned = (whole + kAlignment - 1) / kAlignment * kAlignment;
    bytes = bytes.subspan(std::min(aligned, bytes.size()));
  }
  return true;
}

}  // namespace

// More than the system's limit, for those who may; the rest gets what there is.
void make_room(int socket) {
  if (::setsockopt(socket, SOL_SOCKET, SO_RCVBUFFORCE, &kReceiveBytes, sizeof kReceiveBytes) != 0)
    (void)::setsockopt(socket, SOL_SOCKET, SO_RCVBUF, &kReceiveBytes, sizeof kReceiveBytes);
}

Result<Datagram> receive_from_kernel(int socket, std::span<std::byte> buffer) {
  sockaddr_nl sender{};
  iovec space{.iov_base = buffer.data(), .iov_len = buffer.size()};
  msghdr header{};
  header.msg_name = &sender;
  header.msg_namelen = sizeof sender;
  header.msg_iov = &space;
  header.msg_iovlen = 1;
  ssize_t received = 0;
  do {
    received = ::recvmsg(socket, &header, MSG_DONTWAIT);
  } while (received < 0 && errno == EINTR);
  if (received < 0 && (errno == EAGAIN || errno == EWOULDBLOCK)) return Datagram{};
  if (received < 0 && errno == ENOBUFS) return Datagram{.what = Datagram::What::kLost};
  if (received < 0) return fail_errno(errno, "read events of the kernel");
  if (header.msg_namelen != sizeof sender || sender.nl_pid != 0)
    return Datagram{.what = Datagram::What::kOther};
  if ((header.msg_flags & MSG_TRUNC) != 0) return Datagram{.what = Datagram::What::kLost};
  return Datagram{.what = Datagram::What::kMessages,
                  .bytes = Bytes(buffer).first(static_cast<std::size_t>(received))};
}

Result<bool> receive_all_from_kernel(int socket, std::span<std::byte> buffer, int most,
                                     const std::function<void(Bytes)>& each) {
  bool lost = false;
  for (int i = 0; i < most; ++i) {
    GESTALT_ASSIGN(auto datagram, receive_from_kernel(socket, buffer));
    if (datagram.what == Datagram::What::kNothing) break;
    if (datagram.what == Datagram::What::kLost) lost = true;
    if (datagram.what == Datagram::What::kMessages) each(datagram.bytes);
  }
  return lost;
}

bool for_each_message(Bytes datagram, const OnPart& each) {
  return for_each_part<nlmsghdr>(
      datagram, [](const nlmsghdr& header) -> std::size_t { return header.nlmsg_len; },
      [](const nlmsghdr& header) -> std::uint16_t { return header.nlmsg_type; }, each);
}

bool for_each_attribute(Bytes attributes, const OnPart& each) {
  return for_each_part<nlattr>(
      attributes, [](const nlattr& header) -> std::size_t { return header.nla_len; },
      [](const nlattr& header) -> std::uint16_t { return header.nla_type & NLA_TYPE_MASK; }, each);
}

}  // namespace gestalt
