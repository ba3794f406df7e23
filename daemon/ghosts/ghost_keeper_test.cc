#include "daemon/ghosts/ghost_keeper.h"

#include <gmock/gmock.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <csignal>

#include "common/format.h"
#include "daemon/ghosts/ghost_fixture.h"

namespace gestalt {
namespace {

constexpr pid_t kFirst = 10'000;

std::string status_line(pid_t pid, const std::string& name) {
  auto text = read_file(formatted("/proc/{}/status", pid));
  auto start = text ? text->find("\n" + name + ":\t") : std::string::npos;
  if (start == std::string::npos) return {};
  start += name.size() + 3;
  return text->substr(start, text->find('\n', start) - start);
}

TEST(GhostKeeper, ReportsEachFailureAndDoesTheRest) {
  in_pid_namespace([] {
    KeeperHarness harness;
    constexpr auto kNobody = static_cast<uid_t>(-1);
    auto failures = harness.keeper.update({.add = {{kFirst},
                                                   {::getpid()},
                                                   {1},
                                                   {-5},
                                                   {kFirst + 1, kNobody, 0},
                                                   {kFirst + 2, 0, kNobody},
                                                   {kFirst + 3, 5, 5}}});
    std::map<pid_t, ErrorCode> codes;
    for (const auto& failure : failures) codes[failure.pid] = failure.error.code;
    std::map<pid_t, ErrorCode> expected = {{::getpid(), ErrorCode::kBusy},
                                           {1, ErrorCode::kBusy},
                                           {-5, ErrorCode::kInvalidArgument},
                                           {kFirst + 1, ErrorCode::kInvalidArgument},
                                           {kFirst + 2, ErrorCode::kInvalidArgument}};
    EXPECT_EQ(codes, expected);
    EXPECT_EQ(harness.keeper.size(), 2U);
    EXPECT_TRUE(harness.keeper.has(kFirst));
    EXPECT_TRUE(harness.keeper.has(kFirst + 3));
  });
}

TEST(GhostKeeper, UpdatesAreIdempotent) {
  in_pid_namespace([] {
    KeeperHarness harness;
    GhostUpdate update{.full = true, .add = {{kFirst, 1, 1}, {kFirst + 1, 2, 2}}};
    for (int i = 0; i < 3; ++i) {
      EXPECT_TRUE(harness.keeper.update(update).empty());
      EXPECT_EQ(harness.keeper.size(), 2U);
    }
    for (int i = 0; i < 2; ++i) EXPECT_TRUE(harness.keeper.remove(kFirst));
    EXPECT_EQ(kill_errno(kFirst, 0), ESRCH);
    EXPECT_TRUE(harness.keeper.add(kFirst + 2, 0, 0));
    EXPECT_EQ(harness.keeper.size(), 2U);
    EXPECT_TRUE(harness.keeper.update(update).empty());
    EXPECT_FALSE(harness.keeper.has(kFirst + 2));
    EXPECT_EQ(kill_errno(kFirst + 2, 0), ESRCH);
    harness.await_signals(0);
  });
}

TEST(GhostKeeper, HasTheOwnersIdsAndNoCapabilities) {
  in_pid_namespace([] {
    KeeperHarness harness;
    ASSERT_TRUE(harness.keeper.add(kFirst, 1001, 1002));
    ASSERT_TRUE(harness.keeper.add(kFirst + 1, 0, 0));
    EXPECT_EQ(status_line(kFirst, "Uid"), "0\t1001\t1001\t1001");
    EXPECT_EQ(status_line(kFirst, "Gid"), "1002\t1002\t1002\t1002");
    EXPECT_EQ(status_line(kFirst + 1, "Uid"), "0\t0\t0\t0");
    for (pid_t pid : {kFirst, kFirst + 1}) {
      for (const char* set : {"CapInh", "CapPrm", "CapEff", "CapAmb"})
        EXPECT_EQ(status_line(pid, set), "0000000000000000") << set;
      EXPECT_EQ(status_line(pid, "NoNewPrivs"), "1");
      EXPECT_EQ(status_line(pid, "Groups"), " ");
    }
    // The keeper keeps its own, and stays closed although others' ids came and went.
    EXPECT_EQ(::prctl(PR_GET_DUMPABLE), 0);
    EXPECT_EQ(status_line(::getpid(), "Uid"), "0\t0\t0\t0");
    EXPECT_NE(status_line(::getpid(), "CapEff"), "0000000000000000");
  });
}

std::string name_of(pid_t pid) {
  auto text = read_file(formatted("/proc/{}/comm", pid));
  return text ? text->substr(0, text->size() - 1) : std::string();
}

TEST(GhostKeeper, HasTheProcessesName) {
  in_pid_namespace([] {
    KeeperHarness harness;
    auto name = [&](const std::string& wish) {
      EXPECT_TRUE(
          harness.keeper.update({.add = {{.pid = kFirst, .uid = 5, .name = wish}}}).empty());
      EXPECT_TRUE(harness.run_until([&] { return name_of(kFirst) == wish.substr(0, 15); })) << wish;
    };
    for (const char* wish : {"sleep", "a) b\n", "", "sixteen-bytes-xx"}) name(wish);
    EXPECT_EQ(harness.act([] { return kill_errno(kFirst, SIGSTOP); }), 0);
    harness.await_signals(1);
    // Also that of a stopped one: it is told that the process is not.
    name("other");
    EXPECT_EQ(harness.act([] { return kill_errno(kFirst, SIGKILL); }), 0);
    harness.await_signals(2);
    EXPECT_EQ(name_of(kFirst), "other");
  });
}

TEST(GhostKeeper, AChangedOwnerGetsAnotherGhost) {
  in_pid_namespace([] {
    KeeperHarness harness;
    ASSERT_TRUE(harness.keeper.add(kFirst, 1001, 1001));
    EXPECT_EQ(harness.act([] { return kill_errno(kFirst, SIGUSR1); }, 1001), 0);
    ASSERT_TRUE(harness.keeper.add(kFirst, 1002, 1002));
    EXPECT_EQ(harness.act([] { return kill_errno(kFirst, SIGUSR1); }, 1001), EPERM);
    EXPECT_EQ(harness.act([] { return kill_errno(kFirst, SIGUSR2); }, 1002), 0);
    harness.await_signals(2);
    EXPECT_THAT(harness.signals_of(kFirst), ::testing::ElementsAre(SIGUSR1, SIGUSR2));
  });
}

TEST(GhostKeeper, GhostsDieWithTheirKeeper) {
  in_pid_namespace([] {
    auto pipe = make_pipe();
    ASSERT_TRUE(pipe);
    pid_t keeper = ::fork();
    if (keeper == 0) {
      KeeperHarness harness;
      for (pid_t pid = kFirst; pid < kFirst + 50; ++pid)
        if (!harness.keeper.add(pid, pid % 2 == 0 ? 0U : 1001U, 0)) ::_exit(1);
      (void)!::write(pipe->write.get(), "x", 1);
      while (true) ::pause();
    }
    pipe->write.reset();
    char ready = 0;
    ASSERT_EQ(::read(pipe->read.get(), &ready, 1), 1);
    EXPECT_EQ(kill_errno(kFirst, 0), 0);
    EXPECT_EQ(::kill(keeper, SIGKILL), 0);
    EXPECT_EQ(::waitpid(keeper, nullptr, 0), keeper);
    auto deadline = deadline_in(std::chrono::seconds(10));
    for (pid_t pid = kFirst; pid < kFirst + 50; ++pid)
      while (kill_errno(pid, 0) == 0 && Clock::now() < deadline) ::usleep(1000);
    for (pid_t pid = kFirst; pid < kFirst + 50; ++pid) EXPECT_EQ(kill_errno(pid, 0), ESRCH);
  });
}

TEST(GhostKeeper, TenThousand) {
  in_pid_namespace([] {
    constexpr int kCount = 10'000;
    KeeperHarness harness;
    auto began = Clock::now();
    harness.add(kFirst, kCount);
    auto added = Clock::now();
    EXPECT_EQ(harness.keeper.size(), std::size_t{kCount});
    EXPECT_EQ(kill_errno(kFirst + kCount - 1, 0), 0);
    EXPECT_TRUE(harness.keeper.update({.full = true}).empty());
    auto removed = Clock::now();
    EXPECT_EQ(kill_errno(kFirst + kCount - 1, 0), ESRCH);
    EXPECT_EQ(harness.keeper.size(), 0U);
    // On a machine with nothing else to do, a fifth of this.
    EXPECT_LT(seconds_between(began, added), 20);
    EXPECT_LT(seconds_between(added, removed), 20);
    std::printf("added in %.3f s, removed in %.3f s\n", seconds_between(began, added),
                seconds_between(added, removed));
    harness.await_signals(0);
  });
}

}  // namespace
}  // namespace gestalt
