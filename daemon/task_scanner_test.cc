#include "daemon/task_scanner.h"

#include "common/format.h"
#include "daemon/sources/proc_task_source.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>

namespace gestalt {
namespace {

using testing::Contains;
using testing::ElementsAre;
using testing::Pair;
using testing::UnorderedElementsAre;

// A procfs of files: what a real one says cannot be made to stay the same.
class TaskScannerTest : public testing::Test {
 protected:
  void SetUp() override {
    root_ = std::filesystem::path(testing::TempDir()) /
            ("scanner-" + std::to_string(::getpid()) + "-" +
             testing::UnitTest::GetInstance()->current_test_info()->name());
    std::filesystem::create_directories(root_ / "net");
    write("meminfo", "MemTotal: 1 kB\n");
  }
  void TearDown() override { std::filesystem::remove_all(root_); }

  std::uint64_t signature_ = 0;  // of all processes

  void write(const std::string& name, const std::string& content) const {
    std::filesystem::create_directories((root_ / name).parent_path());
    std::ofstream(root_ / name, std::ios::binary) << content;
  }
  void process(int pid, const std::string& name = "a (b) c", int start = 100, int ticks = 1,
               const std::string& cgroup = "0::/gestalt/job-7\n") const {
    auto base = std::to_string(pid) + "/";
    write(base + "stat", formatted("{} ({}) S 1 1 1 0 -1 0 0 0 0 0 {} 0 0 0 20 0 1 0 {} 0 0\n", pid,
                                   name, ticks, start));
    write(base + "status", "Name:\tx\n");
    write(base + "statm", "1 1 1 1 0 1 0\n");
    write(base + "cmdline", std::string("x\0y\0", 4));
    write(base + "cgroup", cgroup);
  }
  std::vector<wire::ViewDelta> round(TaskScanner::Hidden hidden = {}, std::size_t step = 3) {
    std::vector<wire::ViewDelta> out;
    auto sink = [&](wire::ViewDelta delta) { out.push_back(std::move(delta)); };
    auto tasks = ProcTaskSource().glimpse({.proc = root_.string()});
    EXPECT_TRUE(tasks);
    for (auto& task : *tasks) task.signature = signature_;
    auto begun = scanner_.begin_round(root_.string(), std::move(*tasks), std::move(hidden), sink);
    EXPECT_TRUE(begun) << begun.error().text();
    while (scanner_.step(step, sink)) {
    }
    scanner_.end_round(sink);
    for (std::size_t i = 0; i < out.size(); ++i) EXPECT_EQ(out[i].last(), i + 1 == out.size());
    return out;
  }
  static std::map<std::uint32_t, std::vector<std::string>> tasks(
      const std::vector<wire::ViewDelta>& deltas) {
    std::map<std::uint32_t, std::vector<std::string>> out;
    for (const auto& delta : deltas)
      for (const auto& task : delta.tasks())
        for (const auto& file : task.files()) out[task.pid()].push_back(file.name());
    return out;
  }
  static std::vector<std::uint32_t> gone(const std::vector<wire::ViewDelta>& deltas) {
    std::vector<std::uint32_t> out;
    for (const auto& delta : deltas)
      out.insert(out.end(), delta.gone().begin(), delta.gone().end());
    return out;
  }

