#include "daemon/stand_in/terminal.h"

#include <fcntl.h>
#include <grp.h>
#include <poll.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstdlib>
#include <cstring>

#include "common/format.h"

namespace gestalt {
namespace {

constexpr gid_t kTtyGroup = 5;  // as devpts is mounted with, everywhere
constexpr std::size_t kMaxUnreadBytes = 64U << 10;

}  // namespace

Result<Fd> Terminal::open_slave() const {
  Fd slave(::ioctl(master_.get(), TIOCGPTPEER, O_RDWR | O_NOCTTY | O_CLOEXEC));
  if (!slave) return fail_errno(errno, "open a pseudo-terminal's other end");
  return slave;
}

Result<Terminal> Terminal::create(uid_t owner) {
  Fd master(::posix_openpt(O_RDWR | O_NOCTTY | O_CLOEXEC));
  if (!master) return fail_errno(errno, "open a pseudo-terminal", "mount devpts at /dev/pts");
  int locked = 0;
  if (::ioctl(master.get(), TIOCSPTLCK, &locked) != 0)
    return fail_errno(errno, "unlock a pseudo-terminal");
  Terminal terminal(std::move(master), Fd());
  GESTALT_ASSIGN(terminal.slave_, terminal.open_slave());
  GESTALT_TRY(terminal.give_to(owner));
  if (::ioctl(terminal.slave_.get(), TIOCSCTTY, 0) != 0)
    return fail_errno(errno, "make a pseudo-terminal the session's");
  GESTALT_TRY(set_nonblocking(terminal.master_.get(), true));
  return terminal;
}

Result<Terminal> Terminal::adopt(Fd master, uid_t owner) {
  Terminal terminal(std::move(master), Fd());
  GESTALT_ASSIGN(terminal.slave_, terminal.open_slave());
  GESTALT_TRY(terminal.give_to(owner));
  GESTALT_TRY(set_nonblocking(terminal.master_.get(), true));
  return terminal;
}

Result<void> Terminal::give_to(uid_t owner) {
  if (::fchown(slave_.get(), owner, kTtyGroup) != 0 || ::fchmod(slave_.get(), 0620) != 0)
    return fail_errno(errno, "give a pseudo-terminal to its user");
  return {};
}

std::string Terminal::name() const {
  int number = 0;
  return ::ioctl(master_.get(), TIOCGPTN, &number) == 0 ? formatted("/dev/pts/{}", number) : "";
}

void Terminal::resize(const wire::WindowSize& window) {
  winsize size{};
  size.ws_row = static_cast<unsigned short>(window.rows());
  size.ws_col = static_cast<unsigned short>(window.columns());
  size.ws_xpixel = static_cast<unsigned short>(window.x_pixels());
  size.ws_ypixel = static_cast<unsigned short>(window.y_pixels());
  if (master_) (void)::ioctl(master_.get(), TIOCSWINSZ, &size);
}

wire::WindowSize Terminal::window() const {
  winsize size{};
  (void)::ioctl(master_.get(), TIOCGWINSZ, &size);
  wire::WindowSize out;
  out.set_rows(size.ws_row);
  out.set_columns(size.ws_col);
  out.set_x_pixels(size.ws_xpixel);
  out.set_y_pixels(size.ws_ypixel);
  return out;
}

void Terminal::set_settings(const std::string& termios_bytes) {
  termios settings{};
  if (termios_bytes.size() != sizeof settings) return;
  std::memcpy(&settings, termios_bytes.data(), sizeof settings);
  (void)::tcsetattr(master_.get(), TCSANOW, &settings);
}

std::string Terminal::settings() const {
  termios settings{};
  if (::tcgetattr(master_.get(), &settings) != 0) return {};
  return {reinterpret_cast<const char*>(&settings), sizeof settings};
}

pid_t Terminal::foreground_group() const {
  pid_t group = ::tcgetpgrp(master_.get());
  return group > 0 ? group : 0;
}

void Terminal::set_foreground_group(pid_t group) {
  // SIGTTOU is blocked in the stand-in, so that this works from the background.
  if (group > 0) (void)::tcsetpgrp(master_.get(), group);
}

// Without canonical mode all that was typed can be read, also an unfinished line.
Result<termios> Terminal::make_raw() {
  termios before{};
  if (::tcgetattr(master_.get(), &before) != 0) return fail_errno(errno, "read terminal settings");
  termios raw = before;
  ::cfmakeraw(&raw);
  raw.c_cc[VMIN] = 0;
  raw.c_cc[VTIME] = 0;
  if (::tcsetattr(master_.get(), TCSANOW, &raw) != 0)
    return fail_errno(errno, "change terminal settings");
  return before;
}

Result<std::string> Terminal::take_unread() {
  GESTALT_ASSIGN(auto slave, open_slave());
  GESTALT_ASSIGN(auto before, make_raw());
  // Only the foreground may read from a controlling terminal.
  pid_t foreground = foreground_group();
  set_foreground_group(::getpgrp());
  GESTALT_TRY(set_nonblocking(slave.get(), true));
  std::string unread;
  char buffer[4096];
  for (ssize_t count = 0; (count = ::read(slave.get(), buffer, sizeof buffer)) > 0;)
    unread.append(buffer, static_cast<std::size_t>(count));
  set_foreground_group(foreground);
  (void)::tcsetattr(master_.get(), TCSANOW, &before);
  return unread;
}

Result<void> Terminal::put_unread(const std::string& input) {
  if (input.empty()) return {};
  if (input.size() > kMaxUnreadBytes)
    return fail(ErrorCode::kProtocol, "more typed input than a terminal holds");
  GESTALT_ASSIGN(auto slave, open_slave());
  GESTALT_ASSIGN(auto before, make_raw());
  (void)!::write(master_.get(), input.data(), input.size());
  // The line discipline takes it up in its own time; the old mode must not see it before.
  Deadline deadline = deadline_in(milliseconds(500));
  for (int ready = 0; ready < static_cast<int>(input.size()) && Clock::now() < deadline;) {
    (void)::poll(nullptr, 0, 1);
    if (::ioctl(slave.get(), FIONREAD, &ready) != 0) break;
  }
  (void)::tcsetattr(master_.get(), TCSANOW, &before);
  return {};
}

}  // namespace gestalt
