// A small request, a page as the answer, over one TCP connection: what a demand fault
// costs at the very least on this network.
//
//   pingpong serve PORT             one client, then the end
//   pingpong ask HOST PORT COUNT    prints {"p50_ns":…,"p99_ns":…}
#include <arpa/inet.h>
#include <netdb.h>
#include <netinet/tcp.h>
#include <sys/socket.h>

#include <algorithm>
#include <array>
#include <vector>

#include "victim.h"

namespace {

using victim::bad;
using victim::must;

constexpr std::size_t kRequestBytes = 64;
constexpr std::size_t kAnswerBytes = 4096;

void no_delay(int fd) {
  int on = 1;
  must(::setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on)), "TCP_NODELAY");
}

// False at the end of the stream.
template <std::size_t Bytes>
bool receive(int fd, std::array<char, Bytes>& buffer) {
  return ::recv(fd, buffer.data(), Bytes, MSG_WAITALL) == static_cast<ssize_t>(Bytes);
}

template <std::size_t Bytes>
void send(int fd, const std::array<char, Bytes>& buffer) {
  if (!victim::write_all(fd, std::string_view(buffer.data(), Bytes))) bad("send");
}

int serve(const char* port) {
  int listener = must(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), "socket");
  int on = 1;
  must(::setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on)), "SO_REUSEADDR");
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_port = htons(static_cast<std::uint16_t>(std::atoi(port)));
  must(::bind(listener, reinterpret_cast<sockaddr*>(&address), sizeof(address)), "bind");
  must(::listen(listener, 1), "listen");
  int client = must(::accept(listener, nullptr, nullptr), "accept");
  no_delay(client);
  std::array<char, kRequestBytes> request{};
  std::array<char, kAnswerBytes> answer{};
  while (receive(client, request)) send(client, answer);
  return 0;
}

int connect_to(const char* host, const char* port) {
  addrinfo hints{};
  hints.ai_family = AF_INET;
  hints.ai_socktype = SOCK_STREAM;
  addrinfo* found = nullptr;
  if (::getaddrinfo(host, port, &hints, &found) != 0) bad("no address of {}", host);
  int fd = must(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), "socket");
  must(::connect(fd, found->ai_addr, found->ai_addrlen), "connect");
  ::freeaddrinfo(found);
  no_delay(fd);
  return fd;
}

int ask(const char* host, const char* port, std::size_t count) {
  int fd = connect_to(host, port);
  std::array<char, kRequestBytes> request{};
  std::array<char, kAnswerBytes> answer{};
  std::vector<std::int64_t> taken_ns;
  for (std::size_t i = 0; i < count; ++i) {
    std::int64_t began_ns = victim::monotonic_ns();
    send(fd, request);
    if (!receive(fd, answer)) bad("the server went away");
    taken_ns.push_back(victim::monotonic_ns() - began_ns);
  }
  std::ranges::sort(taken_ns);
  victim::say("{{\"p50_ns\":{},\"p99_ns\":{}}}", taken_ns[count / 2], taken_ns[count * 99 / 100]);
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  std::string_view action = argc > 1 ? argv[1] : "";
  if (action == "serve" && argc == 3) return serve(argv[2]);
  std::size_t count = argc == 5 ? std::strtoull(argv[4], nullptr, 10) : 0;
  if (action == "ask" && count > 0) return ask(argv[2], argv[3], count);
  std::fprintf(stderr, "usage: pingpong serve PORT | ask HOST PORT COUNT\n");
  return 2;
}
