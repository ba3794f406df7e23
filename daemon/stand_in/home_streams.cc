#include "daemon/stand_in/home_streams.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <termios.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <filesystem>
#include <sstream>

#include "common/format.h"
#include "common/log.h"
#include "common/proc.h"
#include "migrate/held_process.h"

namespace gestalt {
namespace {

constexpr auto kWriteTimeout = std::chrono::seconds(2);
constexpr std::size_t kPipeSlack = 64U << 10;  // the kernel counts pages, and some are half full

// The same file, opened anew, so that it can be used without blocking.
Result<Fd> open_again(int fd, int flags) {
  return open_file(formatted("/proc/self/fd/{}", fd), flags | O_NONBLOCK | O_NOCTTY);
}

bool writes(pid_t pid, const std::string& number) {
  auto info = read_file(formatted("/proc/{}/fdinfo/{}", pid, number));
  auto at = info ? info->find("flags:") : std::string::npos;
  unsigned flags = 0;
  if (at == std::string::npos) return false;
  std::istringstream words(info->substr(at + 6));
  return (words >> std::oct >> flags) && (flags & O_ACCMODE) != O_RDONLY;
}

bool writes_into(pid_t pid, const std::string& pipe) {
  std::error_code error;
  for (const auto& entry :
       std::filesystem::directory_iterator(formatted("/proc/{}/fd", pid), error))
    if (std::filesystem::read_symlink(entry.path(), error) == pipe &&
        writes(pid, entry.path().filename().string()))
      return true;
  return false;
}

Result<void> make_room(int pipe, std::size_t bytes) {
  int queued = 0;
  (void)::ioctl(pipe, FIONREAD, &queued);
  auto wanted = static_cast<std::size_t>(queued) + bytes + kPipeSlack;
  if (std::cmp_greater_equal(::fcntl(pipe, F_GETPIPE_SZ), wanted) ||
      ::fcntl(pipe, F_SETPIPE_SZ, static_cast<int>(wanted)) >= 0)
    return {};
  return fail(ErrorCode::kBlocked,
              formatted("{} bytes of standard input were taken in, and its pipe has no room for "
                        "them ({})",
                        bytes, ::strerror(errno)),
              "try again when the process has read them");
}

Result<void> write_pipe(int pipe, const std::string& bytes) {
  if (bytes.empty()) return {};
  GESTALT_ASSIGN(auto writer, open_again(pipe, O_WRONLY));
  return write_all(writer.get(), std::as_bytes(std::span(bytes)), deadline_in(kWriteTimeout));
}

std::string read_available(int fd) {
  std::string out;
  char buffer[65536];
  for (ssize_t count; (count = ::read(fd, buffer, sizeof buffer)) > 0;)
    out.append(buffer, static_cast<std::size_t>(count));
  return out;
}

}  // namespace

bool HomeStreams::is_fifo(int number) const {
  struct stat info{};
  return home_.stream(number) >= 0 && ::fstat(home_.stream(number), &info) == 0 &&
         S_ISFIFO(info.st_mode);
}

bool HomeStreams::is_terminal(int number) const {
  return home_.stream(number) >= 0 && ::isatty(home_.stream(number)) == 1;
}

// What is beyond `offset`, which the deputy has written.
Result<std::string> HomeStreams::rest_of(const wire::HandOverOutput& output,
                                         std::uint64_t offset) const {
  if (output.closed()) return std::string();
  auto base = output.base_offset();
  if (offset < base || offset - base > output.pending().size())
    return fail(ErrorCode::kProtocol, "the deputy has written what the process has not");
  return output.pending().substr(offset - base);
}

// What the process has not read: in its pipe or terminal there, on the way, or with the deputy.
Result<void> HomeStreams::take_input() {
  const auto& there = hand_over_.input();
  auto received = there.consumed_offset() + there.pending().size();
  auto base = state_.input_offset();
  if (received < base || received - base > state_.input_pending().size())
    return fail(ErrorCode::kProtocol, "the process has read what the deputy has not");
  input_ = there.unread() + there.pending() + state_.input_pending().substr(received - base);
  if (there.closed() || state_.input_closed()) input_.clear();
  if (input_.empty() || is_fifo(0) || is_terminal(0)) return {};
  return fail(
      ErrorCode::kBlocked,
      formatted("{} bytes of standard input were taken in, and cannot be put back", input_.size()),
      "try again when the process has read them");
}

Result<RestorePlan> HomeStreams::restore(wire::HandOver hand_over, wire::DeputyState state) {
  hand_over_ = std::move(hand_over);
  state_ = std::move(state);
  outputs_.clear();
  GESTALT_ASSIGN(auto output, rest_of(hand_over_.output(), state_.output_offset()));
  outputs_.push_back({STDOUT_FILENO, std::move(output)});
  GESTALT_ASSIGN(auto error, rest_of(hand_over_.error(), state_.error_offset()));
  outputs_.push_back({STDERR_FILENO, std::move(error)});
  GESTALT_TRY(take_input());
  RestorePlan plan;
  plan.home = &home_;
  plan.root = static_cast<pid_t>(hand_over_.job().pid());
  const std::pair<std::uint64_t, int> pipes[] = {{hand_over_.input().pipe_inode(), 0},
                                                 {hand_over_.output().pipe_inode(), 1},
                                                 {hand_over_.error().pipe_inode(), 2}};
  for (auto [inode, number] : pipes)
    if (inode != 0 && home_.stream(number) >= 0)
      plan.inherited.emplace_back(formatted("pipe:[{}]", inode), home_.stream(number));
  for (int number = 2; number >= 0; --number)
    if (is_terminal(number)) plan.terminal = home_.stream(number);
  plan.terminal_name = hand_over_.terminal_name();
  return plan;
}

Result<void> HomeStreams::deliver() {
  for (const auto& output : outputs_) GESTALT_TRY(write_output(output));
  GESTALT_TRY(put_back_input());
  if (!state_.terminal_was_raw() || hand_over_.termios().size() != sizeof(termios)) return {};
  termios settings{};
  std::copy_n(hand_over_.termios().data(), sizeof settings, reinterpret_cast<char*>(&settings));
  for (int number = 0; number < 3; ++number)
    if (is_terminal(number)) {
      (void)::tcsetattr(home_.stream(number), TCSANOW, &settings);
      break;
    }
  return {};
}

Result<void> HomeStreams::write_output(const Output& output) {
  if (output.rest.empty() || home_.stream(output.number) < 0) return {};
  if (is_fifo(output.number)) {
    // Nobody reads it any more: the process hears of that when it writes.
    pollfd entry{home_.stream(output.number), POLLOUT, 0};
    if (::poll(&entry, 1, 0) > 0 && (entry.revents & POLLERR) != 0) return {};
    (void)make_room(home_.stream(output.number), output.rest.size());  // its reader may be slow
  }
  struct stat info{};
  // Who shares its offset goes on behind what is written now.
  if (::fstat(home_.stream(output.number), &info) == 0 && S_ISREG(info.st_mode))
    return write_for_deputy(output, home_.stream(output.number));
  GESTALT_ASSIGN(auto file, open_again(home_.stream(output.number), O_WRONLY));
  return write_for_deputy(output, file.get());
}

// If nobody takes it in time, another deputy has to know how much is written.
Result<void> HomeStreams::write_for_deputy(const Output& output, int fd) {
  auto deadline = deadline_in(kWriteTimeout);
  for (std::string_view rest = output.rest; !rest.empty();) {
    ssize_t count = ::write(fd, rest.data(), rest.size());
    if (count < 0 && errno == EAGAIN) {
      if (auto ready = wait_for(fd, POLLOUT, deadline); !ready)
        return fail(
            ErrorCode::kTimeout,
            formatted("nobody takes the {} bytes of output that are on the way", rest.size()),
            "go on at the terminal (Ctrl-Q), or let its reader read; then try again");
      continue;
    }
    if (count < 0) return fail_errno(errno, "write what the deputy had not written");
    home_.written_for_deputy(output.number, static_cast<std::uint64_t>(count));
    rest.remove_prefix(static_cast<std::size_t>(count));
  }
  return {};
}

Result<void> HomeStreams::put_back_input() const {
  if (input_.empty()) return {};
  return is_fifo(STDIN_FILENO) ? refill_pipe() : type_again();
}

// In front of what has come since: no writer may write in between.
Result<void> HomeStreams::refill_pipe() const {
  std::error_code error;
  auto pipe = std::filesystem::read_symlink(
                  formatted("/proc/self/fd/{}", home_.stream(STDIN_FILENO)), error)
                  .string();
  GESTALT_ASSIGN(auto own, unit_.processes());
  std::vector<std::unique_ptr<HeldProcess>> held;
  GESTALT_ASSIGN(auto pids, list_pids("/proc"));
  for (pid_t pid : pids) {
    if (pid == ::getpid() || std::ranges::contains(own, pid) || !writes_into(pid, pipe)) continue;
    auto one = HeldProcess::hold(pid);
    if (!one && one.error().code == ErrorCode::kGone) continue;
    if (!one) return std::unexpected(std::move(one).error().in("hold who writes its input"));
    held.push_back(std::move(*one));
  }
  // Before anything is taken out.
  GESTALT_TRY(make_room(home_.stream(STDIN_FILENO), input_.size()));
  GESTALT_ASSIGN(auto reader, open_again(home_.stream(STDIN_FILENO), O_RDONLY));
  return write_pipe(reader.get(), input_ + read_available(reader.get()));
}

Result<void> HomeStreams::type_again() const {
  GESTALT_ASSIGN(auto terminal, open_again(home_.stream(STDIN_FILENO), O_RDONLY));
  for (char c : input_)
    if (::ioctl(terminal.get(), TIOCSTI, &c) != 0)
      return fail_errno(errno, "put back what was typed");
  return {};
}

}  // namespace gestalt
