#include "common/fd.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <climits>
#include <cstdio>

#include "common/format.h"

namespace gestalt {

void Fd::reset() {
  if (fd_ >= 0) ::close(fd_);
  fd_ = -1;
}

Result<Fd> open_at(int directory, const std::string& path, int flags, mode_t mode) {
  Fd fd(::openat(directory, path.c_str(), flags | O_CLOEXEC, mode));
  if (!fd) return fail_errno(errno, formatted("open {}", path));
  return fd;
}

Result<Fd> open_file(const std::string& path, int flags, mode_t mode) {
  return open_at(AT_FDCWD, path, flags, mode);
}

Result<Pipe> make_pipe() {
  int ends[2];
  if (::pipe2(ends, O_CLOEXEC) != 0) return fail_errno(errno, "make a pipe");
  return Pipe{Fd(ends[0]), Fd(ends[1])};
}

Result<Fd> duplicate(int fd) {
  Fd copy(::fcntl(fd, F_DUPFD_CLOEXEC, 3));
  if (!copy) return fail_errno(errno, formatted("duplicate descriptor {}", fd));
  return copy;
}

Result<void> set_nonblocking(int fd, bool nonblocking) {
  int flags = ::fcntl(fd, F_GETFL);
  if (flags < 0) return fail_errno(errno, "read descriptor flags");
  int wanted = nonblocking ? flags | O_NONBLOCK : flags & ~O_NONBLOCK;
  if (wanted != flags && ::fcntl(fd, F_SETFL, wanted) != 0)
    return fail_errno(errno, "set descriptor flags");
  return {};
}

Result<void> wait_for(int fd, short events, Deadline deadline) {
  while (true) {
    pollfd entry{fd, events, 0};
    int ready = ::poll(&entry, 1, remaining_milliseconds(deadline));
    if (ready > 0) {
      if ((entry.revents & POLLNVAL) != 0) return fail_errno(EBADF, "poll");
      return {};
    }
    if (ready == 0) return fail(ErrorCode::kTimeout, "timed out waiting for the peer");
    if (errno != EINTR) return fail_errno(errno, "poll");
  }
}

Result<void> read_exact(int fd, std::span<std::byte> into, Deadline deadline) {
  while (!into.empty()) {
    GESTALT_TRY(wait_for(fd, POLLIN, deadline));
    ssize_t count = ::read(fd, into.data(), into.size());
    if (count == 0) return fail(ErrorCode::kUnavailable, "the peer closed the connection");
    if (count < 0) {
      if (errno == EINTR || errno == EAGAIN) continue;
      return fail_errno(errno, "read");
    }
    into = into.subspan(static_cast<std::size_t>(count));
  }
  return {};
}

namespace {

// A blocking write of a large piece would wait for room for all of it, whatever the
// deadline: sockets are asked not to, pipes get what fits once they are writable.
ssize_t write_some(int fd, std::span<const std::byte> from) {
  ssize_t count = ::send(fd, from.data(), from.size(), MSG_DONTWAIT | MSG_NOSIGNAL);
  if (count >= 0 || errno != ENOTSOCK) return count;
  struct stat info{};
  bool file = ::fstat(fd, &info) == 0 && S_ISREG(info.st_mode);
  int flags = ::fcntl(fd, F_GETFL);
  bool may_block = !file && flags >= 0 && (flags & O_NONBLOCK) == 0;
  return ::write(fd, from.data(),
                 may_block ? std::min<std::size_t>(from.size(), PIPE_BUF) : from.size());
}

}  // namespace

Result<void> write_all(int fd, std::span<const std::byte> from, Deadline deadline) {
  while (!from.empty()) {
    GESTALT_TRY(wait_for(fd, POLLOUT, deadline));
    ssize_t count = write_some(fd, from);
    if (count < 0) {
      if (errno == EINTR || errno == EAGAIN) continue;
      return fail_errno(errno, "write");
    }
    from = from.subspan(static_cast<std::size_t>(count));
  }
  return {};
}

Result<std::string> read_file_at(int directory, const std::string& path, std::size_t limit_bytes) {
  GESTALT_ASSIGN(auto fd, open_at(directory, path, O_RDONLY));
  std::string content;
  char buffer[16384];
  while (true) {
    ssize_t count = ::read(fd.get(), buffer, sizeof buffer);
    if (count == 0) return content;
    if (count < 0) {
      if (errno == EINTR) continue;
      return fail_errno(errno, formatted("read {}", path));
    }
    content.append(buffer, static_cast<std::size_t>(count));
    if (content.size() > limit_bytes)
      return fail(ErrorCode::kInvalidArgument,
                  formatted("{} has more than {} bytes", path, limit_bytes));
  }
}

Result<std::string> read_file(const std::string& path, std::size_t limit_bytes) {
  return read_file_at(AT_FDCWD, path, limit_bytes);
}

Result<void> write_control_file(const std::string& path, const std::string& text) {
  GESTALT_ASSIGN(auto fd, open_file(path, O_WRONLY));
  if (::write(fd.get(), text.data(), text.size()) != static_cast<ssize_t>(text.size()))
    return fail_errno(errno, formatted("write \"{}\" to {}", text, path));
  return {};
}

Result<void> replace_file(const std::string& path, const std::string& content, mode_t mode) {
  std::string temporary = formatted("{}.new-{}", path, ::getpid());
  {
    // A new file: one that lies there already may be a link, or open to others.
    ::unlink(temporary.c_str());
    GESTALT_ASSIGN(auto fd, open_file(temporary, O_WRONLY | O_CREAT | O_EXCL, mode));
    auto written = write_all(fd.get(), std::as_bytes(std::span(content)),
                             deadline_in(std::chrono::seconds(30)));
    if (written && (::fchmod(fd.get(), mode) != 0 || ::fsync(fd.get()) != 0))
      written = fail_errno(errno, formatted("sync {}", temporary));
    if (!written) {
      ::unlink(temporary.c_str());
      return written;
    }
  }
  if (::rename(temporary.c_str(), path.c_str()) != 0) {
    int error_number = errno;
    ::unlink(temporary.c_str());
    return fail_errno(error_number, formatted("rename {} to {}", temporary, path));
  }
  return {};
}

}  // namespace gestalt
