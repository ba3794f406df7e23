#include "daemon/ghosts/ghost_keeper.h"

#include <linux/futex.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <ctime>
#include <utility>

#include "common/log.h"
#include "common/raw_clone.h"
#include "daemon/ghosts/ghost_stub.h"

namespace gestalt {
namespace {

// For a whole update: 10,000 ghosts take a quarter of a second.
constexpr auto kUpdateTimeout = std::chrono::seconds(20);
constexpr auto kLeaveTimeout = std::chrono::seconds(2);

}  // namespace

GhostKeeper::GhostKeeper(EventLoop& loop, OnSignal on_signal)
    : loop_(loop), on_signal_(std::move(on_signal)) {}

GhostKeeper::~GhostKeeper() {
  on_signal_ = [](const GhostSignal&) {};
  if (wake_) pause(true);
  if (!ghosts_.empty()) (void)update({.full = true});
}

Result<void> GhostKeeper::start() {
  // Ghosts share our address space: no user may look into it.
  if (::prctl(PR_SET_DUMPABLE, 0) != 0) return fail_errno(errno, "become undumpable");
  // Ghosts inherit the mask. With SIGCHLD ignored there would be nothing to wait for.
  sigset_t set;
  sigfillset(&set);
  if (::sigprocmask(SIG_SETMASK, &set, nullptr) != 0) return fail_errno(errno, "block signals");
  if (::signal(SIGCHLD, SIG_DFL) == SIG_ERR) return fail_errno(errno, "take SIGCHLD");
  sigemptyset(&set);
  sigaddset(&set, SIGCHLD);
  children_ = Fd(::signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK));
  if (!children_) return fail_errno(errno, "make a signal descriptor");
  wake_ = Fd(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  if (!wake_) return fail_errno(errno, "make an event descriptor");
  watch();
  return {};
}

void GhostKeeper::watch() {
  loop_.watch(wake_.get(), EPOLLIN, [this](std::uint32_t) { take_records(); });
  loop_.watch(children_.get(), EPOLLIN, [this](std::uint32_t) { take_child_events(); });
}

void GhostKeeper::pause(bool paused) {
  if (paused == std::exchange(paused_, paused)) return;
  if (!paused) return watch();
  loop_.unwatch(wake_.get());
  loop_.unwatch(children_.get());
}

Result<void> GhostKeeper::add(pid_t pid, uid_t uid, gid_t gid) {
  auto failures = update({.add = {{pid, uid, gid}}});
  if (!failures.empty()) return std::unexpected(std::move(failures.front().error));
  return {};
}

Result<void> GhostKeeper::remove(pid_t pid) {
  auto failures = update({.remove = {pid}});
  if (!failures.empty()) return std::unexpected(std::move(failures.front().error));
  return {};
}

std::vector<GhostFailure> GhostKeeper::update(const GhostUpdate& update) {
  std::vector<GhostFailure> failures;
  std::unordered_map<pid_t, Ghost> wanted;
  for (const auto& ghost : update.add) wanted[ghost.pid] = ghost;
  std::vector<pid_t> going;
  for (pid_t pid : update.remove)
    if (has(pid)) going.push_back(pid);
  for (const auto& [pid, entry] : ghosts_) {
    auto same = wanted.find(pid);
    bool kept = same == wanted.end()
                    ? !update.full
                    : same->second.uid == entry.ghost.uid && same->second.gid == entry.ghost.gid;
    if (!kept) going.push_back(pid);
  }
  remove_all(going, failures);
  std::vector<Ghost> missing;
  for (const auto& [pid, ghost] : wanted)
    if (!has(pid)) missing.push_back(ghost);
  add_all(missing, failures);
  // What came meanwhile for others.
  if (!paused_) take_child_events();
  return failures;
}

Result<void> GhostKeeper::start_ghost(Entry& entry) {
  GhostSlot& slot = *entry.slot;
  slot.pid = entry.ghost.pid;
  slot.uid = entry.ghost.uid;
  slot.gid = entry.ghost.gid;
  slot.keeper_pid = ::getpid();
  slot.wake_fd = wake_.get();
  pid_t wanted = slot.pid;
  clone_args arguments{};
  // Shared is what would cost memory. CLONE_IO and CLONE_SYSVSEM save nothing: a task has
  // neither until it uses it.
  arguments.flags = CLONE_VM | CLONE_FS | CLONE_FILES | CLONE_SIGHAND;
  arguments.exit_signal = SIGCHLD;
  arguments.stack = reinterpret_cast<std::uint64_t>(slot.stack.data());
  arguments.stack_size = slot.stack.size();
  arguments.set_tid = reinterpret_cast<std::uint64_t>(&wanted);
  arguments.set_tid_size = 1;
  long made = clone_and_call(arguments, run_ghost, &slot);
  if (made < 0)
    return fail_errno(static_cast<int>(-made), std::format("make a ghost of pid {}", wanted));
  return {};
}

void GhostKeeper::add_all(const std::vector<Ghost>& wanted, std::vector<GhostFailure>& failures) {
  std::vector<pid_t> started;
  for (const auto& ghost : wanted) {
    // To the kernel -1 means "as it is", which is root.
    if (ghost.uid == static_cast<uid_t>(-1) || ghost.gid == static_cast<gid_t>(-1)) {
      failures.push_back({ghost.pid, fail(ErrorCode::kInvalidArgument, "no such user").error()});
      continue;
    }
    Result<void> done;
    Entry entry{.ghost = ghost};
    if (auto slot = slots_.take()) {
      entry.slot = *slot;
      done = start_ghost(entry);
      if (!done) slots_.give_back(entry.slot);
    } else {
      done = std::unexpected(std::move(slot).error());
    }
    if (!done) {
      failures.push_back({ghost.pid, std::move(done).error()});
      continue;
    }
    ghosts_.emplace(ghost.pid, entry);
    started.push_back(ghost.pid);
  }
  auto deadline = deadline_in(kUpdateTimeout);
  for (pid_t pid : started)
    if (auto ready = await_ready(ghosts_.at(pid), deadline); !ready)
      failures.push_back({pid, std::move(ready).error()});
}

// Before that a ghost is still root's, and its owner may not signal it.
Result<void> GhostKeeper::await_ready(Entry& entry, Deadline deadline) {
  GhostSlot& slot = *entry.slot;
  pid_t pid = slot.pid;
  while (slot.state.load() == kGhostStarting && Clock::now() < deadline) {
    // Root may have killed it; then it is reported, and made again, as always.
    siginfo_t info{};
    if (::waitid(P_PID, static_cast<id_t>(pid), &info, WEXITED | WNOHANG | WNOWAIT | __WALL) == 0 &&
        info.si_pid == pid)
      return {};
    timespec slice{.tv_sec = 0, .tv_nsec = 50'000'000};
    (void)::syscall(SYS_futex, &slot.state, FUTEX_WAIT_PRIVATE, kGhostStarting, &slice, nullptr, 0);
  }
  if (slot.state.load() == kGhostReady) return {};
  auto why = slot.state.load() == kGhostRefused ? slot.refused_errno : ETIMEDOUT;
  kill_ghost(entry);
  (void)await_gone(entry, deadline_in(kLeaveTimeout));
  return fail_errno(why, std::format("give pid {}'s ghost to user {}", pid, slot.uid));
}

void GhostKeeper::forget(pid_t pid) {
  auto entry = ghosts_.find(pid);
  if (entry == ghosts_.end()) return;
  slots_.give_back(entry->second.slot);
  ghosts_.erase(entry);
}

}  // namespace gestalt
