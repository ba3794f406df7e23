#include <arpa/inet.h>
#include <limits.h>
#include <netdb.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstring>
#include <vector>

#include "common/fd.h"
#include "common/format.h"
#include "migrate/transport.h"

namespace gestalt {
namespace {

// An unacknowledged segment for this long means that the peer is dead.
constexpr int kUserTimeoutMilliseconds = 5000;
constexpr int kBufferBytes = 4 << 20;

struct AddressInfo {
  sockaddr_storage storage{};
  socklen_t length = 0;
};

Result<AddressInfo> parse_address(const std::string& address, std::uint16_t port) {
  addrinfo hints{};
  hints.ai_family = AF_UNSPEC;
  hints.ai_socktype = SOCK_STREAM;
  hints.ai_flags = AI_NUMERICHOST | AI_NUMERICSERV;
  addrinfo* found = nullptr;
  if (::getaddrinfo(address.c_str(), std::to_string(port).c_str(), &hints, &found) != 0)
    return fail(ErrorCode::kInvalidArgument, formatted("\"{}\" is no IP address", address));
  AddressInfo out;
  std::memcpy(&out.storage, found->ai_addr, found->ai_addrlen);
  out.length = found->ai_addrlen;
  ::freeaddrinfo(found);
  return out;
}

void tune(int socket) {
  int one = 1;
  (void)::setsockopt(socket, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
  int timeout = kUserTimeoutMilliseconds;
  (void)::setsockopt(socket, IPPROTO_TCP, TCP_USER_TIMEOUT, &timeout, sizeof timeout);
  (void)::setsockopt(socket, SOL_SOCKET, SO_KEEPALIVE, &one, sizeof one);
  int seconds = 1;
  (void)::setsockopt(socket, IPPROTO_TCP, TCP_KEEPIDLE, &seconds, sizeof seconds);
  (void)::setsockopt(socket, IPPROTO_TCP, TCP_KEEPINTVL, &seconds, sizeof seconds);
  int probes = 5;
  (void)::setsockopt(socket, IPPROTO_TCP, TCP_KEEPCNT, &probes, sizeof probes);
  int bytes = kBufferBytes;
  (void)::setsockopt(socket, SOL_SOCKET, SO_SNDBUF, &bytes, sizeof bytes);
}

class TcpStream final : public Stream {
 public:
  explicit TcpStream(Fd socket) : socket_(std::move(socket)) { tune(socket_.get()); }

  Result<void> send(std::span<const std::byte> bytes, Deadline deadline) override {
    while (!bytes.empty()) {
      ssize_t count = ::send(socket_.get(), bytes.data(), bytes.size(), MSG_NOSIGNAL);
      if (count < 0) {
        if (errno == EINTR) continue;
        if (errno != EAGAIN) return fail_errno(errno, "send to the other node");
        GESTALT_TRY(wait_for(socket_.get(), POLLOUT, deadline));
        continue;
      }
      sent_ += static_cast<std::uint64_t>(count);
      bytes = bytes.subspan(static_cast<std::size_t>(count));
    }
    return {};
  }

  Result<void> send_parts(std::span<const std::span<const std::byte>> parts,
                          Deadline deadline) override {
    std::vector<iovec> vectors;
    vectors.reserve(parts.size());
    for (auto part : parts)
      if (!part.empty()) vectors.push_back({const_cast<std::byte*>(part.data()), part.size()});
    std::size_t first = 0;
    while (first < vectors.size()) {
      msghdr message{};
      message.msg_iov = &vectors[first];
      message.msg_iovlen = std::min<std::size_t>(vectors.size() - first, IOV_MAX);
      ssize_t count = ::sendmsg(socket_.get(), &message, MSG_NOSIGNAL);
      if (count < 0) {
        if (errno == EINTR) continue;
        if (errno != EAGAIN) return fail_errno(errno, "send to the other node");
        GESTALT_TRY(wait_for(socket_.get(), POLLOUT, deadline));
        continue;
      }
      auto left = static_cast<std::size_t>(count);
      sent_ += left;
      while (left > 0 && left >= vectors[first].iov_len) left -= vectors[first++].iov_len;
      if (left > 0) {
        vectors[first].iov_base = static_cast<std::byte*>(vectors[first].iov_base) + left;
        vectors[first].iov_len -= left;
      }
    }
    return {};
  }

  Result<void> receive(std::span<std::byte> into, Deadline deadline) override {
    auto received = receive_some(into, into.size(), deadline);
    return received ? Result<void>() : std::unexpected(std::move(received).error());
  }

  Result<std::size_t> receive_some(std::span<std::byte> into, std::size_t least_bytes,
                                   Deadline deadline) override {
    std::size_t done = 0;
    while (done < least_bytes) {
      ssize_t count = ::recv(socket_.get(), into.data() + done, into.size() - done, 0);
      if (count == 0)
        return fail(ErrorCode::kUnavailable, "the other node closed the page connection");
      if (count < 0) {
        if (errno == EINTR) continue;
        if (errno != EAGAIN) return fail_errno(errno, "receive from the other node");
        GESTALT_TRY(wait_for(socket_.get(), POLLIN, deadline));
        continue;
      }
      received_ += static_cast<std::uint64_t>(count);
      done += static_cast<std::size_t>(count);
    }
    return done;
  }

  Result<void> wait_readable(Deadline deadline) override {
    return wait_for(socket_.get(), POLLIN, deadline);
  }

  void shut_down() override { (void)::shutdown(socket_.get(), SHUT_RDWR); }
  std::uint64_t bytes_sent() const override { return sent_; }
  std::uint64_t bytes_received() const override { return received_; }

 private:
  Fd socket_;
  std::atomic<std::uint64_t> sent_ = 0;
  std::atomic<std::uint64_t> received_ = 0;
};

class TcpListener final : public Listener {
 public:
  TcpListener(Fd socket, std::uint16_t port) : socket_(std::move(socket)), port_(port) {}
  std::uint16_t port() const override { return port_; }

  Result<std::unique_ptr<Stream>> accept(Deadline deadline) override {
    while (true) {
      GESTALT_TRY(wait_for(socket_.get(), POLLIN, deadline));
      Fd fd(::accept4(socket_.get(), nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK));
      if (fd) return std::make_unique<TcpStream>(std::move(fd));
      if (errno != EAGAIN && errno != EINTR && errno != ECONNABORTED)
        return fail_errno(errno, "accept a page connection");
      if (shut_down_) return fail(ErrorCode::kUnavailable, "not listening any more");
    }
  }

  void shut_down() override {
    shut_down_ = true;
    (void)::shutdown(socket_.get(), SHUT_RDWR);
  }

 private:
  Fd socket_;
  std::uint16_t port_;
  std::atomic<bool> shut_down_ = false;
};

class TcpTransport final : public Transport {
 public:
  Result<std::unique_ptr<Listener>> listen(const std::string& address,
                                           std::uint16_t port) override {
    GESTALT_ASSIGN(auto where, parse_address(address, port));
    Fd fd(::socket(where.storage.ss_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
    if (!fd) return fail_errno(errno, "make a TCP socket");
    int one = 1;
    (void)::setsockopt(fd.get(), SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    if (::bind(fd.get(), reinterpret_cast<sockaddr*>(&where.storage), where.length) != 0 ||
        ::listen(fd.get(), 8) != 0)
      return fail_errno(errno, formatted("listen on {} port {}", address, port));
    sockaddr_storage bound{};
    socklen_t length = sizeof bound;
    if (::getsockname(fd.get(), reinterpret_cast<sockaddr*>(&bound), &length) != 0)
      return fail_errno(errno, "read the listening port");
    auto number = bound.ss_family == AF_INET6 ? reinterpret_cast<sockaddr_in6*>(&bound)->sin6_port
                                              : reinterpret_cast<sockaddr_in*>(&bound)->sin_port;
    return std::make_unique<TcpListener>(std::move(fd), ntohs(number));
  }

  Result<std::unique_ptr<Stream>> connect(const std::string& address, std::uint16_t port,
                                          Deadline deadline) override {
    GESTALT_ASSIGN(auto where, parse_address(address, port));
    Fd fd(::socket(where.storage.ss_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
    if (!fd) return fail_errno(errno, "make a TCP socket");
    std::string what = formatted("connect to {} port {}", address, port);
    if (::connect(fd.get(), reinterpret_cast<sockaddr*>(&where.storage), where.length) != 0) {
      if (errno != EINPROGRESS) return fail_errno(errno, what);
      auto ready = wait_for(fd.get(), POLLOUT, deadline);
      if (!ready) return std::unexpected(std::move(ready).error().in(what));
      int error_number = 0;
      socklen_t length = sizeof error_number;
      (void)::getsockopt(fd.get(), SOL_SOCKET, SO_ERROR, &error_number, &length);
      if (error_number != 0) return fail_errno(error_number, what);
    }
    return std::make_unique<TcpStream>(std::move(fd));
  }
};

}  // namespace

Transport& tcp_transport() {
  static TcpTransport transport;
  return transport;
}

}  // namespace gestalt
