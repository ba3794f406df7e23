// What happens to a ghost is reported: really, exactly once, in order.
#include <gmock/gmock.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <csignal>
#include <map>

#include "common/fd.h"
#include "common/format.h"
#include "daemon/ghosts/ghost_fixture.h"

namespace gestalt {
namespace {

using ::testing::ElementsAre;

constexpr pid_t kFirst = 10'000;

int queue_errno(pid_t pid, int signal) {
  sigval value{};
  return ::sigqueue(pid, signal, value) == 0 ? 0 : errno;
}

char state_of(pid_t pid) {
  auto text = read_file(formatted("/proc/{}/stat", pid));
  auto end = text ? text->rfind(") ") : std::string::npos;
  return end == std::string::npos ? '?' : (*text)[end + 2];
}

TEST(GhostSignals, CatchableOnesWithTheirSender) {
  in_pid_namespace([] {
    KeeperHarness harness;
    harness.add(kFirst, 1);
    // Also those that are ignored, or that stop, by default.
    for (int signal : {SIGTERM, SIGUSR1, SIGHUP, SIGINT, SIGTSTP, SIGTTIN, SIGCHLD, SIGWINCH,
                       SIGURG, SIGCONT, SIGSEGV, SIGRTMIN}) {
      int sender = harness.act([=] { return ::kill(kFirst, signal) == 0 ? ::getpid() : -1; }, 1001);
      EXPECT_EQ(sender, -1);  // root's ghost
      sender = harness.act([=] { return ::kill(kFirst, signal) == 0 ? ::getpid() : -1; });
      harness.await_signals(1);
      ASSERT_EQ(harness.signals.size(), 1U) << signal;
      EXPECT_EQ(harness.signals[0].pid, kFirst);
      EXPECT_EQ(harness.signals[0].signal, signal);
      EXPECT_EQ(harness.signals[0].code, SI_USER);
      EXPECT_EQ(harness.signals[0].sender_pid, sender);
      EXPECT_EQ(harness.signals[0].sender_uid, 0U);
      harness.signals.clear();
    }
  });
}

TEST(GhostSignals, AnAskingKillFindsIt) {
  in_pid_namespace([] {
    KeeperHarness harness;
    EXPECT_EQ(harness.act([] { return kill_errno(kFirst, 0); }), ESRCH);
    harness.add(kFirst, 1);
    EXPECT_EQ(harness.act([] { return kill_errno(kFirst, 0); }), 0);
    ASSERT_TRUE(harness.keeper.remove(kFirst));
    EXPECT_EQ(harness.act([] { return kill_errno(kFirst, 0); }), ESRCH);
    harness.await_signals(0);
  });
}

TEST(GhostSignals, RealtimeOnesAreQueued) {
  in_pid_namespace([] {
    KeeperHarness harness;
    harness.add(kFirst, 1);
    EXPECT_EQ(harness.act([] {
      for (int i = 0; i < 5; ++i)
        if (int error = queue_errno(kFirst, SIGRTMIN + 2)) return error;
      return 0;
    }),
              0);
    harness.await_signals(5);
    for (const auto& signal : harness.signals) {
      EXPECT_EQ(signal.signal, SIGRTMIN + 2);
      EXPECT_EQ(signal.code, SI_QUEUE);
    }
  });
}

TEST(GhostSignals, StoppedItHoldsTheOthersBack) {
  in_pid_namespace([] {
    KeeperHarness harness;
    harness.add(kFirst, 1);
    EXPECT_EQ(harness.act([] { return kill_errno(kFirst, SIGSTOP); }), 0);
    harness.await_signals(1);
    EXPECT_EQ(state_of(kFirst), 'T');
    EXPECT_THAT(harness.signals_of(kFirst), ElementsAre(SIGSTOP));
    EXPECT_EQ(harness.act([] { return kill_errno(kFirst, SIGTERM); }), 0);
    harness.await_signals(0);
    EXPECT_EQ(harness.act([] { return kill_errno(kFirst, SIGCONT); }), 0);
    harness.await_signals(2);
    EXPECT_THAT(harness.signals_of(kFirst), ElementsAre(SIGTERM, SIGCONT));
    EXPECT_EQ(state_of(kFirst), 'S');
  });
}

TEST(GhostSignals, ContinuedWithItsProcessItTakesThem) {
  in_pid_namespace([] {
    KeeperHarness harness;
    Ghost ghost{.pid = kFirst, .stopped = true};
    ASSERT_TRUE(harness.keeper.update({.add = {ghost}}).empty());
    EXPECT_EQ(harness.act([] { return kill_errno(kFirst, SIGSTOP); }), 0);
    EXPECT_EQ(harness.act([] { return kill_errno(kFirst, SIGTERM); }), 0);
    harness.await_signals(1);
    ASSERT_TRUE(harness.keeper.update({.add = {ghost}}).empty());
    harness.await_signals(1);
    EXPECT_EQ(state_of(kFirst), 'T');
    ghost.stopped = false;
    ASSERT_TRUE(harness.keeper.update({.add = {ghost}}).empty());
    harness.await_signals(2);
    // Our SIGCONT is nobody's.
    EXPECT_THAT(harness.signals_of(kFirst), ElementsAre(SIGSTOP, SIGTERM));
    EXPECT_EQ(state_of(kFirst), 'S');
  });
}

TEST(GhostSignals, KilledItIsMadeAgain) {
  in_pid_namespace([] {
    KeeperHarness harness;
    harness.add(kFirst, 3);
    for (int i = 0; i < 20; ++i) {
      EXPECT_EQ(harness.act([] { return kill_errno(kFirst, SIGKILL); }), 0);
      harness.await_signals(1);
      EXPECT_THAT(harness.signals_of(kFirst), ElementsAre(SIGKILL));
    }
    EXPECT_EQ(harness.keeper.size(), 3U);
    EXPECT_EQ(harness.act([] { return kill_errno(kFirst, SIGUSR1); }), 0);
    harness.await_signals(1);
  });
}

TEST(GhostSignals, ByPidfd) {
  in_pid_namespace([] {
    KeeperHarness harness;
    harness.add(kFirst, 1);
    EXPECT_EQ(harness.act([] {
      auto fd = static_cast<int>(::syscall(SYS_pidfd_open, kFirst, 0));
      if (fd < 0) return errno;
      return ::syscall(SYS_pidfd_send_signal, fd, SIGUSR2, nullptr, 0) == 0 ? 0 : errno;
    }),
              0);
    harness.await_signals(1);
    EXPECT_THAT(harness.signals_of(kFirst), ElementsAre(SIGUSR2));
  });
}

TEST(GhostSignals, TheKeepersGroupIsNotTheirs) {
  in_pid_namespace([] {
    KeeperHarness harness;
    harness.add(kFirst, 3);
    pid_t group = ::getpgrp();
    EXPECT_EQ(group, ::getpid());
    EXPECT_EQ(harness.act([=] { return kill_errno(-group, SIGTERM); }), 0);
    harness.await_signals(0);
    EXPECT_EQ(harness.act([] { return kill_errno(-kFirst, SIGTERM); }), 0);  // its own
    harness.await_signals(1);
    EXPECT_THAT(harness.signals_of(kFirst), ElementsAre(SIGTERM));
  });
}

TEST(GhostSignals, OfAThousandEachExactlyOnce) {
  in_pid_namespace([] {
    constexpr int kCount = 1000;
    KeeperHarness harness;
    harness.add(kFirst, kCount);
    EXPECT_EQ(harness.act([] {
      for (pid_t pid = kFirst; pid < kFirst + kCount; ++pid)
        if (int error = queue_errno(pid, SIGRTMIN + pid % 25)) return error;
      for (pid_t pid = kFirst; pid < kFirst + kCount; ++pid)
        if (int error = kill_errno(pid, SIGHUP)) return error;
      return 0;
    }),
              0);
    harness.await_signals(2 * kCount);
    std::map<std::pair<pid_t, int>, int> seen;
    for (const auto& signal : harness.signals) ++seen[{signal.pid, signal.signal}];
    for (pid_t pid = kFirst; pid < kFirst + kCount; ++pid) {
      EXPECT_EQ((seen[{pid, SIGHUP}]), 1);
      EXPECT_EQ((seen[{pid, SIGRTMIN + pid % 25}]), 1);
    }
  });
}

// More than a ghost's ring holds, many times over: they wait in the kernel.
int flood(int count) {
  for (int i = 0; i < count; ++i) {
    int error = 0;
    while ((error = queue_errno(kFirst, SIGRTMIN + i % 30)) == EAGAIN) ::usleep(1000);
    if (error != 0) return error;
  }
  return 0;
}

TEST(GhostSignals, AFloodLosesNothing) {
  in_pid_namespace([] {
    constexpr int kCount = 3000;
    KeeperHarness harness;
    harness.add(kFirst, 1);
    EXPECT_EQ(harness.act([] { return flood(kCount); }), 0);
    harness.await_signals(kCount);
    std::map<int, int> seen;
    for (const auto& signal : harness.signals) ++seen[signal.signal];
    for (int i = 0; i < 30; ++i) EXPECT_EQ(seen[SIGRTMIN + i], kCount / 30);
  });
}

TEST(GhostSignals, PausedItKeepsThem) {
  in_pid_namespace([] {
    KeeperHarness harness;
    harness.add(kFirst, 3);
    harness.keeper.pause(true);
    EXPECT_EQ(harness.act([] { return flood(300); }), 0);
    EXPECT_EQ(harness.act([] { return kill_errno(kFirst + 1, SIGKILL); }), 0);
    EXPECT_EQ(harness.act([] { return kill_errno(kFirst + 2, SIGSTOP); }), 0);
    harness.await_signals(0);
    harness.keeper.pause(false);
    harness.await_signals(302);
  });
}

TEST(GhostSignals, WhatCameBeforeTheRemovalIsReported) {
  in_pid_namespace([] {
    KeeperHarness harness;
    for (int i = 0; i < 50; ++i) {
      harness.add(kFirst, 4);
      harness.keeper.pause(true);  // sees nothing of it before the removal
      EXPECT_EQ(harness.act([] { return kill_errno(kFirst, SIGKILL); }), 0);
      EXPECT_EQ(harness.act([] { return flood(100); }), 0);  // of nobody: a zombie
      EXPECT_EQ(harness.act([] { return kill_errno(kFirst + 1, SIGTERM); }), 0);
      EXPECT_EQ(harness.act([] { return kill_errno(kFirst + 2, SIGSTOP); }), 0);
      EXPECT_TRUE(harness.keeper.update({.full = true}).empty());
      harness.keeper.pause(false);
      auto got = harness.signals;
      EXPECT_THAT(harness.signals_of(kFirst), ElementsAre(SIGKILL));
      harness.signals = got;
      EXPECT_THAT(harness.signals_of(kFirst + 1), ElementsAre(SIGTERM));
      harness.signals = got;
      EXPECT_THAT(harness.signals_of(kFirst + 2), ElementsAre(SIGSTOP));
      EXPECT_EQ(got.size(), 3U);
    }
  });
}

TEST(GhostSignals, AFloodedGhostReportsAllAtItsRemoval) {
  in_pid_namespace([] {
    KeeperHarness harness;
    harness.add(kFirst, 1);
    harness.keeper.pause(true);
    EXPECT_EQ(harness.act([] { return flood(600); }), 0);
    EXPECT_TRUE(harness.keeper.remove(kFirst));
    EXPECT_EQ(harness.signals.size(), 600U);
  });
}

TEST(GhostSignals, OurOwnKillIsNeverReported) {
  in_pid_namespace([] {
    KeeperHarness harness;
    for (int i = 0; i < 20; ++i) {
      harness.add(kFirst, 50);
      EXPECT_TRUE(harness.keeper.update({.full = true}).empty());
    }
    harness.add(kFirst, 1);
    EXPECT_EQ(harness.act([] { return kill_errno(kFirst, SIGSTOP); }), 0);
    harness.await_signals(1);
    EXPECT_TRUE(harness.keeper.remove(kFirst));
    EXPECT_THAT(harness.signals_of(kFirst), ElementsAre(SIGSTOP));
    harness.await_signals(0);
  });
}

}  // namespace
}  // namespace gestalt
