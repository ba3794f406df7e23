#include "migrate/group_holder.h"

#include <linux/sched.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>

#include "common/format.h"

namespace gestalt {

Result<GroupHolder> GroupHolder::make(pid_t group) {
  clone_args arguments{};
  arguments.exit_signal = SIGCHLD;
  arguments.set_tid = reinterpret_cast<std::uint64_t>(&group);
  arguments.set_tid_size = 1;
  auto pid = static_cast<pid_t>(::syscall(SYS_clone3, &arguments, sizeof arguments));
  if (pid == 0) {
    (void)::prctl(PR_SET_PDEATHSIG, SIGKILL);
    while (true) ::pause();
  }
  if (pid < 0) return fail_errno(errno, formatted("hold process group {}", group));
  GroupHolder holder(pid);
  if (::setpgid(pid, pid) != 0) return fail_errno(errno, formatted("make group {}", group));
  return holder;
}

GroupHolder::~GroupHolder() {
  if (pid_ == 0) return;
  (void)::kill(pid_, SIGKILL);
  (void)::waitpid(pid_, nullptr, 0);
}

}  // namespace gestalt