  std::filesystem::path root_;
  TaskScanner scanner_;
};

TEST_F(TaskScannerTest, FirstRoundTellsAllTheNextOnesWhatChanged) {
  for (int pid : {10, 20, 30, 40}) process(pid);
  auto first = round();
  EXPECT_TRUE(first.front().full());
  EXPECT_EQ(tasks(first).size(), 4U);
  EXPECT_THAT(tasks(first),
              Contains(Pair(10, UnorderedElementsAre("stat", "status", "statm", "cmdline", "cgroup",
                                                     "environ"))));
  ASSERT_EQ(first.back().files_size(), 1);
  EXPECT_EQ(first.back().files(0).content(), "MemTotal: 1 kB\n");

  auto second = round();
  ASSERT_EQ(second.size(), 1U);
  EXPECT_FALSE(second[0].full());
  EXPECT_TRUE(tasks(second).empty());
  EXPECT_TRUE(second[0].files().empty());
  EXPECT_GT(second[0].boot_unix_nanoseconds(), 0U);

  process(20, "a (b) c", 100, 2);
  std::filesystem::remove_all(root_ / "30");
  auto third = round();
  EXPECT_THAT(tasks(third), ElementsAre(Pair(20, ElementsAre("stat"))));
  EXPECT_THAT(gone(third), ElementsAre(30));
}

TEST_F(TaskScannerTest, AnotherProcessUnderTheSamePidIsToldWhole) {
  process(10);
  (void)round();
  process(10, "other", 200);
  EXPECT_EQ(tasks(round())[10].size(), 6U);
}

TEST_F(TaskScannerTest, AChangedCommandLineIsFoundWithinTenRounds) {
  process(10);
  (void)round();
  write("10/cmdline", "renamed");
  int rounds = 0;
  while (tasks(round()).empty() && rounds < 20) ++rounds;
  EXPECT_LE(rounds, 10);
}

TEST_F(TaskScannerTest, WhatIsElsewhereIsNotShownAndComesBack) {
  process(10);
  process(20, "x", 100, 1, "0::/\n");
  process(21, "stand-in", 100, 1, "0::/\n");
  TaskScanner::Hidden hidden{.jobs = {7}, .pids = {21}};
  EXPECT_THAT(tasks(round(hidden)), ElementsAre(Pair(20, testing::SizeIs(6))));
  EXPECT_TRUE(tasks(round(hidden)).empty());
  EXPECT_EQ(tasks(round()).size(), 2U);  // both are here again, and told whole
  EXPECT_THAT(gone(round(hidden)), UnorderedElementsAre(10, 21));
  EXPECT_TRUE(gone(round(hidden)).empty());
}

const wire::TaskFile* file_of(const std::vector<wire::ViewDelta>& deltas, std::uint32_t pid,
                              const std::string& name) {
  for (const auto& delta : deltas)
    for (const auto& task : delta.tasks())
      for (const auto& file : task.files())
        if (task.pid() == pid && file.name() == name) return &file;
  return nullptr;
}

TEST_F(TaskScannerTest, AnEnvironmentIsToldOnce) {
  for (int pid : {10, 20, 30}) {
    process(pid);
    write(std::to_string(pid) + "/environ", pid == 30 ? "B=2" : "A=1");
  }
  auto first = round();
  EXPECT_EQ(file_of(first, 30, "environ")->content(), "B=2");
  bool ten_is_first = file_of(first, 20, "environ")->same_as_pid() == 10;
  const auto* whole = file_of(first, ten_is_first ? 10 : 20, "environ");
  const auto* twin = file_of(first, ten_is_first ? 20 : 10, "environ");
  EXPECT_EQ(whole->content(), "A=1");
  EXPECT_EQ(whole->same_as_pid(), 0U);
  EXPECT_EQ(twin->same_as_pid(), ten_is_first ? 10U : 20U);
  EXPECT_TRUE(twin->content().empty());
  // With the one who was told to have it gone, it is told again.
  for (int pid : {10, 20}) std::filesystem::remove_all(root_ / std::to_string(pid));
  process(40);
  write("40/environ", "A=1");
  (void)round();  // both have been told to be gone
  std::filesystem::remove_all(root_ / "40");
  (void)round();
  process(50);
  write("50/environ", "A=1");
  EXPECT_EQ(file_of(round(), 50, "environ")->content(), "A=1");
}

TEST_F(TaskScannerTest, WhatIsHiddenIsNobodysTwin) {
  process(10);
  write("10/environ", "A=1");
  (void)round({.jobs = {7}, .pids = {}, .below_pid = 0});
  process(20, "x", 100, 1, "0::/\n");
  write("20/environ", "A=1");
  auto next = round({.jobs = {7}, .pids = {}, .below_pid = 0});
  EXPECT_EQ(file_of(next, 20, "environ")->content(), "A=1");
}

TEST_F(TaskScannerTest, LongArgumentsAreLeftToBeFetched) {
  process(10);
  write("10/cmdline", std::string(TaskScanner::kMaxArgumentsBytes + 1, 'x'));
  process(20);
  write("20/cmdline", std::string(TaskScanner::kMaxArgumentsBytes, 'x'));
  auto first = round();
  EXPECT_TRUE(file_of(first, 10, "cmdline")->too_large());
  EXPECT_TRUE(file_of(first, 10, "cmdline")->content().empty());
  EXPECT_EQ(file_of(first, 20, "cmdline")->content().size(), TaskScanner::kMaxArgumentsBytes);
}

TEST_F(TaskScannerTest, LargeRoundsComeInSeveralMessages) {
  for (int pid = 1000; pid < 1400; ++pid) {
    process(pid);
    write(std::to_string(pid) + "/cmdline", std::string(30'000, 'x'));
  }
  auto first = round({}, 100);
  EXPECT_GT(first.size(), 5U);
  EXPECT_EQ(tasks(first).size(), 400U);
  for (const auto& delta : first) EXPECT_LT(delta.ByteSizeLong(), 2U << 20);
}

TEST_F(TaskScannerTest, NoProcfsIsAnError) {
  auto sink = [](wire::ViewDelta) {};
  EXPECT_FALSE(scanner_.begin_round("/nowhere/proc", {}, {}, sink));
}

// Whoever has the signature of the last round is not looked at, but for each tenth round.
TEST_F(TaskScannerTest, SignaturesSpareLooking) {
  signature_ = 7;
  process(10);
  EXPECT_EQ(tasks(round()).size(), 1U);
  process(10, "b");
  unsigned told = 0;
  for (int i = 0; i < 9; ++i) told += static_cast<unsigned>(tasks(round()).size());
  EXPECT_LE(told, 1U);
  process(10, "c");
  signature_ = 8;
  EXPECT_EQ(tasks(round()).size(), 1U);
  EXPECT_TRUE(tasks(round()).empty());
}

TEST_F(TaskScannerTest, ForgetTellsEverythingAgain) {
  process(10);
  (void)round();
  scanner_.forget();
  auto again = round();
  EXPECT_TRUE(again.front().full());
  EXPECT_EQ(tasks(again).size(), 1U);
  EXPECT_EQ(again.back().files_size(), 1);
}

TEST(TaskScannerReal, ReadsThisMachine) {
  TaskScanner scanner;
  std::size_t own = 0;
  auto sink = [&](const wire::ViewDelta& delta) {
    for (const auto& task : delta.tasks())
      own += task.pid() == static_cast<std::uint32_t>(::getpid());
  };
  ASSERT_TRUE(scanner.begin_round("/proc", *ProcTaskSource().glimpse({.proc = "/proc"}), {}, sink));
  while (scanner.step(50, sink)) {
  }
  scanner.end_round(sink);
  EXPECT_EQ(own, 1U);
}

}  // namespace
}  // namespace gestalt
