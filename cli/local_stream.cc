#include "cli/local_stream.h"

#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>

#include "common/format.h"

namespace gestalt::cli {
namespace {

// What a terminal or pipe that polls as writable takes at once.
constexpr std::size_t kTerminalBytes = 256;
constexpr std::size_t kPipeBytes = PIPE_BUF;

bool is_pty_master(int fd) {
  int number = 0;
  return ::ioctl(fd, TIOCGPTN, &number) == 0;
}

}  // namespace

LocalStream::LocalStream(int standard_fd, Direction direction) : standard_fd_(standard_fd) {
  struct stat status{};
  if (::fstat(standard_fd, &status) != 0) return;
  if (S_ISSOCK(status.st_mode)) way_ = Way::kSocket;
  bool is_terminal = ::isatty(standard_fd) != 0;
  if (!is_terminal && !S_ISFIFO(status.st_mode)) return;
  way_ = Way::kShared;
  is_pipe_ = !is_terminal;
  // Opening a master again would make another pair of terminals.
  if (is_terminal && is_pty_master(standard_fd)) return;
  int access = direction == Direction::kRead ? O_RDONLY : O_WRONLY;
  auto own = open_file(formatted("/proc/self/fd/{}", standard_fd), access | O_NONBLOCK | O_NOCTTY);
  if (!own) return;
  own_ = std::move(*own);
  way_ = Way::kOwn;
}

bool LocalStream::ready(short events) const {
  pollfd entry{standard_fd_, events, 0};
  return ::poll(&entry, 1, 0) > 0;
}

Result<std::optional<std::size_t>> LocalStream::read(std::span<char> into) {
  if (way_ == Way::kShared && !ready(POLLIN)) return std::nullopt;
  ssize_t count = way_ == Way::kSocket
                      ? ::recv(standard_fd_, into.data(), into.size(), MSG_DONTWAIT)
                      : ::read(fd(), into.data(), into.size());
  if (count >= 0) return static_cast<std::size_t>(count);
  if (errno == EAGAIN || errno == EINTR) return std::nullopt;
  return fail_errno(errno, "read standard input");
}

Result<std::optional<std::size_t>> LocalStream::write(std::string_view data) {
  if (way_ == Way::kShared) {
    if (!ready(POLLOUT)) return std::nullopt;
    data = data.substr(0, ::isatty(standard_fd_) != 0 ? kTerminalBytes : kPipeBytes);
  }
  ssize_t count = way_ == Way::kSocket
                      ? ::send(standard_fd_, data.data(), data.size(), MSG_DONTWAIT | MSG_NOSIGNAL)
                      : ::write(fd(), data.data(), data.size());
  if (count >= 0) return static_cast<std::size_t>(count);
  if (errno == EAGAIN || errno == EINTR) return std::nullopt;
  return fail_errno(
      errno, formatted("write to standard {}", standard_fd_ == STDERR_FILENO ? "error" : "output"));
}

void LocalStream::close() {
  // A terminal has no other end that waits for this, and its settings are still needed.
  if (way_ == Way::kFile || ::isatty(standard_fd_) != 0) return;
  own_.reset();
  way_ = Way::kFile;
  if (auto null = open_file("/dev/null", O_RDWR)) (void)::dup2(null->get(), standard_fd_);
}

}  // namespace gestalt::cli
