#include "migrate/process_tree.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <csignal>
#include <thread>

#include "common/child.h"
#include "common/fd.h"

namespace gestalt {
namespace {

TEST(ProcessTree, HasTheRootFirstAndAllThreads) {
  std::jthread other([](std::stop_token stop) {
    while (!stop.stop_requested()) std::this_thread::sleep_for(milliseconds(1));
  });
  SpawnOptions options;
  options.argv = {"/bin/sleep", "60"};
  auto child = spawn(options);
  ASSERT_TRUE(child) << child.error().text();
  auto tree = read_tree("/proc", ::getpid());
  ASSERT_TRUE(tree) << tree.error().text();
  EXPECT_EQ(tree->pids.front(), ::getpid());
  EXPECT_NE(std::ranges::find(tree->pids, *child), tree->pids.end());
  EXPECT_GE(tree->threads, 3U);
  ::kill(*child, SIGKILL);
  ::waitpid(*child, nullptr, 0);
}

TEST(ProcessTree, AProcessThatIsGoneIsGone) {
  auto tree = read_tree("/proc", 4194304);
  ASSERT_FALSE(tree);
  EXPECT_EQ(tree.error().code, ErrorCode::kGone);
}

TEST(Strays, AreThoseThatDoNotDescend) {
  SpawnOptions options;
  options.argv = {"/bin/sleep", "60"};
  auto child = spawn(options);
  ASSERT_TRUE(child) << child.error().text();
  ProcessTree tree{{::getpid()}, 1};  // read before the child was born
  EXPECT_EQ(find_strays("/proc", tree, {::getpid(), *child, 4194304}), std::vector<pid_t>());
  EXPECT_EQ(find_strays("/proc", tree, {1, *child}), std::vector<pid_t>{1});
  ProcessTree other{{*child}, 1};
  EXPECT_EQ(find_strays("/proc", other, {::getpid(), *child}), std::vector<pid_t>{::getpid()});
  ::kill(*child, SIGKILL);
  EXPECT_EQ(::waitid(P_PID, static_cast<id_t>(*child), nullptr, WEXITED | WNOWAIT), 0);
  EXPECT_EQ(find_strays("/proc", other, {*child}), std::vector<pid_t>());
  EXPECT_EQ(find_strays("/proc", {{4194304}, 1}, {*child}), std::vector<pid_t>()) << "a zombie";
  ::waitpid(*child, nullptr, 0);
}

// A shell's loop of short commands: what is born after the tree was read is no stray.
TEST(Strays, AreNotTheNewborn) {
  SpawnOptions options;
  options.argv = {"/bin/sh", "-c", "while :; do /bin/true & /bin/true; wait; done"};
  auto shell = spawn(options);
  ASSERT_TRUE(shell) << shell.error().text();
  std::size_t newborn = 0;
  for (int i = 0; i < 20'000 && newborn < 20; ++i) {
    auto tree = read_tree("/proc", *shell);
    ASSERT_TRUE(tree) << tree.error().text();
    auto now = read_tree("/proc", *shell);
    ASSERT_TRUE(now) << now.error().text();
    EXPECT_EQ(find_strays("/proc", *tree, now->pids), std::vector<pid_t>());
    newborn += now->pids.size() > tree->pids.size() ? 1 : 0;
  }
  EXPECT_GT(newborn, 0U);
  ::kill(*shell, SIGKILL);
  ::waitpid(*shell, nullptr, 0);
}

}  // namespace
}  // namespace gestalt
