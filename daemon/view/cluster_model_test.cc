#include "daemon/view/cluster_model.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "common/format.h"

namespace gestalt {
namespace {

using testing::ElementsAre;
using testing::IsEmpty;
using testing::UnorderedElementsAre;

std::string stat_of(int pid, int start = 100, int cpu = 1) {
  std::string text = formatted("{} (name) S 1", pid);
  for (int field = 5; field <= 52; ++field)
    text += formatted(" {}", field == 22 ? start : field == 39 ? cpu : 0);
  return text + "\n";
}

void add_task(wire::ViewDelta& delta, std::uint32_t pid, const std::string& stat,
              std::uint32_t uid = 0) {
  auto& task = *delta.add_tasks();
  task.set_pid(pid);
  task.set_uid(uid);
  auto& file = *task.add_files();
  file.set_name("stat");
  file.set_content(stat);
}

wire::ViewDelta round(const std::string& node, std::vector<std::uint32_t> pids, bool full,
                      int cpus = 0) {
  wire::ViewDelta delta;
  delta.set_node(node);
  delta.set_full(full);
  delta.set_last(true);
  for (auto pid : pids) add_task(delta, pid, stat_of(static_cast<int>(pid)));
  if (cpus > 0) {
    auto& file = *delta.add_files();
    file.set_name("stat");
    std::string text = "cpu 1\n";
    for (int i = 0; i < cpus; ++i) text += formatted("cpu{} 1 2 3\n", i);
    file.set_content(text + "intr 1\n");
  }
  return delta;
}

wire::ViewNodes nodes(std::vector<std::string> names) {
  wire::ViewNodes out;
  for (auto& name : names) out.add_nodes()->set_name(name);
  return out;
}

class ClusterModelTest : public testing::Test {
 protected:
  void SetUp() override { model_.set_leader("leader", 0, 2); }
  ClusterModel::Changes apply(wire::ViewDelta delta) {
    return model_.apply(std::move(delta), Clock::now());
  }
  ClusterModel model_;
};

wire::TaskFile& add_environment(wire::ViewDelta& delta, int task, const std::string& text) {
  auto& file = *delta.mutable_tasks(task)->add_files();
  file.set_name("environ");
  file.set_content(text);
  return file;
}

TEST_F(ClusterModelTest, AnEnvironmentIsThatOfAnother) {
  auto delta = round("node1", {20000, 20001, 20002}, true);
  add_environment(delta, 0, "A=1");
  add_environment(delta, 1, "").set_same_as_pid(20000);
  add_environment(delta, 2, "").set_same_as_pid(30000);  // who is that?
  (void)apply(std::move(delta));
  const auto* first = model_.find(20000);
  const auto* second = model_.find(20001);
  EXPECT_EQ(model_.content(*second, TaskFile::kEnviron, true), "A=1");
  EXPECT_EQ(first->environment, second->environment);
  EXPECT_FALSE(model_.find(20002)->is_told(TaskFile::kEnviron));
  // It has another now, of its own.
  wire::ViewDelta next;
  next.set_node("node1");
  next.add_tasks()->set_pid(20000);
  add_environment(next, 0, "A=2");
  EXPECT_EQ(apply(std::move(next)).files.size(), 1U);
  EXPECT_EQ(model_.content(*model_.find(20000), TaskFile::kEnviron, true), "A=2");
  EXPECT_EQ(model_.content(*model_.find(20001), TaskFile::kEnviron, true), "A=1");
}

TEST_F(ClusterModelTest, AnEnvironmentIsNotThatOfAnotherUserOrNode) {
  auto delta = round("node1", {20000, 20001}, true);
  delta.mutable_tasks(0)->set_private_uid(7);
  add_environment(delta, 0, "SECRET=1");
  add_environment(delta, 1, "").set_same_as_pid(20000);
  (void)apply(std::move(delta));
  EXPECT_FALSE(model_.find(20001)->is_told(TaskFile::kEnviron));
  auto other = round("node2", {40000}, true);
  other.mutable_tasks(0)->set_private_uid(7);
  add_environment(other, 0, "").set_same_as_pid(20000);
  (void)apply(std::move(other));
  EXPECT_FALSE(model_.find(40000)->is_told(TaskFile::kEnviron));
}

TEST_F(ClusterModelTest, WhatIsTooLargeIsNotTold) {
  (void)apply(round("node1", {20000}, true));
  auto update = [&](bool large) {
    wire::ViewDelta delta;
    delta.set_node("node1");
    auto& task = *delta.add_tasks();
    task.set_pid(20000);
    auto& file = *task.add_files();
    file.set_name("cmdline");
    file.set_too_large(large);
    if (!large) file.set_content("short");
    return apply(std::move(delta)).files.size();
  };
  EXPECT_EQ(update(false), 1U);
  EXPECT_EQ(update(true), 1U);
  EXPECT_FALSE(model_.find(20000)->is_told(TaskFile::kCmdline));
  EXPECT_EQ(update(false), 1U) << "though it is what it was before";
  EXPECT_TRUE(model_.find(20000)->is_told(TaskFile::kCmdline));
  EXPECT_EQ(update(false), 0U);
}

TEST_F(ClusterModelTest, TasksComeChangeAndGo) {
  auto first = apply(round("a", {10, 20}, true));
  EXPECT_THAT(first.appeared, ElementsAre(10, 20));
  EXPECT_THAT(first.files, IsEmpty());
  ASSERT_NE(model_.find(10), nullptr);
  auto serial = model_.find(10)->serial;

  wire::ViewDelta next;
  next.set_node("a");
  next.set_last(true);
  add_task(next, 10, stat_of(10, 100, 0));
  next.add_gone(20);
  auto second = apply(next);
  EXPECT_THAT(second.appeared, IsEmpty());
  EXPECT_THAT(second.gone, ElementsAre(20));
  ASSERT_EQ(second.files.size(), 1U);
  EXPECT_EQ(second.files[0].serial, serial);
  EXPECT_EQ(model_.by_serial(serial)->pid, 10U);
}

TEST_F(ClusterModelTest, AFullRoundDropsWhatItDoesNotName) {
  apply(round("a", {10, 20, 30}, true));
  auto begin = round("a", {10}, true);
  begin.set_last(false);
  EXPECT_THAT(apply(begin).gone, IsEmpty());  // until the round is complete
  auto changes = apply(round("a", {30}, false));
  EXPECT_THAT(changes.gone, ElementsAre(20));
  EXPECT_EQ(model_.tasks().size(), 2U);
}

TEST_F(ClusterModelTest, AMovedProcessIsTheNewNodes) {
  apply(round("a", {10}, true));
  auto serial = model_.find(10)->serial;
  auto moved = apply(round("b", {10}, false));
  EXPECT_THAT(moved.gone, ElementsAre(10));
  EXPECT_THAT(moved.appeared, ElementsAre(10));
  EXPECT_EQ(model_.find(10)->node, "b");
  EXPECT_NE(model_.find(10)->serial, serial);
  EXPECT_EQ(model_.by_serial(serial), nullptr);
  wire::ViewDelta late;
  late.set_node("a");
  late.add_gone(10);
  EXPECT_THAT(apply(late).gone, IsEmpty());
  EXPECT_NE(model_.find(10), nullptr);
}

TEST_F(ClusterModelTest, NodesGetTheirCpusInOrder) {
  apply(round("a", {10}, true, 4));
  apply(round("b", {20}, true, 8));
  auto changes = model_.set_nodes(nodes({"leader", "b", "a"}));
  EXPECT_TRUE(changes.machine);
  auto list = model_.nodes();
  ASSERT_EQ(list.size(), 2U);
  EXPECT_EQ(list[0].first, "b");
  EXPECT_EQ(list[0].second->first_cpu, 2U);
  EXPECT_EQ(list[1].second->first_cpu, 10U);
  EXPECT_EQ(list[1].second->index, 2U);
  EXPECT_TRUE(model_.content(*model_.find(10), TaskFile::kStat, true).contains(" 11 "));
  EXPECT_FALSE(model_.set_nodes(nodes({"leader", "b", "a"})).machine);
  auto without = model_.remove_node("b");
  EXPECT_THAT(without.gone, ElementsAre(20));
  EXPECT_TRUE(without.machine);
  EXPECT_TRUE(model_.content(*model_.find(10), TaskFile::kStat, true).contains(" 3 "));
}

TEST_F(ClusterModelTest, StartTimesAreTheLeaders) {
  model_.set_leader("leader", 1'000'000'000'000, 1);
  auto delta = round("a", {10}, true);
  delta.set_boot_unix_nanoseconds(1'005'000'000'000);  // booted 5 s later
  apply(delta);
  EXPECT_TRUE(model_.content(*model_.find(10), TaskFile::kStat, true).contains(" 600 "));
}

TEST_F(ClusterModelTest, AddressesAreForThoseWhoMayTrace) {
  auto delta = round("a", {}, true);
  std::string text = "10 (a ) 1 2) S 1";
  for (int field = 5; field <= 52; ++field) text += formatted(" {}", field * 1000);
  add_task(delta, 10, text + "\n");
  apply(delta);
  auto all = model_.content(*model_.find(10), TaskFile::kStat, true);
  auto some = model_.content(*model_.find(10), TaskFile::kStat, false);
  EXPECT_TRUE(all.contains(" 25000 26000 27000 28000 29000 30000 31000 "));
  EXPECT_TRUE(some.contains(" 25000 1 1 0 0 0 31000 "));
  EXPECT_TRUE(some.ends_with(" 44000 0 0 0 0 0 0 0 0\n")) << some;
  EXPECT_TRUE(some.starts_with("10 (a ) 1 2) S 1 5000 "));
}

TEST_F(ClusterModelTest, NonsenseChangesNothing) {
  wire::ViewDelta nameless = round("", {10}, true);
  EXPECT_THAT(apply(nameless).appeared, IsEmpty());
  EXPECT_THAT(apply(round("a", {0, 1U << 22, 4'000'000'000U}, true)).appeared, IsEmpty());
  wire::ViewDelta partial;
  partial.set_node("a");
  auto& task = *partial.add_tasks();
  task.set_pid(10);
  auto& file = *task.add_files();
  file.set_name("cmdline");
  EXPECT_THAT(apply(partial).appeared, IsEmpty());
  EXPECT_THAT(model_.remove_node("nobody").gone, IsEmpty());
}

TEST_F(ClusterModelTest, ANodeThatLeavesTakesItsProcessesWithIt) {
  apply(round("a", {10, 11}, true));
  apply(round("b", {20}, true));
  EXPECT_THAT(model_.remove_node("a").gone, UnorderedElementsAre(10, 11));
  EXPECT_EQ(model_.tasks().size(), 1U);
}

}  // namespace
}  // namespace gestalt
