// One suite for each source. That of the module needs it loaded, and a kernel of one's own.
#include "daemon/sources/task_source.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/prctl.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <thread>

#include "common/child.h"
#include "daemon/sources/module_task_source.h"
#include "daemon/sources/proc_task_source.h"

namespace gestalt {
namespace {

const ClusterPids kHere{.proc = "/proc", .init_pid = 1};

class TaskSourceTest : public testing::TestWithParam<const char*> {
 protected:
  void SetUp() override {
    if (std::string(GetParam()) == "proc") {
      source_ = std::make_unique<ProcTaskSource>();
      return;
    }
    auto client = ModuleClient::connect();
    if (!client) GTEST_SKIP() << client.error().text();
    source_ = std::make_unique<ModuleTaskSource>(std::move(*client));
  }
  [[nodiscard]] std::optional<TaskRecord> record(pid_t pid) {
    auto records = source_->list(kHere);
    EXPECT_TRUE(records) << records.error().text();
    for (auto& each : *records)
      if (each.pid == static_cast<std::uint32_t>(pid)) return std::move(each);
    return std::nullopt;
  }
  [[nodiscard]] std::uint64_t signature(pid_t pid) {
    auto glimpses = source_->glimpse(kHere);
    EXPECT_TRUE(glimpses) << glimpses.error().text();
    for (const auto& each : *glimpses)
      if (each.pid == static_cast<std::uint32_t>(pid)) return each.signature;
    ADD_FAILURE() << "no process " << pid;
    return 0;
  }
  static pid_t start_sleeper() {
    SpawnOptions options;
    options.argv = {"/bin/sleep", "1000"};
    auto pid = spawn(options);
    EXPECT_TRUE(pid) << pid.error().text();
    return pid.value_or(-1);
  }
  static void end(pid_t pid) {
    (void)::kill(pid, SIGKILL);
    (void)wait_child(pid, deadline_in(std::chrono::seconds(5)));
  }
  static bool becomes(const std::function<bool()>& condition) {
    for (Deadline end = deadline_in(std::chrono::seconds(10)); Clock::now() < end;) {
      if (condition()) return true;
      std::this_thread::sleep_for(milliseconds(5));
    }
    return false;
  }
  std::unique_ptr<TaskSource> source_;
};

TEST_P(TaskSourceTest, KnowsThisProcess) {
  std::atomic<bool> stop = false;
  std::jthread second([&] {
    while (!stop) std::this_thread::sleep_for(milliseconds(5));
  });
  auto self = record(::getpid());
  stop = true;
  ASSERT_TRUE(self);
  EXPECT_EQ(self->parent_pid, static_cast<std::uint32_t>(::getppid()));
  EXPECT_EQ(self->uid, ::getuid());
  EXPECT_EQ(self->threads, 2U);
  EXPECT_EQ(self->state, 'R');
  EXPECT_EQ(self->comm, "task_source_tes");
  EXPECT_GT(self->resident_bytes, 1U << 20);
  EXPECT_GT(self->start_seconds, 0);
  EXPECT_EQ(self->job_id, 0U);
}

TEST_P(TaskSourceTest, ProcessesComeAndGo) {
  pid_t child = start_sleeper();
  EXPECT_TRUE(becomes([&] { return record(child) && record(child)->comm == "sleep"; }));
  EXPECT_TRUE(becomes([&] { return record(child)->state == 'S'; }));
  EXPECT_EQ(record(child)->parent_pid, static_cast<std::uint32_t>(::getpid()));
  end(child);
  EXPECT_FALSE(record(child));
}

TEST_P(TaskSourceTest, ListsByPid) {
  auto records = source_->list(kHere);
  ASSERT_TRUE(records);
  EXPECT_TRUE(std::ranges::is_sorted(*records, {}, &TaskRecord::pid));
  auto glimpses = source_->glimpse(kHere);
  ASSERT_TRUE(glimpses);
  EXPECT_TRUE(std::ranges::is_sorted(*glimpses, {}, &TaskGlimpse::pid));
}

// Where there are signatures, they tell what has changed.
TEST_P(TaskSourceTest, SignaturesChangeWithTheProcess) {
  pid_t child = start_sleeper();
  ASSERT_TRUE(becomes([&] { return record(child)->state == 'S'; }));
  auto before = signature(child);
  if (before == 0) {
    EXPECT_STREQ(source_->name(), "proc");
  } else {
    EXPECT_EQ(signature(child), before);
    (void)::kill(child, SIGSTOP);
    EXPECT_TRUE(becomes([&] { return record(child)->state == 'T'; }));
    EXPECT_NE(signature(child), before);
  }
  end(child);
}

TEST_P(TaskSourceTest, CountsThoseThatRun) {
  auto before = source_->count(kHere);
  ASSERT_TRUE(before) << before.error().text();
  EXPECT_GE(before->processes, 1U);
  EXPECT_GE(before->active, 1U);
  std::atomic<bool> stop = false;
  std::vector<std::jthread> busy;
  for (int i = 0; i < 3; ++i)
    busy.emplace_back([&] {
      while (!stop) {
      }
    });
  EXPECT_TRUE(becomes([&] { return source_->count(kHere)->active >= 4; }));
  stop = true;
}

TEST_P(TaskSourceTest, SaysWhatProcSays) {
  ProcTaskSource proc;
  auto expected = proc.load();
  auto load = source_->load();
  ASSERT_TRUE(load) << load.error().text();
  EXPECT_EQ(load->memory_total_bytes, expected->memory_total_bytes);
  EXPECT_NEAR(static_cast<double>(load->memory_available_bytes),
              static_cast<double>(expected->memory_available_bytes), 64 << 20);
  EXPECT_NEAR(load->load_average_1, expected->load_average_1, 0.5);
  auto records = source_->list(kHere);
  auto same = proc.list(kHere);
  ASSERT_TRUE(records);
  unsigned seen = 0;
  for (const auto& theirs : *same) {
    auto ours = std::ranges::find(*records, theirs.pid, &TaskRecord::pid);
    if (ours == records->end()) continue;  // it has just been started
    ++seen;
    EXPECT_EQ(ours->parent_pid, theirs.parent_pid) << theirs.comm;
    EXPECT_EQ(ours->uid, theirs.uid) << theirs.comm;
    EXPECT_EQ(ours->job_id, theirs.job_id) << theirs.comm;
    EXPECT_NEAR(ours->start_seconds, theirs.start_seconds, 0.02) << theirs.comm;
  }
  EXPECT_GE(seen, 1U);
}

INSTANTIATE_TEST_SUITE_P(Sources, TaskSourceTest, testing::Values("proc", "kmod"),
                         [](const auto& each) { return std::string(each.param); });

}  // namespace
}  // namespace gestalt
