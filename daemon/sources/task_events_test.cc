// One suite for each source of events. Both tell the initial namespaces only, that of the module
// needs it loaded: elsewhere, as in a container, the tests skip themselves.
#include "daemon/sources/task_events.h"

#include <gtest/gtest.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <set>
#include <thread>

#include "common/child.h"
#include "daemon/sources/connector_task_events.h"
#include "daemon/sources/module_task_events.h"

namespace gestalt {
namespace {

using Kind = TaskEvent::Kind;
constexpr auto kPatience = std::chrono::seconds(100);

Result<std::unique_ptr<TaskEvents>> open_events(const std::string& name) {
  return name == "connector" ? ConnectorTaskEvents::open() : ModuleTaskEvents::open();
}

class TaskEventsTest : public testing::TestWithParam<const char*> {
 protected:
  void SetUp() override {
    auto opened = open_events(GetParam());
    if (!opened) GTEST_SKIP() << opened.error().text();
    events_ = std::move(*opened);
    EXPECT_STREQ(events_->name(), GetParam());
  }
  // Takes until `enough`; false: that never came.
  bool take_until(const std::function<bool()>& enough) {
    for (Deadline end = deadline_in(kPatience); !enough();) {
      if (Clock::now() >= end) return false;
      // Whether there is enough may change without an event.
      (void)wait_for(events_->descriptor(), POLLIN, std::min(end, deadline_in(milliseconds(50))));
      auto news = events_->take();
      EXPECT_TRUE(news) << news.error().text();
      if (!news) return false;
      all_.insert(all_.end(), news->events.begin(), news->events.end());
      lost_ |= news->lost;
    }
    return true;
  }
  [[nodiscard]] bool told(Kind kind, pid_t pid) const {
    return std::ranges::any_of(
        all_, [&](const TaskEvent& each) { return each.kind == kind && each.pid == pid; });
  }
  [[nodiscard]] std::vector<TaskEvent> of(pid_t pid) const {
    std::vector<TaskEvent> out;
    for (const auto& each : all_)
      if (each.pid == pid) out.push_back(each);
    return out;
  }
  static pid_t run_program() {
    SpawnOptions options;
    options.argv = {"/bin/true"};
    auto pid = spawn(options);
    EXPECT_TRUE(pid) << pid.error().text();
    (void)wait_child(pid.value_or(-1), deadline_in(kPatience));
    return pid.value_or(-1);
  }
  // Without a copy of this process's page tables: two thousand of those take an emulated machine
  // most of a minute.
  static pid_t fork_once() {
    pid_t pid = ::vfork();
    if (pid == 0) ::_exit(0);
    EXPECT_EQ(::waitpid(pid, nullptr, 0), pid);
    return pid;
  }
  std::unique_ptr<TaskEvents> events_;
  std::vector<TaskEvent> all_;
  bool lost_ = false;
};

TEST_P(TaskEventsTest, AProcessIsToldFromItsForkToItsExit) {
  pid_t child = run_program();
  ASSERT_TRUE(take_until([&] { return told(Kind::kExit, child); }));
  EXPECT_FALSE(lost_);
  auto life = of(child);
  ASSERT_EQ(life.size(), 3U);
  EXPECT_EQ(life[0].kind, Kind::kFork);
  EXPECT_EQ(life[1].kind, Kind::kExec);
  EXPECT_EQ(life[2].kind, Kind::kExit);
}

TEST_P(TaskEventsTest, ThreadsAreLeftOut) {
  std::jthread([] {}).join();
  pid_t child = fork_once();
  ASSERT_TRUE(take_until([&] { return told(Kind::kExit, child); }));
  EXPECT_TRUE(told(Kind::kFork, child));
  EXPECT_TRUE(of(::getpid()).empty());
}

TEST_P(TaskEventsTest, WhatHappensHereConcernsThisNamespace) {
  auto here = pid_namespace_of("/proc", ::getpid());
  ASSERT_TRUE(here) << here.error().text();
  pid_t child = fork_once();
  ASSERT_TRUE(take_until([&] { return told(Kind::kExit, child); }));
  auto events = of(child);
  EXPECT_TRUE(concerns({.events = events, .lost = false}, *here));
  PidNamespace other{.inode = here->inode + 1, .level = here->level};
  bool namespaces_known = std::string(GetParam()) == "kmod";
  EXPECT_EQ(concerns({.events = events, .lost = false}, other), !namespaces_known);
}

// All are told, or that some are not.
TEST_P(TaskEventsTest, NothingOfAStormIsLostInSilence) {
  constexpr std::size_t kForks = 2000;
  std::set<pid_t> forked;
  std::atomic<pid_t> last = 0;
  std::jthread storm([&] {
    for (std::size_t i = 1; i < kForks; ++i) forked.insert(fork_once());
    pid_t pid = fork_once();
    forked.insert(pid);
    last = pid;
  });
  ASSERT_TRUE(take_until(
      [&] { return last != 0 && (lost_ || (!all_.empty() && told(Kind::kExit, last))); }));
  storm.join();
  if (lost_) return;
  std::set<pid_t> begun;
  std::set<pid_t> ended;
  for (const auto& each : all_) {
    if (!forked.contains(each.pid)) continue;
    if (each.kind == Kind::kFork) begun.insert(each.pid);
    if (each.kind == Kind::kExit) ended.insert(each.pid);
  }
  EXPECT_EQ(begun, forked);
  EXPECT_EQ(ended, forked);
}

TEST_P(TaskEventsTest, WhoDoesNotListenIsToldThatSomethingIsMissing) {
  int little = 4096;
  ASSERT_EQ(::setsockopt(events_->descriptor(), SOL_SOCKET, SO_RCVBUF, &little, sizeof little), 0);
  for (int i = 0; i < 1000; ++i) (void)fork_once();
  EXPECT_TRUE(take_until([&] { return lost_; }));
  // And then it goes on.
  pid_t child = fork_once();
  EXPECT_TRUE(take_until([&] { return told(Kind::kExit, child); }));
}

// As much as there is, but no more at once than said.
TEST_P(TaskEventsTest, OneTakeIsBounded) {
  if (std::string(GetParam()) != "connector") GTEST_SKIP() << "many events are in one message";
  for (int i = 0; i < TaskEvents::kMostMessages; ++i) (void)fork_once();
  auto news = events_->take();
  ASSERT_TRUE(news);
  EXPECT_LE(news->events.size(), static_cast<std::size_t>(TaskEvents::kMostMessages));
  EXPECT_TRUE(wait_for(events_->descriptor(), POLLIN, deadline_in(kPatience)));
}

INSTANTIATE_TEST_SUITE_P(Sources, TaskEventsTest, testing::Values("connector", "kmod"),
                         [](const auto& each) { return std::string(each.param); });

}  // namespace
}  // namespace gestalt
