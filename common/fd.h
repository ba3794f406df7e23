// File descriptors as values, and reads and writes that end by a deadline.
#pragma once

#include <sys/types.h>

#include <cstddef>
#include <span>
#include <string>
#include <utility>

#include "common/clock.h"
#include "common/result.h"

namespace gestalt {

// Owns a file descriptor; closes it when it goes. Not thread-safe.
class Fd {
 public:
  Fd() = default;
  explicit Fd(int fd) : fd_(fd) {}
  Fd(Fd&& other) noexcept : fd_(std::exchange(other.fd_, -1)) {}
  Fd& operator=(Fd&& other) noexcept {
    if (this != &other) {
      reset();
      fd_ = std::exchange(other.fd_, -1);
    }
    return *this;
  }
  Fd(const Fd&) = delete;
  Fd& operator=(const Fd&) = delete;
  ~Fd() { reset(); }

  [[nodiscard]] int get() const { return fd_; }
  [[nodiscard]] bool valid() const { return fd_ >= 0; }
  explicit operator bool() const { return valid(); }
  [[nodiscard]] int release() { return std::exchange(fd_, -1); }
  void reset();

 private:
  int fd_ = -1;
};

struct Pipe {
  Fd read;
  Fd write;
};

// All descriptors made here are close-on-exec.
[[nodiscard]] Result<Fd> open_file(const std::string& path, int flags, mode_t mode = 0600);
[[nodiscard]] Result<Fd> open_at(int directory, const std::string& path, int flags,
                                 mode_t mode = 0600);
[[nodiscard]] Result<Pipe> make_pipe();
[[nodiscard]] Result<Fd> duplicate(int fd);
[[nodiscard]] Result<void> set_nonblocking(int fd, bool nonblocking);

// Waits until `events` (poll(2)) show on fd; kTimeout when the deadline passes.
[[nodiscard]] Result<void> wait_for(int fd, short events, Deadline deadline);

// Exactly this many bytes, from a blocking or non-blocking descriptor. An end of file
// before that is kUnavailable.
[[nodiscard]] Result<void> read_exact(int fd, std::span<std::byte> into, Deadline deadline);
[[nodiscard]] Result<void> write_all(int fd, std::span<const std::byte> from, Deadline deadline);

// Whole small files (procfs, config, images); more than `limit_bytes` is an error.
inline constexpr std::size_t kSmallFileBytes = 16U << 20;
[[nodiscard]] Result<std::string> read_file(const std::string& path,
                                            std::size_t limit_bytes = kSmallFileBytes);
[[nodiscard]] Result<std::string> read_file_at(int directory, const std::string& path,
                                               std::size_t limit_bytes = kSmallFileBytes);
// One write(2) to an existing file, as procfs and cgroupfs want it.
[[nodiscard]] Result<void> write_control_file(const std::string& path, const std::string& text);
// Written beside, synced and renamed, so that a reader sees the old or the new content.
[[nodiscard]] Result<void> replace_file(const std::string& path, const std::string& content,
                                        mode_t mode);

}  // namespace gestalt
