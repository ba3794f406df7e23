#include "common/pid_probe.h"

#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <thread>

namespace gestalt {
namespace {

// Far from where pids are being handed out.
pid_t unused_pid() {
  for (pid_t pid = 3'000'000; pid < 3'001'000; ++pid)
    if (auto free = pid_is_free(pid); free && *free) return pid;
  return 0;
}

TEST(PidProbe, TellsFreeFromTaken) {
  auto own = pid_is_free(::getpid());
  if (!own && own.error().code == ErrorCode::kPermission) GTEST_SKIP() << own.error().text();
  ASSERT_TRUE(own) << own.error().text();
  EXPECT_FALSE(*own);
  pid_t pid = unused_pid();
  ASSERT_NE(pid, 0);
  for (int i = 0; i < 100; ++i) EXPECT_TRUE(pid_is_free(pid).value()) << "time " << i;
}

TEST(PidProbe, AZombieHoldsItsPid) {
  if (auto own = pid_is_free(::getpid()); !own) GTEST_SKIP() << own.error().text();
  pid_t child = ::fork();
  if (child == 0) ::_exit(0);
  siginfo_t info;
  ASSERT_EQ(::waitid(P_PID, static_cast<id_t>(child), &info, WEXITED | WNOWAIT), 0);
  EXPECT_FALSE(pid_is_free(child).value());
  ASSERT_EQ(::waitpid(child, nullptr, 0), child);
  EXPECT_TRUE(pid_is_free(child).value());
}

TEST(PidProbe, AGroupHoldsItsId) {
  if (auto own = pid_is_free(::getpid()); !own) GTEST_SKIP() << own.error().text();
  pid_t leader = ::fork();
  if (leader == 0) {
    (void)::setpgid(0, 0);
    ::pause();
  }
  (void)::setpgid(leader, leader);
  pid_t member = ::fork();
  if (member == 0) {
    ::pause();
  }
  ASSERT_EQ(::setpgid(member, leader), 0);
  ASSERT_EQ(::kill(leader, SIGKILL), 0);
  ASSERT_EQ(::waitpid(leader, nullptr, 0), leader);
  EXPECT_FALSE(pid_is_free(leader).value());
  ASSERT_EQ(::kill(member, SIGKILL), 0);
  ASSERT_EQ(::waitpid(member, nullptr, 0), member);
  EXPECT_TRUE(pid_is_free(leader).value());
}

TEST(PidProbe, RefusesNonsense) {
  EXPECT_FALSE(pid_is_free(-1));
  EXPECT_FALSE(pid_is_free(1 << 30));
}

TEST(PidProbe, ManyThreadsAtOnce) {
  pid_t pid = unused_pid();
  if (pid == 0) GTEST_SKIP();
  {
    std::vector<std::jthread> threads;
    for (int i = 0; i < 4; ++i)
      threads.emplace_back([=] {
        for (int n = 0; n < 200; ++n) EXPECT_TRUE(pid_is_free(pid + 10 + i).value());
      });
  }
}

}  // namespace
}  // namespace gestalt
