// How signals come in from ghosts, and how ghosts go.
#include <linux/futex.h>
#include <poll.h>
#include <sys/signalfd.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <map>
#include <set>
#include <utility>

#include "common/format.h"
#include "common/log.h"
#include "daemon/ghosts/ghost_keeper.h"

namespace gestalt {
namespace {

// Between two looks at the loop's other business.
constexpr int kChildEventsAtOnce = 256;
constexpr auto kRemoveTimeout = std::chrono::seconds(20);
// A ghost is late when the machine is busy, or somebody traces it.
constexpr auto kSettleTimeout = std::chrono::milliseconds(200);

bool names_sender(int code) { return code == SI_USER || code == SI_TKILL || code == SI_QUEUE; }

void drain(int fd) {
  char buffer[2 * sizeof(signalfd_siginfo)];
  while (::read(fd, buffer, sizeof buffer) > 0) {
  }
}

}  // namespace

void GhostKeeper::take_records() {
  drain(wake_.get());
  slots_.for_each_dirty([this](GhostSlot& slot) { take_records_of(slot); });
}

void GhostKeeper::take_records_of(GhostSlot& slot) {
  std::uint32_t written = slot.written.load();
  for (std::uint32_t read = slot.read.load(); read != written; ++read) {
    const auto& record = slot.records[read % kGhostRecords];
    GhostSignal signal{.pid = slot.pid, .signal = record.signal, .code = record.code};
    if (names_sender(record.code)) {
      signal.sender_pid = record.sender_pid;
      signal.sender_uid = record.sender_uid;
    }
    pending_.push_back(signal);
  }
  slot.read.store(written);
  if (slot.full.exchange(0) != 0)
    (void)::syscall(SYS_futex, &slot.read, FUTEX_WAKE_PRIVATE, 1, nullptr, nullptr, 0);
}

// What a ghost has written before it stopped or ended came first.
bool GhostKeeper::on_child_event(Entry& entry, const siginfo_t& info) {
  take_records_of(*entry.slot);
  pid_t pid = info.si_pid;
  if (info.si_code == CLD_STOPPED) {
    entry.stopped = true;
    pending_.push_back({.pid = pid, .signal = SIGSTOP});
    return false;
  }
  if (info.si_code == CLD_CONTINUED) {
    entry.stopped = false;  // the SIGCONT itself is among the records
    return false;
  }
  if (info.si_code == CLD_KILLED && info.si_status == SIGKILL && !entry.killed_by_us)
    pending_.push_back({.pid = pid, .signal = SIGKILL});
  return true;
}

void GhostKeeper::take_child_events() {
  drain(children_.get());
  for (int i = 0; i < kChildEventsAtOnce; ++i) {
    siginfo_t info{};
    int done = ::waitid(P_ALL, 0, &info, WEXITED | WSTOPPED | WCONTINUED | WNOHANG | __WALL);
    if (done != 0 || info.si_pid == 0) return;
    auto entry = ghosts_.find(info.si_pid);
    if (entry != ghosts_.end() && on_child_event(entry->second, info)) on_end(entry->second, info);
  }
  (void)::kill(::getpid(), SIGCHLD);  // there may be more: come back
}

// kill(2) of a group reaches all before any can act on it: a shell ends by the signal, and does
// not see first that its children have. So they are reported together, also those that have not
// run yet.
void GhostKeeper::report() {
  std::vector<pid_t> settled;
  for (std::size_t i = 0; i < pending_.size(); ++i) {
    pid_t group = group_of(pending_[i].pid);
    if (group == 0 || std::ranges::find(settled, group) != settled.end()) continue;
    settled.push_back(group);
    settle(group);
  }
  std::map<pid_t, std::vector<GhostSignal>> of_groups;
  for (const auto& signal : std::exchange(pending_, {})) {
    if (pid_t group = group_of(signal.pid); group != 0)
      of_groups[group].push_back(signal);
    else
      on_signal_(signal);
  }
  for (auto& [group, signals] : of_groups) report_group(std::move(signals));
}

// The first of each member, as far as they are the same; then the next.
void GhostKeeper::report_group(std::vector<GhostSignal> signals) {
  while (!signals.empty()) {
    std::vector<GhostSignal> later;
    std::set<pid_t> seen;
    ++last_batch_;
    int number = signals.front().signal;
    for (auto& signal : signals) {
      if (!seen.insert(signal.pid).second || signal.signal != number) {
        later.push_back(signal);
        continue;
      }
      signal.batch = last_batch_;
      on_signal_(signal);
    }
    signals = std::move(later);
  }
}

// A ghost takes the nudge after all that was sent to it before: it has the highest number.
void GhostKeeper::settle(pid_t group) {
  // Who signals the group may be amid it, and holds the kernel's lock of all tasks for reading.
  // This waits for that lock, and does nothing else: we lead a session.
  (void)::setpgid(0, 0);
  auto asked = members_[group];
  if (has(group)) asked.push_back(group);
  std::erase_if(asked, [this](pid_t pid) {
    Entry& entry = ghosts_.at(pid);
    return entry.stopped || !nudge(entry, kGhostNudgeSignal);
  });
  auto deadline = deadline_in(kSettleTimeout);
  while (true) {
    std::erase_if(asked, [this](pid_t pid) {
      auto entry = ghosts_.find(pid);
      return entry == ghosts_.end() || entry->second.stopped ||
             entry->second.slot->nudges.load() >= entry->second.nudges;
    });
    // Not before: what those have told is here now.
    take_records();
    take_child_events();
    if (asked.empty() || Clock::now() >= deadline) return;
    pollfd polled[] = {{children_.get(), POLLIN, 0}, {wake_.get(), POLLIN, 0}};
    (void)::poll(polled, 2, remaining_milliseconds(deadline));
  }
}

// Of a ghost that was killed the process may live, or take its time to die: the ghost is
// made again.
void GhostKeeper::on_end(Entry& entry, const siginfo_t& info) {
  pid_t pid = info.si_pid;
  if (entry.slot->leave.load() != 0 || entry.killed_by_us) return forget(pid);
  Result<void> again = fail(ErrorCode::kInternal, formatted("it ended, {}", info.si_status));
  if (info.si_code == CLD_KILLED && info.si_status == SIGKILL) {
    GhostSlots::reset(*entry.slot);
    entry.stopped = false;
    auto members = disband(pid);
    bool was_member = entry.group != 0;
    leave_group(entry);
    again = start_ghost(entry);
    if (again && was_member) members.push_back(pid);
    if (again) set_groups(members);
  }
  if (again) return;
  log::warning("a ghost is gone", log::field("pid", pid),
               log::field("error", again.error().text()));
  forget(pid);
}

void GhostKeeper::remove_all(const std::vector<pid_t>& pids, std::vector<GhostFailure>& failures) {
  for (pid_t pid : pids) ask_to_leave(ghosts_.at(pid));
  auto deadline = deadline_in(kRemoveTimeout);
  for (pid_t pid : pids)
    if (auto entry = ghosts_.find(pid); entry != ghosts_.end())
      if (auto gone = await_gone(entry->second, deadline); !gone)
        failures.push_back({pid, std::move(gone).error()});
}

// A ghost that ends by itself has reported first what was pending, and shows that nobody
// killed it; by SIGKILL it would show neither.
void GhostKeeper::ask_to_leave(Entry& entry) {
  entry.slot->leave.store(1);
  if (entry.stopped || !nudge(entry, kGhostNudgeSignal)) kill_ghost(entry);
}

// There is no room where a user has queued more than the limit.
bool GhostKeeper::nudge(Entry& entry, int signal) {
  siginfo_t info{};
  info.si_signo = signal;
  info.si_code = kGhostNudgeCode;
  info.si_pid = ::getpid();
  bool sent = ::syscall(SYS_rt_sigqueueinfo, entry.slot->pid, signal, &info) == 0;
  if (sent && signal == kGhostNudgeSignal) ++entry.nudges;
  return sent || errno != EAGAIN;
}

void GhostKeeper::kill_ghost(Entry& entry) {
  siginfo_t info{};
  // Somebody else may have done it: then that is to be reported.
  if (::waitid(P_PID, static_cast<id_t>(entry.slot->pid), &info,
               WEXITED | WNOHANG | WNOWAIT | __WALL) != 0 ||
      info.si_pid != 0)
    return;
  entry.killed_by_us = true;
  (void)::kill(entry.slot->pid, SIGKILL);
}

// Until its pid is free.
Result<void> GhostKeeper::await_gone(Entry& entry, Deadline deadline) {
  pid_t pid = entry.slot->pid;
  bool late = false;
  while (true) {
    siginfo_t info{};
    if (::waitid(P_PID, static_cast<id_t>(pid), &info, WEXITED | WSTOPPED | WNOHANG | __WALL) != 0)
      break;  // there is no such child
    if (info.si_pid == pid) {
      if (on_child_event(entry, info)) break;
      kill_ghost(entry);  // stopped before it could leave
      continue;
    }
    pollfd polled[] = {{children_.get(), POLLIN, 0}, {wake_.get(), POLLIN, 0}};
    if (::poll(polled, 2, remaining_milliseconds(deadline)) > 0) {
      drain(children_.get());
      take_records();  // or it might find no room for the rest
      continue;
    }
    if (late) return fail(ErrorCode::kTimeout, formatted("cannot end the ghost of pid {}", pid));
    late = true;
    kill_ghost(entry);
    deadline = deadline_in(std::chrono::milliseconds(100));
  }
  forget(pid);
  return {};
}

}  // namespace gestalt
