// One of the caller's standard streams, read or written without ever blocking and
// without O_NONBLOCK on an open file that other programs share with us (the shell would
// find its own terminal non-blocking).
#pragma once

#include <cstddef>
#include <optional>
#include <span>
#include <string_view>

#include "common/fd.h"

namespace gestalt::cli {

class LocalStream {
 public:
  enum class Direction { kRead, kWrite };
  LocalStream(int standard_fd, Direction direction);

  // To be watched for readiness; not to be read or written.
  [[nodiscard]] int fd() const { return own_ ? own_.get() : standard_fd_; }
  // A pipe, by a description that nobody shares with us.
  [[nodiscard]] bool is_own_pipe() const { return way_ == Way::kOwn && is_pipe_; }
  // How many bytes; nothing where it would block; 0 at the end of the file.
  [[nodiscard]] Result<std::optional<std::size_t>> read(std::span<char> into);
  // How many were taken, nothing where it would block. A reader that is gone (EPIPE) is
  // kUnavailable.
  [[nodiscard]] Result<std::optional<std::size_t>> write(std::string_view data);
  // The other end of a pipe is to notice: the standard descriptor becomes /dev/null.
  void close();

 private:
  enum class Way {
    kOwn,     // our own description of the same pipe or terminal, non-blocking
    kSocket,  // asks for it in each call
    kShared,  // cannot be opened again: poll, then no more than surely fits
    kFile,    // never blocks for long; a new description would have another offset
  };
  [[nodiscard]] bool ready(short events) const;

  int standard_fd_;
  Fd own_;
  Way way_ = Way::kFile;
  bool is_pipe_ = false;
};

}  // namespace gestalt::cli
