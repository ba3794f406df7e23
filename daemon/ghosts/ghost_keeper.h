// Ghosts: tiny tasks that hold, in this pid namespace, the pids of processes that run on
// other nodes, so that kill(2), pidfd_open(2) and the like find them, with the kernel's own
// permission checks. docs/ghosts.md.
//
// Runs on the event loop's thread, in a program without other threads and, at best, without
// other children: it reaps all that there are. Blocks all signals of its thread.
#pragma once

#include <sys/types.h>

#include <csignal>
#include <functional>
#include <string>
#include <unordered_map>
#include <vector>

#include "common/event_loop.h"
#include "common/fd.h"
#include "common/result.h"
#include "daemon/ghosts/ghost_slots.h"

namespace gestalt {

struct Ghost {
  pid_t pid = 0;
  uid_t uid = 0;
  gid_t gid = 0;
  pid_t group = 0;       // its process group: other ghosts' only; 0: its own
  std::string name;      // what /proc/PID/comm of it says, up to 15 bytes
  bool stopped = false;  // its process is; the ghost of one that is not is continued
};

struct GhostUpdate {
  bool full = false;  // all that are not in `add` go
  std::vector<Ghost> add;
  std::vector<pid_t> remove;
};

struct GhostFailure {
  pid_t pid = 0;
  Error error;
};

// A signal that a ghost got. Who sent it is as siginfo has it: unknown (0) for SIGKILL and
// SIGSTOP, and for sigqueue(3) what the sender says. Whether he may is the kernel's answer.
struct GhostSignal {
  pid_t pid = 0;
  int signal = 0;
  pid_t sender_pid = 0;
  uid_t sender_uid = 0;
  int code = 0;
  // The same for those that members of a group got at once, which come in succession; 0: alone.
  std::uint64_t batch = 0;
};

class GhostKeeper {
 public:
  // Runs on the loop, and at the end of update(); must not call the keeper, but for pause().
  using OnSignal = std::function<void(const GhostSignal&)>;

  GhostKeeper(EventLoop& loop, OnSignal on_signal);
  ~GhostKeeper();  // ends all ghosts
  GhostKeeper(const GhostKeeper&) = delete;
  GhostKeeper& operator=(const GhostKeeper&) = delete;

  [[nodiscard]] Result<void> start();

  // Idempotent. Removals come first; a ghost whose ids have changed is made anew. What has
  // failed is returned, the rest is done: when it returns, the ghosts take signals as their
  // owners', and removed pids are free. A ghost whose group is somebody else's here is in one
  // of its own.
  [[nodiscard]] std::vector<GhostFailure> update(const GhostUpdate& update);
  [[nodiscard]] Result<void> add(pid_t pid, uid_t uid, gid_t gid);
  [[nodiscard]] Result<void> remove(pid_t pid);

  // While paused, signals stay in the ghosts and in the kernel, as for a process that is slow
  // to take them.
  void pause(bool paused);

  [[nodiscard]] std::size_t size() const { return ghosts_.size(); }
  [[nodiscard]] bool has(pid_t pid) const { return ghosts_.contains(pid); }

 private:
  struct Entry {
    GhostSlot* slot = nullptr;
    Ghost ghost;
    pid_t group = 0;  // that it is in, if not in its own
    bool stopped = false;
    bool killed_by_us = false;
    std::uint32_t nudges = 0;  // of kGhostNudgeSignal, that were sent
  };

  Result<void> start_ghost(Entry& entry);
  void add_all(const std::vector<Ghost>& wanted, std::vector<GhostFailure>& failures);
  Result<void> await_ready(Entry& entry, Deadline deadline);
  void remove_all(const std::vector<pid_t>& pids, std::vector<GhostFailure>& failures);
  void ask_to_leave(Entry& entry);
  void kill_ghost(Entry& entry);
  // A signal of ours; false: there is no room for it.
  static bool nudge(Entry& entry, int signal);
  // To what is new in the wish but needs no other ghost. True: its group is another.
  bool adjust(Entry& entry, const Ghost& wish);

  // Of those that are there.
  void set_groups(const std::vector<pid_t>& pids);
  [[nodiscard]] bool join(pid_t pid);
  void leave_group(Entry& entry);
  // A pid that is in use as a group cannot be had: its members leave it. Returns them.
  std::vector<pid_t> disband(pid_t group);
  Result<void> await_gone(Entry& entry, Deadline deadline);
  void forget(pid_t pid);

  // Into pending_.
  void take_records();
  void take_records_of(GhostSlot& slot);
  void take_child_events();
  // True: the ghost's task is no more.
  bool on_child_event(Entry& entry, const siginfo_t& info);
  void on_end(Entry& entry, const siginfo_t& info);
  // Reports what is pending, those of a group together.
  void report();
  void report_group(std::vector<GhostSignal> signals);
  // Until all of the group have told what they had got before.
  void settle(pid_t group);
  // 0: alone.
  [[nodiscard]] pid_t group_of(pid_t pid) const;
  void watch();

  EventLoop& loop_;
  OnSignal on_signal_;
  Fd wake_;
  Fd children_;  // a signalfd of SIGCHLD
  GhostSlots slots_;
  std::unordered_map<pid_t, Entry> ghosts_;
  std::vector<GhostSignal> pending_;
  std::uint64_t last_batch_ = 0;
  std::unordered_map<pid_t, std::vector<pid_t>> members_;  // of groups, but their leaders
  bool paused_ = false;
};

}  // namespace gestalt
