#include "common/direct_link.h"

#include <arpa/inet.h>
#include <netinet/tcp.h>
#include <sys/epoll.h>
#include <sys/random.h>
#include <sys/socket.h>

#include <array>
#include <cerrno>
#include <cstring>

#include "common/format.h"

namespace gestalt {
namespace {

constexpr int kUserTimeoutMilliseconds = 5000;

struct Address {
  sockaddr_storage storage{};
  socklen_t length = 0;
};

Result<Address> parse_address(const std::string& text, std::uint32_t port) {
  Address out;
  auto* four = reinterpret_cast<sockaddr_in*>(&out.storage);
  auto* six = reinterpret_cast<sockaddr_in6*>(&out.storage);
  auto number = htons(static_cast<std::uint16_t>(port));
  if (port <= 0xFFFF && ::inet_pton(AF_INET, text.c_str(), &four->sin_addr) == 1) {
    four->sin_family = AF_INET;
    four->sin_port = number;
    out.length = sizeof *four;
  } else if (port <= 0xFFFF && ::inet_pton(AF_INET6, text.c_str(), &six->sin6_addr) == 1) {
    six->sin6_family = AF_INET6;
    six->sin6_port = number;
    out.length = sizeof *six;
  } else {
    return fail(ErrorCode::kProtocol, formatted("\"{}\" port {} is no address", text, port));
  }
  return out;
}

Result<Fd> make_socket(const Address& address) {
  Fd fd(::socket(address.storage.ss_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  if (!fd) return fail_errno(errno, "make a TCP socket");
  return fd;
}

// A peer that is gone without a word is noticed even when nothing is sent.
void tune(int socket) {
  auto set = [socket](int level, int name, int value) {
    (void)::setsockopt(socket, level, name, &value, sizeof value);
  };
  set(IPPROTO_TCP, TCP_NODELAY, 1);
  set(IPPROTO_TCP, TCP_USER_TIMEOUT, kUserTimeoutMilliseconds);
  set(SOL_SOCKET, SO_KEEPALIVE, 1);
  set(IPPROTO_TCP, TCP_KEEPIDLE, 1);
  set(IPPROTO_TCP, TCP_KEEPINTVL, 1);
  set(IPPROTO_TCP, TCP_KEEPCNT, 5);
}

Result<std::string> random_word() {
  std::string word(kDirectWordBytes, '\0');
  if (::getrandom(word.data(), word.size(), 0) != static_cast<ssize_t>(word.size()))
    return fail_errno(errno, "get random bytes");
  return word;
}

// In a time that does not depend on where they differ.
bool same(const std::string& one, const std::string& other) {
  unsigned difference = one.size() == other.size() ? 0 : 1;
  for (std::size_t i = 0; i < std::min(one.size(), other.size()); ++i)
    difference |= static_cast<unsigned char>(one[i] ^ other[i]);
  return difference == 0;
}

}  // namespace

DirectLink::DirectLink(EventLoop& loop, Done done) : loop_(loop), done_(std::move(done)) {
  timer_ = loop_.after(kTimeout, [this] {
    finish(fail(ErrorCode::kTimeout, "the other end did not connect in time"));
  });
}

DirectLink::~DirectLink() {
  loop_.cancel(timer_);
  if (listener_) loop_.unwatch(listener_.get());
  if (socket_) loop_.unwatch(socket_.get());
}

Result<std::unique_ptr<DirectLink>> DirectLink::listen(EventLoop& loop,
                                                       wire::StdioDirectOffer& offer, Done done) {
  GESTALT_ASSIGN(auto address, parse_address(offer.address(), 0));
  std::unique_ptr<DirectLink> link(new DirectLink(loop, std::move(done)));
  link->listens_ = true;
  GESTALT_ASSIGN(link->listener_, make_socket(address));
  int fd = link->listener_.get();
  auto* where = reinterpret_cast<sockaddr*>(&address.storage);
  if (::bind(fd, where, address.length) != 0 || ::listen(fd, 1) != 0 ||
      ::getsockname(fd, where, &address.length) != 0)
    return fail_errno(errno, formatted("listen on {}", offer.address()));
  // At the same place in both.
  offer.set_port(ntohs(reinterpret_cast<sockaddr_in*>(where)->sin_port));
  GESTALT_ASSIGN(link->awaited_, random_word());
  GESTALT_ASSIGN(link->shown_, random_word());
  offer.set_client_word(link->awaited_);
  offer.set_job_word(link->shown_);
  loop.watch(fd, EPOLLIN, [self = link.get()](std::uint32_t) { self->accept_one(); });
  return link;
}

Result<std::unique_ptr<DirectLink>> DirectLink::connect(EventLoop& loop,
                                                        const wire::StdioDirectOffer& offer,
                                                        Done done) {
  if (offer.client_word().size() != kDirectWordBytes ||
      offer.job_word().size() != kDirectWordBytes || offer.port() == 0)
    return fail(ErrorCode::kProtocol, "the offer of a connection makes no sense");
  GESTALT_ASSIGN(auto address, parse_address(offer.address(), offer.port()));
  std::unique_ptr<DirectLink> link(new DirectLink(loop, std::move(done)));
  link->shown_ = offer.client_word();
  link->awaited_ = offer.job_word();
  GESTALT_ASSIGN(link->socket_, make_socket(address));
  int fd = link->socket_.get();
  if (::connect(fd, reinterpret_cast<sockaddr*>(&address.storage), address.length) != 0 &&
      errno != EINPROGRESS)
    return fail_errno(errno, formatted("connect to {} port {}", offer.address(), offer.port()));
  loop.watch(fd, EPOLLOUT, [self = link.get()](std::uint32_t) { self->connected(); });
  return link;
}

// Whoever comes first: if that is somebody else, the stream only keeps the way it has.
void DirectLink::accept_one() {
  Fd socket(::accept4(listener_.get(), nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK));
  if (!socket) return;
  loop_.unwatch(listener_.get());
  listener_.reset();
  socket_ = std::move(socket);
  tune(socket_.get());
  loop_.watch(socket_.get(), EPOLLIN, [this](std::uint32_t) { exchange(); });
}

void DirectLink::connected() {
  int error_number = 0;
  socklen_t length = sizeof error_number;
  (void)::getsockopt(socket_.get(), SOL_SOCKET, SO_ERROR, &error_number, &length);
  if (error_number != 0) return finish(fail_errno(error_number, "connect to the job's node"));
  tune(socket_.get());
  loop_.watch(socket_.get(), EPOLLIN, [this](std::uint32_t) { exchange(); });
  if (::send(socket_.get(), shown_.data(), shown_.size(), MSG_NOSIGNAL) !=
      static_cast<ssize_t>(shown_.size()))
    finish(fail_errno(errno, "greet the job's node"));
}

// Who listens shows its word only to whom has shown his.
void DirectLink::exchange() {
  std::array<char, kDirectWordBytes> buffer;
  ssize_t count =
      ::recv(socket_.get(), buffer.data(), awaited_.size() - received_.size(), MSG_DONTWAIT);
  if (count < 0 && (errno == EAGAIN || errno == EINTR)) return;
  if (count <= 0) return finish(fail(ErrorCode::kUnavailable, "the other end hung up"));
  received_.append(buffer.data(), static_cast<std::size_t>(count));
  if (received_.size() < awaited_.size()) return;
  if (!same(received_, awaited_))
    return finish(fail(ErrorCode::kPermission, "the other end is not whom it should be"));
  if (listens_ && ::send(socket_.get(), shown_.data(), shown_.size(), MSG_NOSIGNAL) !=
                      static_cast<ssize_t>(shown_.size()))
    return finish(fail_errno(errno, "answer the job's client"));
  loop_.unwatch(socket_.get());
  finish(std::move(socket_));
}

// Who hears of it destroys us.
void DirectLink::finish(Result<Fd> outcome) {
  loop_.cancel(timer_);
  if (listener_) loop_.unwatch(listener_.get());
  if (socket_) loop_.unwatch(socket_.get());
  auto shared = std::make_shared<Result<Fd>>(std::move(outcome));
  timer_ = loop_.after({}, [done = std::move(done_), shared] { done(std::move(*shared)); });
}

}  // namespace gestalt
