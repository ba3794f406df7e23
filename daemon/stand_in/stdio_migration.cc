// StdioRelay's part in a migration: what lies in pipes and terminal goes along.

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <filesystem>

#include "common/format.h"
#include "common/log.h"
#include "daemon/stand_in/stdio_relay.h"

namespace gestalt {
namespace {

std::uint64_t pipe_inode(int fd) {
  struct stat info{};
  return fd >= 0 && ::fstat(fd, &info) == 0 ? info.st_ino : 0;
}

// A reading end of the pipe that some process of the job still has open.
Fd find_reader(const std::vector<pid_t>& pids, std::uint64_t inode) {
  std::string wanted = formatted("pipe:[{}]", inode);
  std::error_code error;
  for (pid_t pid : pids) {
    for (const auto& entry :
         std::filesystem::directory_iterator(formatted("/proc/{}/fd", pid), error)) {
      if (std::filesystem::read_symlink(entry.path(), error) != wanted) continue;
      if (auto fd = open_file(entry.path(), O_RDONLY | O_NONBLOCK)) return std::move(*fd);
    }
  }
  return {};
}

// A copy of what lies in a pipe; it stays there as well.
Result<std::string> peek_pipe(int reader) {
  GESTALT_ASSIGN(auto copy, make_pipe());
  int size = ::fcntl(reader, F_GETPIPE_SZ);
  if (size < 0 || ::fcntl(copy.write.get(), F_SETPIPE_SZ, size) < 0)
    return fail_errno(errno, "size a pipe");
  ssize_t count =
      ::tee(reader, copy.write.get(), static_cast<std::size_t>(size), SPLICE_F_NONBLOCK);
  if (count < 0 && errno != EAGAIN) return fail_errno(errno, "copy a pipe's content");
  std::string content(count > 0 ? static_cast<std::size_t>(count) : 0, '\0');
  GESTALT_TRY(read_exact(copy.read.get(), std::as_writable_bytes(std::span(content)),
                         deadline_in(std::chrono::seconds(1))));
  return content;
}

// Room for `bytes` in a pipe, beyond the usual 64 KiB if need be.
Result<void> fill_pipe(int writer, const std::string& bytes) {
  if (bytes.empty()) return {};
  if (::fcntl(writer, F_GETPIPE_SZ) < static_cast<int>(bytes.size()) &&
      ::fcntl(writer, F_SETPIPE_SZ, static_cast<int>(bytes.size())) < 0)
    return fail_errno(errno, "enlarge a pipe");
  return write_all(writer, std::as_bytes(std::span(bytes)), deadline_in(std::chrono::seconds(1)));
}

}  // namespace

void StdioRelay::drain_output(Output& output, wire::HandOverOutput& out) {
  out.set_pipe_inode(pipe_inode(output.pipe.get()));
  char buffer[16384];
  while (fd_of(output) >= 0 && !output.ended && !output.closed) {
    ssize_t count = ::read(fd_of(output), buffer, sizeof buffer);
    if (count < 0 && errno == EINTR) continue;
    if (count <= 0) break;
    output.sender.push({buffer, static_cast<std::size_t>(count)});
  }
  out.set_base_offset(output.sender.base_offset());
  out.set_pending(output.sender.pending());
  out.set_eof(output.ended);
  out.set_closed(output.closed);
}

Result<void> StdioRelay::freeze_input(const std::vector<pid_t>& pids, wire::HandOverInput& input) {
  input.set_consumed_offset(input_.receiver.consumed_offset());
  input.set_pending(input_.receiver.pending());
  input.set_eof(input_.receiver.eof());
  input.set_closed(input_.closed);
  if (stdio_.in() != wire::STDIO_PIPE || input_.closed) return {};
  input.set_pipe_inode(input_inode_);
  Fd reader = find_reader(pids, input_inode_);
  if (!reader) return {};  // every process has closed its stdin
  GESTALT_ASSIGN(auto unread, peek_pipe(reader.get()));
  input.set_unread(std::move(unread));
  return {};
}

Result<void> StdioRelay::freeze(const std::vector<pid_t>& pids, wire::HandOver& hand_over) {
  running_ = false;
  leave_direct();
  unwatch_all();
  *hand_over.mutable_stdio() = stdio_;
  if (terminal_ && terminal_->master() >= 0) {
    *hand_over.mutable_stdio()->mutable_window() = terminal_->window();
    hand_over.set_termios(terminal_->settings());
    hand_over.set_terminal_name(terminal_->name());
    foreground_group_ = waiting_group_ != 0 ? waiting_group_ : terminal_->foreground_group();
    hand_over.set_foreground_group(static_cast<std::uint32_t>(foreground_group_));
    GESTALT_ASSIGN(terminal_unread_, terminal_->take_unread());
  }
  drain_output(outputs_[0], *hand_over.mutable_output());
  drain_output(outputs_[1], *hand_over.mutable_error());
  GESTALT_TRY(freeze_input(pids, *hand_over.mutable_input()));
  if (stdio_.in() == wire::STDIO_TTY) hand_over.mutable_input()->set_unread(terminal_unread_);
  return {};
}

void StdioRelay::thaw() {
  if (terminal_ && terminal_->master() >= 0) {
    auto put = terminal_->put_unread(std::exchange(terminal_unread_, {}));
    if (!put) log::error("terminal input", log::field("error", put.error().text()));
  }
  running_ = true;
  watch_all();
  for (auto& output : outputs_) send_output(output);
  write_input();
}

Result<void> StdioRelay::restore_output(Output& output, const wire::HandOverOutput& from,
                                        RestorePlan& plan) {
  output.sender.restore(from.base_offset(), from.pending(), from.eof());
  output.closed = from.closed();
  output.ended = output.ended || from.eof();
  if (output.job_end && !from.shared_file().empty())
    plan.inherited.emplace_back(from.shared_file(), output.job_end.get());
  else if (output.job_end && from.pipe_inode() != 0)
    plan.inherited.emplace_back(formatted("pipe:[{}]", from.pipe_inode()), output.job_end.get());
  if (output.closed) output.pipe.reset();
  return {};
}

Result<void> StdioRelay::restore_input(const wire::HandOverInput& from, RestorePlan& plan) {
  input_.receiver.restore(from.consumed_offset(), from.pending(), from.eof());
  input_.closed = from.closed();
  if (stdio_.in() != wire::STDIO_PIPE) return {};
  if (from.pipe_inode() != 0) {
    GESTALT_TRY(fill_pipe(input_.pipe.get(), from.unread()));
    plan.inherited.emplace_back(formatted("pipe:[{}]", from.pipe_inode()), input_.job_end.get());
  }
  if (input_.closed || input_.receiver.at_eof()) input_.pipe.reset();
  return {};
}

Result<RestorePlan> StdioRelay::restore(const wire::HandOver& hand_over) {
  RestorePlan plan;
  GESTALT_TRY(make_pipes(hand_over.stdio()));
  if (!hand_over.termios().empty()) {
    auto owner = hand_over.identity().uid();
    GESTALT_ASSIGN(terminal_, held_terminal_ ? Terminal::adopt(std::move(held_terminal_), owner)
                                             : Terminal::create(owner));
    terminal_->set_settings(hand_over.termios());
    terminal_->resize(hand_over.stdio().window());
    plan.terminal = terminal_->slave();
    plan.terminal_name = hand_over.terminal_name();
    foreground_group_ = static_cast<pid_t>(hand_over.foreground_group());
    terminal_unread_ = hand_over.stdio().in() == wire::STDIO_TTY ? hand_over.input().unread() : "";
  }
  GESTALT_TRY(restore_output(outputs_[0], hand_over.output(), plan));
  GESTALT_TRY(restore_output(outputs_[1], hand_over.error(), plan));
  GESTALT_TRY(restore_input(hand_over.input(), plan));
  return plan;
}

Result<void> StdioRelay::before_resume(pid_t root) {
  if (!terminal_) return {};
  // Of a session's process: whether its group is in the foreground, the home node decides.
  if (foreground_group_ == 0) foreground_group_ = ::getpgid(root);
  terminal_->set_foreground_group(foreground_group_);
  return terminal_->put_unread(std::exchange(terminal_unread_, {}));
}

}  // namespace gestalt
