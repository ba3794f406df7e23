#include "migrate/criu_limits.h"

#include <netinet/in.h>
#include <sys/socket.h>

#include <cerrno>
#include <charconv>
#include <tuple>

#include "common/criu_version.h"
#include "common/fd.h"

namespace gestalt {
namespace {

constexpr auto kCriuTimeout = std::chrono::seconds(5);

bool kernel_refuses_credentials() {
  Fd socket(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  int value = 0;
  socklen_t length = sizeof value;
  return socket && ::getsockopt(socket.get(), SOL_SOCKET, SO_PASSCRED, &value, &length) != 0 &&
         errno == EOPNOTSUPP;
}

}  // namespace

bool wants_credentials_of_every_socket(std::string_view version) {
  int major = 0;
  int minor = 0;
  auto end = version.data() + version.size();
  auto [next, error] = std::from_chars(version.data(), end, major);
  if (error != std::errc()) return false;
  if (next != end && *next == '.') std::from_chars(next + 1, end, minor);
  return std::tie(major, minor) < std::tuple(4, 2);
}

const std::string& criu_without_internet_sockets() {
  static const std::string known = []() -> std::string {
    if (!kernel_refuses_credentials()) return {};
    auto version = criu_version(deadline_in(kCriuTimeout));
    return version && wants_credentials_of_every_socket(*version) ? *version : std::string();
  }();
  return known;
}

}  // namespace gestalt
