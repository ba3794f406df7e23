#include "cli/terminal.h"

#include <signal.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstring>

namespace gestalt::cli {
namespace {

constexpr std::array<int, 6> kCrashes{SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGABRT, SIGSYS};

// What the handler of a crash needs: it may use nothing but these and tcsetattr.
volatile sig_atomic_t crash_fd = -1;
termios crash_settings{};

void on_crash(int signal) {
  if (crash_fd >= 0) ::tcsetattr(crash_fd, TCSANOW, &crash_settings);
  // SA_RESETHAND has put the default action back.
  ::raise(signal);
}

// tcsetattr from the background would stop the process. With SIGTTOU blocked it works.
void set_attributes(int fd, const termios& settings) {
  sigset_t set;
  sigset_t old;
  ::sigemptyset(&set);
  ::sigaddset(&set, SIGTTOU);
  ::sigprocmask(SIG_BLOCK, &set, &old);
  // Not TCSADRAIN: with its output held, a terminal would hold us as well.
  while (::tcsetattr(fd, TCSANOW, &settings) != 0 && errno == EINTR) {
  }
  ::sigprocmask(SIG_SETMASK, &old, nullptr);
}

}  // namespace

Terminal::Terminal(int fd) : fd_(fd) {
  if (fd_ >= 0) install_crash_handlers();
}

Terminal::~Terminal() { restore(); }

void Terminal::install_crash_handlers() {
  struct sigaction action{};
  action.sa_handler = on_crash;
  action.sa_flags = static_cast<int>(SA_RESETHAND | SA_NODEFER);
  for (int signal : kCrashes) ::sigaction(signal, &action, nullptr);
}

bool Terminal::in_foreground() const {
  if (fd_ < 0) return true;
  pid_t foreground = ::tcgetpgrp(fd_);
  return foreground < 0 || foreground == ::getpgrp();
}

void Terminal::make_raw() {
  if (fd_ < 0 || raw_ || !in_foreground()) return;
  if (::tcgetattr(fd_, &saved_) != 0) return;
  crash_settings = saved_;
  crash_fd = fd_;
  termios raw = saved_;
  ::cfmakeraw(&raw);
  set_attributes(fd_, raw);
  raw_ = true;
}

void Terminal::set_saved(const std::string& termios_bytes) {
  if (!raw_ || termios_bytes.size() != sizeof saved_) return;
  std::memcpy(&saved_, termios_bytes.data(), sizeof saved_);
  crash_settings = saved_;
}

bool Terminal::adds_returns(int fd) {
  termios settings{};
  return fd >= 0 && ::tcgetattr(fd, &settings) == 0 && (settings.c_oflag & OPOST) != 0 &&
         (settings.c_oflag & ONLCR) != 0;
}

void Terminal::restore() {
  if (!raw_) return;
  raw_ = false;
  crash_fd = -1;
  // In the background the shell has put its own settings there already.
  if (in_foreground()) set_attributes(fd_, saved_);
}

}  // namespace gestalt::cli
