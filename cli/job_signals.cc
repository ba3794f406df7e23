#include "cli/job_signals.h"

#include <signal.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <ctime>

#include "common/log.h"

namespace gestalt::cli {
namespace {

// A blocked signal is kept even where it is ignored, so such ones must not be taken.
bool is_ignored(int signal) {
  struct sigaction action{};
  return ::sigaction(signal, nullptr, &action) == 0 && action.sa_handler == SIG_IGN;
}

// All that would end or stop a program, or that it may wait for. Not those of its own
// faults, nor SIGTTIN and SIGTTOU, which are about this process and its terminal.
sigset_t forwarded_signals() {
  sigset_t set;
  ::sigemptyset(&set);
  for (int signal : {SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGUSR1, SIGUSR2, SIGALRM, SIGVTALRM,
                     SIGPROF, SIGIO, SIGPWR, SIGSTKFLT, SIGTSTP, SIGCONT, SIGWINCH})
    if (!is_ignored(signal)) ::sigaddset(&set, signal);
  for (int signal = SIGRTMIN; signal <= SIGRTMAX; ++signal)
    if (!is_ignored(signal)) ::sigaddset(&set, signal);
  return set;
}

sigset_t all_signals() {
  sigset_t set;
  ::sigfillset(&set);
  for (int signal : {SIGKILL, SIGSTOP, SIGCHLD, SIGTTIN, SIGTTOU, SIGPIPE})
    ::sigdelset(&set, signal);
  for (int signal = 1; signal <= SIGRTMAX; ++signal)
    if (::sigismember(&set, signal) == 1) ::signal(signal, SIG_DFL);
  return set;
}

sigset_t only(int signal) {
  sigset_t set;
  ::sigemptyset(&set);
  ::sigaddset(&set, signal);
  return set;
}

void discard_pending(int signal) {
  sigset_t set = only(signal);
  timespec now{};
  while (::sigtimedwait(&set, nullptr, &now) > 0 || errno == EINTR) {
  }
}

}  // namespace

JobSignals::JobSignals(EventLoop& loop, Handler handler, bool all) : loop_(loop) {
  ::signal(SIGPIPE, SIG_IGN);  // a write says EPIPE
  sigset_t set = all ? all_signals() : forwarded_signals();
  ::sigprocmask(SIG_BLOCK, &set, nullptr);
  fd_ = Fd(::signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK));
  if (!fd_) {
    log::error("no signal descriptor", log::field("errno", errno));
    std::abort();  // with its signals blocked the command could not even be interrupted
  }
  loop_.watch(fd_.get(), EPOLLIN, [this, on_signal = std::move(handler)](std::uint32_t) {
    signalfd_siginfo info{};
    if (::read(fd_.get(), &info, sizeof info) == static_cast<ssize_t>(sizeof info)) on_signal(info);
  });
}

JobSignals::~JobSignals() { loop_.unwatch(fd_.get()); }

void stop_as(int signal, bool whole_group) {
  if (signal != SIGTSTP && signal != SIGTTIN && signal != SIGTTOU) signal = SIGSTOP;
  sigset_t set = only(signal);
  sigset_t old;
  if (whole_group) {
    ::kill(0, signal);
  } else {
    ::raise(signal);
  }
  // A blocked one waits until here, so that the process stops at this very place.
  ::sigprocmask(SIG_UNBLOCK, &set, &old);
  ::sigprocmask(SIG_SETMASK, &old, nullptr);
  discard_pending(SIGCONT);
}

void die_as(int signal) {
  rlimit none{};
  ::setrlimit(RLIMIT_CORE, &none);
  // A core that goes to a program by /proc/sys/kernel/core_pattern heeds no limit.
  ::prctl(PR_SET_DUMPABLE, 0);
  ::signal(signal, SIG_DFL);
  sigset_t set = only(signal);
  ::sigprocmask(SIG_UNBLOCK, &set, nullptr);
  ::raise(signal);
  ::_exit(128 + signal);
}

}  // namespace gestalt::cli
