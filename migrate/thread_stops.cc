#include "migrate/thread_stops.h"

#include <sys/ptrace.h>
#include <sys/wait.h>
#include <unistd.h>

#include "common/clock.h"
#include "common/format.h"
#include "common/proc.h"

namespace gestalt {
namespace {

constexpr auto kStopTimeout = std::chrono::seconds(2);

}  // namespace

Result<void> ThreadStops::stop_all() {
  for (bool found = true; found;) {
    found = false;
    auto threads = list_pids(formatted("/proc/{}/task", pid_));
    if (!threads) return fail(ErrorCode::kGone, formatted("process {} has ended", pid_));
    for (pid_t thread : *threads) {
      if (thread == pid_ || stopped_.contains(thread)) continue;
      GESTALT_TRY(stop(thread));
      found = true;
    }
  }
  return {};
}

Result<void> ThreadStops::stop(pid_t thread) {
  if (::ptrace(PTRACE_SEIZE, thread, nullptr, PTRACE_O_TRACESYSGOOD) != 0) {
    if (errno == ESRCH) return {};  // it has ended meanwhile
    return fail_errno(errno, formatted("trace thread {} of process {}", thread, pid_));
  }
  stopped_.insert(thread);
  if (::ptrace(PTRACE_INTERRUPT, thread, nullptr, nullptr) != 0 && errno != ESRCH)
    return fail_errno(errno, formatted("stop thread {} of process {}", thread, pid_));
  for (auto deadline = deadline_in(kStopTimeout); Clock::now() < deadline;) {
    int status = 0;
    pid_t got = ::waitpid(thread, &status, __WALL | WNOHANG);
    if (got == thread) return {};
    ::usleep(200);
  }
  return fail(ErrorCode::kBusy,
              formatted("thread {} of process {} cannot be stopped", thread, pid_));
}

void ThreadStops::reap() {
  std::erase_if(stopped_,
                [](pid_t thread) { return ::waitpid(thread, nullptr, __WALL | WNOHANG) != 0; });
}

}  // namespace gestalt
