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

TEST(Blockers, AreOneErrorWithAllReasons) {
  EXPECT_TRUE(refuse_blockers({}));
  auto refused = refuse_blockers({{7, "it sings", "hush"}, {8, "it dances", "stop"}});
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().code, ErrorCode::kBlocked);
  EXPECT_EQ(refused.error().message, "cannot migrate; process 7: it sings; process 8: it dances");
  EXPECT_EQ(refused.error().remedy, "hush");
}

}  // namespace
}  // namespace gestalt
