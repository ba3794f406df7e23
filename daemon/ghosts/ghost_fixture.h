// For tests of ghosts: a pid namespace of their own, a keeper in it, and other processes that
// do things to its ghosts.
#pragma once

#include <gtest/gtest.h>
#include <sys/types.h>

#include <functional>
#include <vector>

#include "common/event_loop.h"
#include "daemon/ghosts/ghost_keeper.h"

namespace gestalt {

// Runs `body` in a fresh pid namespace with its own /proc, whose init reaps. What fails there
// fails the test; skips it where there is no privilege.
void in_pid_namespace(const std::function<void()>& body);

class KeeperHarness {
 public:
  KeeperHarness();

  // Runs the loop until `done`; false after `timeout`.
  bool run_until(const std::function<bool()>& done,
                 Clock::duration timeout = std::chrono::seconds(20));
  // Until there are that many signals, and no more of them for a moment.
  void await_signals(std::size_t count);
  // The result of `action`, run in another process as this user while the loop runs. No
  // assertions in there.
  int act(const std::function<int()>& action, uid_t uid = 0);
  // What was reported of the pid, in order; all is forgotten then.
  std::vector<int> signals_of(pid_t pid);
  // Ghosts of root with the pids from `first` on.
  void add(pid_t first, int count);

  EventLoop loop;
  std::vector<GhostSignal> signals;
  GhostKeeper keeper;
};

// kill(2)'s errno, or 0: as an action for act().
int kill_errno(pid_t pid, int signal);

}  // namespace gestalt
