#include "daemon/ghosts/ghost_keeper.h"

#include <linux/futex.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <ctime>
#include <utility>

#include "common/format.h"
#include "common/log.h"
#include "common/raw_clone.h"
#include "daemon/ghosts/ghost_stub.h"

namespace gestalt {
namespace {

// For a whole update: 10,000 ghosts take a quarter of a second.
constexpr auto kUpdateTimeout = std::chrono::seconds(20);
constexpr auto kLeaveTimeout = std::chrono::seconds(2);

void set_name(GhostSlot& slot, const std::string& name) {
  slot.name = {};
  std::copy_n(name.data(), std::min(name.size(), slot.name.size() - 1), slot.name.data());
}

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
  // All ghosts are in our session, as groups are within one. Within it everybody may send SIGCONT
  // to everybody: nobody else must be in it.
  if (::getsid(0) != ::getpid() && ::setsid() < 0) return fail_errno(errno, "make a session");
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
  loop_.watch(wake_.get(), EPOLLIN, [this](std::uint32_t) {
    take_records();
    report();
  });
  loop_.watch(children_.get(), EPOLLIN, [this](std::uint32_t) {
    take_child_events();
    report();
  });
}

void GhostKeeper::pause(bool paused) {
  if (paused == std::exchange(paused_, paused)) return;
  if (!paused) return watch();
  loop_.unwatch(wake_.get());
  loop_.unwatch(children_.get());
}

Result<void> GhostKeeper::add(pid_t pid, uid_t uid, gid_t gid) {
  auto failures = update({.add = {{.pid = pid, .uid = uid, .gid = gid}}});
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
  std::vector<pid_t> to_group;
  for (const auto& [pid, ghost] : wanted) {
    if (auto known = ghosts_.find(pid); known != ghosts_.end()) {
      if (adjust(known->second, ghost)) to_group.push_back(pid);
      continue;
    }
    missing.push_back(ghost);
    if (ghost.group > 0 && ghost.group != pid) to_group.push_back(pid);
    std::ranges::copy(disband(pid), std::back_inserter(to_group));
  }
  add_all(missing, failures);
  set_groups(to_group);
  // What came meanwhile for others.
  if (!paused_) take_child_events();
  report();
  return failures;
}

Result<void> GhostKeeper::start_ghost(Entry& entry) {
  GhostSlot& slot = *entry.slot;
  slot.pid = entry.ghost.pid;
  slot.uid = entry.ghost.uid;
  slot.gid = entry.ghost.gid;
  slot.keeper_pid = ::getpid();
  slot.wake_fd = wake_.get();
  set_name(slot, entry.ghost.name);
  entry.nudges = 0;
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
    return fail_errno(static_cast<int>(-made), formatted("make a ghost of pid {}", wanted));
  // What is sent to our group is not for ghosts.
  (void)::setpgid(wanted, wanted);
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
  return fail_errno(why, formatted("give pid {}'s ghost to user {}", pid, slot.uid));
}

bool GhostKeeper::adjust(Entry& entry, const Ghost& wish) {
  if (entry.ghost.name != wish.name) {
    set_name(*entry.slot, wish.name);
    entry.slot->renamed.store(1);
    (void)nudge(entry, kGhostNudgeSignal);
  }
  if (entry.stopped && !wish.stopped) (void)nudge(entry, SIGCONT);
  bool other_group = entry.ghost.group != wish.group;
  entry.ghost = wish;
  return other_group;
}

// ------------------------------------------------------------------- groups

pid_t GhostKeeper::group_of(pid_t pid) const {
  auto entry = ghosts_.find(pid);
  if (entry != ghosts_.end() && entry->second.group != 0) return entry->second.group;
  return members_.contains(pid) ? pid : 0;
}

void GhostKeeper::leave_group(Entry& entry) {
  if (entry.group == 0) return;
  auto members = members_.find(entry.group);
  std::erase(members->second, entry.ghost.pid);
  if (members->second.empty()) members_.erase(members);
  entry.group = 0;
}

std::vector<pid_t> GhostKeeper::disband(pid_t group) {
  auto found = members_.find(group);
  if (found == members_.end()) return {};
  auto members = found->second;
  for (pid_t pid : members) {
    (void)::setpgid(pid, pid);
    leave_group(ghosts_.at(pid));
  }
  return members;
}

bool GhostKeeper::join(pid_t pid) {
  Entry& entry = ghosts_.at(pid);
  pid_t group = entry.ghost.group > 0 ? entry.ghost.group : pid;
  if (group == ::getpgrp() || ::setpgid(pid, group) != 0) return false;
  leave_group(entry);
  if (group == pid) return true;
  entry.group = group;
  members_[group].push_back(pid);
  return true;
}

// A group may have outlived its leader: then one is made for the moment.
void GhostKeeper::set_groups(const std::vector<pid_t>& pids) {
  std::vector<pid_t> again;
  std::vector<pid_t> leaders;
  for (pid_t pid : pids) {
    if (!has(pid) || join(pid)) continue;
    again.push_back(pid);
    leaders.push_back(ghosts_.at(pid).ghost.group);
  }
  std::ranges::sort(leaders);
  leaders.erase(std::ranges::unique(leaders).begin(), leaders.end());
  std::vector<Ghost> passing;
  // A leader that is in another group by now.
  std::erase_if(leaders, [&](pid_t leader) {
    if (has(leader) && ::setpgid(leader, leader) == 0) again.push_back(leader);
    return has(leader);
  });
  for (pid_t leader : leaders) passing.push_back({.pid = leader});
  std::vector<GhostFailure> ignored;  // somebody else's: its ghosts stay alone
  add_all(passing, ignored);
  for (pid_t pid : again)
    if (!join(pid)) leave_group(ghosts_.at(pid));
  std::erase_if(leaders, [this](pid_t leader) { return !has(leader); });
  remove_all(leaders, ignored);
}

void GhostKeeper::forget(pid_t pid) {
  auto entry = ghosts_.find(pid);
  if (entry == ghosts_.end()) return;
  leave_group(entry->second);
  slots_.give_back(entry->second.slot);
  ghosts_.erase(entry);
}

}  // namespace gestalt
