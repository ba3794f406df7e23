#include "daemon/ghosts/ghost_stub.h"

#include <linux/capability.h>
#include <linux/futex.h>
#include <linux/prctl.h>
#include <sys/syscall.h>

#include <cerrno>
#include <csignal>
#include <ctime>

#include "common/raw_clone.h"
#include "daemon/ghosts/ghost_slot.h"

namespace gestalt {
namespace {

constexpr std::uint64_t kAllSignals = ~0ULL;
// Of those that came before it was to leave; whoever keeps sending must not hold it up.
constexpr int kLastRecords = 1024;

template <class T>
[[gnu::always_inline]] inline long address(const T& of) {
  return reinterpret_cast<long>(&of);
}

// The kernel asks for the saved id when somebody signals, so the owner's goes there, and to
// the effective one. The real one stays root's: then ghosts are not counted against the
// owner's RLIMIT_NPROC, and he does not pass the uid check of ptrace(2), prlimit(2) and the
// like, whatever else may hold.
[[gnu::always_inline]] inline long become(const GhostSlot& slot) {
  long done = raw_syscall(SYS_setgroups, 0, 0);
  if (done == 0) done = raw_syscall(SYS_setresgid, slot.gid, slot.gid, slot.gid);
  if (done == 0) done = raw_syscall(SYS_setresuid, -1, slot.uid, slot.uid);
  __user_cap_header_struct header{_LINUX_CAPABILITY_VERSION_3, 0};
  __user_cap_data_struct none[2] = {};
  if (done == 0) done = raw_syscall(SYS_capset, address(header), reinterpret_cast<long>(none));
  if (done == 0) done = raw_syscall(SYS_prctl, PR_SET_NO_NEW_PRIVS, 1);
  // The change of ids made the address space as dumpable as fs.suid_dumpable says, and
  // forgot the signal of the parent's death.
  if (done == 0) done = raw_syscall(SYS_prctl, PR_SET_DUMPABLE, 0);
  if (done == 0) done = raw_syscall(SYS_prctl, PR_SET_PDEATHSIG, SIGKILL);
  if (done == 0) done = raw_syscall(SYS_prctl, PR_SET_NAME, address(slot.name));
  // The keeper may have died before there was a signal for it.
  if (done == 0 && raw_syscall(SYS_getppid) != slot.keeper_pid) exit_thread(0);
  return done;
}

[[gnu::always_inline]] inline void wake_keeper(GhostSlot& slot) {
  slot.dirty->fetch_or(1ULL << slot.dirty_bit);
  std::uint64_t one = 1;
  raw_syscall(SYS_write, slot.wake_fd, address(one), sizeof one);
}

// While there is no room, signals stay pending in the kernel.
[[gnu::always_inline]] inline void wait_for_room(GhostSlot& slot) {
  while (true) {
    std::uint32_t read = slot.read.load();
    if (slot.written.load() - read < kGhostRecords) return;
    slot.full.store(1);
    raw_syscall(SYS_futex, address(slot.read), FUTEX_WAIT_PRIVATE, read, 0);
  }
}

[[gnu::always_inline]] inline void record(GhostSlot& slot, const siginfo_t& info) {
  std::uint32_t written = slot.written.load();
  auto& into = slot.records.data()[written % kGhostRecords];
  into.signal = info.si_signo;
  into.code = info.si_code;
  into.sender_pid = info.si_pid;
  into.sender_uid = info.si_uid;
  slot.written.store(written + 1);
  wake_keeper(slot);
}

[[gnu::always_inline]] inline bool is_nudge(const GhostSlot& slot, const siginfo_t& info) {
  return (info.si_signo == kGhostNudgeSignal || info.si_signo == SIGCONT) &&
         info.si_code == kGhostNudgeCode && info.si_pid == slot.keeper_pid;
}

}  // namespace

void run_ghost(void* argument) {
  auto& slot = *static_cast<GhostSlot*>(argument);
  long done = become(slot);
  slot.refused_errno = static_cast<int>(-done);
  slot.state.store(done == 0 ? kGhostReady : kGhostRefused);
  raw_syscall(SYS_futex, address(slot.state), FUTEX_WAKE_PRIVATE, 1);
  if (done != 0) exit_thread(1);
  constexpr timespec kNow{};
  siginfo_t info;
  for (int last_records = 0; last_records < kLastRecords;) {
    wait_for_room(slot);
    bool leaving = slot.leave.load() != 0;
    last_records += leaving ? 1 : 0;
    long signal = raw_syscall(SYS_rt_sigtimedwait, address(kAllSignals), address(info),
                              leaving ? address(kNow) : 0, sizeof kAllSignals);
    if (signal == -EAGAIN && leaving) break;
    if (signal > 0 && !is_nudge(slot, info)) record(slot, info);
    if (signal == kGhostNudgeSignal && is_nudge(slot, info)) {
      slot.nudges.fetch_add(1);
      wake_keeper(slot);
    }
    if (slot.renamed.exchange(0) != 0) raw_syscall(SYS_prctl, PR_SET_NAME, address(slot.name));
  }
  exit_thread(0);
}

}  // namespace gestalt
