// Ghosts are in the process groups of their processes, so that kill(-PGID) reaches them.
#include <gmock/gmock.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <csignal>
#include <map>

#include "daemon/ghosts/ghost_fixture.h"

namespace gestalt {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;
using ::testing::UnorderedElementsAre;

constexpr pid_t kFirst = 10'000;
constexpr pid_t kSecond = kFirst + 1;
constexpr pid_t kThird = kFirst + 2;

class Groups {
 public:
  // Ghosts of root, each with its group.
  void update(const std::vector<std::pair<pid_t, pid_t>>& wanted) {
    GhostUpdate update;
    for (auto [pid, group] : wanted) update.add.push_back({.pid = pid, .group = group});
    auto failures = harness.keeper.update(update);
    EXPECT_TRUE(failures.empty()) << failures.front().error.text();
  }
  // Who gets what is sent to the group.
  std::vector<pid_t> reached(pid_t group, int signal = SIGUSR1) {
    last_errno = harness.act([=] { return kill_errno(-group, signal); });
    harness.run_until([] { return false; }, milliseconds(50));
    std::vector<pid_t> pids;
    for (const auto& each : harness.signals)
      if (each.signal == signal) pids.push_back(each.pid);
    harness.signals.clear();
    return pids;
  }

  KeeperHarness harness;
  int last_errno = 0;
};

TEST(GhostGroups, LeaderAndMembersInOneUpdate) {
  in_pid_namespace([] {
    Groups groups;
    groups.update({{kThird, kFirst}, {kFirst, kFirst}, {kSecond, kFirst}, {kFirst + 3, 0}});
    EXPECT_THAT(groups.reached(kFirst), UnorderedElementsAre(kFirst, kSecond, kThird));
    EXPECT_EQ(groups.last_errno, 0);
    EXPECT_THAT(groups.reached(kFirst + 3), ElementsAre(kFirst + 3));
    EXPECT_THAT(groups.reached(kSecond), IsEmpty());
    EXPECT_EQ(groups.last_errno, ESRCH);
  });
}

TEST(GhostGroups, AMemberBeforeItsLeader) {
  in_pid_namespace([] {
    Groups groups;
    groups.update({{kSecond, kFirst}, {kThird, kFirst}});
    EXPECT_THAT(groups.reached(kFirst), UnorderedElementsAre(kSecond, kThird));
    EXPECT_FALSE(groups.harness.keeper.has(kFirst));
    EXPECT_EQ(groups.harness.act([] { return kill_errno(kFirst, 0); }), ESRCH);
    groups.update({{kFirst, kFirst}});
    EXPECT_THAT(groups.reached(kFirst), UnorderedElementsAre(kFirst, kSecond, kThird));
  });
}

TEST(GhostGroups, TheLeaderEndsFirst) {
  in_pid_namespace([] {
    Groups groups;
    groups.update({{kFirst, kFirst}, {kSecond, kFirst}});
    ASSERT_TRUE(groups.harness.keeper.remove(kFirst));
    EXPECT_THAT(groups.reached(kFirst), ElementsAre(kSecond));
    ASSERT_TRUE(groups.harness.keeper.remove(kSecond));
    EXPECT_THAT(groups.reached(kFirst), IsEmpty());
    groups.update({{kFirst, kFirst}});  // the pid is free again
    EXPECT_THAT(groups.reached(kFirst), ElementsAre(kFirst));
  });
}

TEST(GhostGroups, FromOneToAnother) {
  in_pid_namespace([] {
    Groups groups;
    groups.update({{kFirst, kFirst}, {kSecond, kFirst}, {kThird, kThird}});
    groups.update({{kSecond, kThird}});
    EXPECT_THAT(groups.reached(kFirst), ElementsAre(kFirst));
    EXPECT_THAT(groups.reached(kThird), UnorderedElementsAre(kSecond, kThird));
    groups.update({{kSecond, 0}});
    EXPECT_THAT(groups.reached(kSecond), ElementsAre(kSecond));
    // The leader of a group that has members is itself in another.
    groups.update({{kSecond, kFirst}});
    groups.update({{kFirst, kThird}});
    EXPECT_THAT(groups.reached(kFirst), ElementsAre(kSecond));
    groups.update({{kFirst + 3, kFirst}});
    EXPECT_THAT(groups.reached(kFirst), UnorderedElementsAre(kSecond, kFirst + 3));
    EXPECT_THAT(groups.reached(kThird), UnorderedElementsAre(kFirst, kThird));
  });
}

TEST(GhostGroups, AKilledGroupIsMadeAgain) {
  in_pid_namespace([] {
    Groups groups;
    groups.update({{kFirst, kFirst}, {kSecond, kFirst}, {kThird, kFirst}});
    for (int i = 0; i < 10; ++i) {
      EXPECT_THAT(groups.reached(kFirst, SIGKILL), UnorderedElementsAre(kFirst, kSecond, kThird));
      EXPECT_EQ(groups.harness.keeper.size(), 3U);
    }
    EXPECT_THAT(groups.reached(kFirst), UnorderedElementsAre(kFirst, kSecond, kThird));
    EXPECT_THAT(groups.reached(kFirst, SIGSTOP), UnorderedElementsAre(kFirst, kSecond, kThird));
    EXPECT_THAT(groups.reached(kFirst, SIGCONT), UnorderedElementsAre(kFirst, kSecond, kThird));
  });
}

// However late some of them run: what is not together, a child's end may overtake.
TEST(GhostGroups, AllAtOnce) {
  in_pid_namespace([] {
    constexpr int kMembers = 30;
    Groups groups;
    std::vector<std::pair<pid_t, pid_t>> wanted;
    for (pid_t pid = kFirst; pid < kFirst + kMembers; ++pid) wanted.emplace_back(pid, kFirst);
    groups.update(wanted);
    std::vector<pid_t> others;
    for (int i = 0; i < 4; ++i)
      if (others.push_back(::fork()); others.back() == 0)
        while (true) (void)::getppid();
    auto& signals = groups.harness.signals;
    std::size_t reports = 0;
    for (int round = 0; round < 20; ++round) {
      int signal = round % 4 == 3 ? SIGKILL : SIGTERM;
      EXPECT_EQ(groups.harness.act([=] { return kill_errno(-kFirst, signal); }), 0);
      ++reports;
      EXPECT_TRUE(groups.harness.run_until([&] { return signals.size() >= reports * kMembers; }));
      ASSERT_EQ(signals.size(), reports * kMembers);
      for (std::size_t k = (reports - 1) * kMembers; k < signals.size(); ++k)
        EXPECT_EQ(signals[k].batch, signals[(reports - 1) * kMembers].batch) << round;
    }
    EXPECT_NE(signals.front().batch, 0U);
    EXPECT_NE(signals.front().batch, signals.back().batch);
    signals.clear();
    EXPECT_EQ(groups.harness.act([] {
      (void)::kill(-kFirst, SIGUSR1);
      (void)::kill(kFirst + 1, SIGUSR2);
      return kill_errno(-kFirst, SIGHUP);
    }),
              0);
    groups.harness.await_signals(2 * kMembers + 1);
    std::map<pid_t, std::size_t> counts;
    for (const auto& each : signals) ++counts[each.pid];
    for (auto [pid, count] : counts) EXPECT_EQ(count, pid == kFirst + 1 ? 3U : 2U) << pid;
    for (pid_t pid : others) EXPECT_EQ(::kill(pid, SIGKILL), 0);
  });
}

TEST(GhostGroups, AnotherOwnersLeader) {
  in_pid_namespace([] {
    Groups groups;
    groups.update({{kFirst, kFirst}, {kSecond, kFirst}});
    auto failures = groups.harness.keeper.update({.add = {{.pid = kFirst, .uid = 5, .gid = 5}}});
    EXPECT_TRUE(failures.empty());
    EXPECT_THAT(groups.reached(kFirst), UnorderedElementsAre(kFirst, kSecond));
  });
}

// What is somebody else's here is not joined, and nothing is done to it.
TEST(GhostGroups, SomebodyElsesGroup) {
  in_pid_namespace([] {
    Groups groups;
    auto pipe = make_pipe();
    ASSERT_TRUE(pipe);
    pid_t other = ::fork();
    if (other == 0) {
      (void)::setsid();
      (void)!::write(pipe->write.get(), "x", 1);
      while (true) ::pause();
    }
    char byte = 0;
    ASSERT_EQ(::read(pipe->read.get(), &byte, 1), 1);
    for (pid_t group : {other, pid_t{1}, ::getpid(), pid_t{-7}}) {
      groups.update({{kFirst, group}});
      EXPECT_THAT(groups.reached(kFirst), ElementsAre(kFirst)) << group;
    }
    EXPECT_EQ(::kill(other, SIGKILL), 0);
  });
}

}  // namespace
}  // namespace gestalt
