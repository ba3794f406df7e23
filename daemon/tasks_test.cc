#include "daemon/tasks.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <thread>

#include "common/cgroup.h"
#include "common/format.h"
#include "daemon/load.h"
#include "daemon/sources/proc_task_source.h"

namespace gestalt {
namespace {

namespace fs = std::filesystem;

// A procfs made of plain files.
class FakeProc : public testing::Test {
 protected:
  void SetUp() override {
    proc_ = fs::temp_directory_path() / formatted("proc-{}", ::getpid());
    fs::remove_all(proc_);
    fs::create_directory(proc_);
  }
  void TearDown() override { fs::remove_all(proc_); }

  static std::string stat_line(int pid, char state, int parent, int threads,
                               const std::string& name = "a (b) c") {
    return formatted(
        "{} ({}) {} {} 1 1 0 -1 4194560 1 2 3 4 150 50 0 0 20 0 {} 0 100 4096000 25 0\n", pid, name,
        state, parent, threads);
  }
  // The cluster's init, its child 1000, and that one's, which are in its list but for the last.
  void add_keeper(const std::string& name, uid_t uid, const std::vector<int>& children) {
    add(1, 'S', 0, "/");
    add(1000, 'S', 1, "/");
    std::ofstream(proc_ / "1000/stat") << stat_line(1000, 'S', 1, 1, name);
    std::ofstream(proc_ / "1000/status") << formatted("Name:\tx\nUid:\t{0}\t{0}\t{0}\t{0}\n", uid);
    fs::create_directories(proc_ / "1/task/1");
    std::ofstream(proc_ / "1/task/1/children") << "1000 ";
    fs::create_directories(proc_ / "1000/task/1000");
    std::ofstream list(proc_ / "1000/task/1000/children");
    for (int child : children) {
      add(child, 'S', 1000, "/");
      std::ofstream(proc_ / std::to_string(child) / "stat")
          << stat_line(child, 'S', 1000, 1, "sleep");
      if (child != children.back()) list << child << " ";
    }
  }
  void add(int pid, char state, int parent, const std::string& cgroup, int threads = 1) {
    auto directory = proc_ / std::to_string(pid);
    fs::create_directory(directory);
    std::ofstream(directory / "stat") << stat_line(pid, state, parent, threads);
    std::ofstream(directory / "status") << "Name:\tx\nUid:\t1000\t1000\t1000\t1000\n";
    std::ofstream(directory / "cmdline") << std::string("prog\0-x\0", 8);
    std::ofstream(directory / "cgroup") << "1:cpu:/\n0::" << cgroup << "\n";
    for (int i = 1; threads > 1 && i <= threads; ++i) {
      auto thread = directory / "task" / std::to_string(pid + i);
      fs::create_directories(thread);
      std::ofstream(thread / "stat") << stat_line(pid + i, i == 1 ? 'S' : 'R', parent, threads);
    }
  }
  static Result<std::vector<wire::Task>> list(const TaskView& view) {
    GESTALT_ASSIGN(auto records, ProcTaskSource().list({.proc = view.proc}));
    return describe_tasks(view, records);
  }
  [[nodiscard]] TaskView view() const {
    return {.proc = proc_.string(),
            .node = "n1",
            .pid_first = 1000,
            .pid_last = 1999,
            .roots = {{3, 1001}, {4, 500}}};
  }
  fs::path proc_;
};

TEST_F(FakeProc, MapsTasksToJobs) {
  add(1001, 'S', 1000, "/gestalt/job-3/payload");
  add(1002, 'R', 1001, "/gestalt/job-3");
  add(1000, 'S', 1, "/");
  auto tasks = list(view());
  ASSERT_TRUE(tasks) << tasks.error().text();
  ASSERT_EQ(tasks->size(), 3U);
  EXPECT_EQ((*tasks)[0].job_id(), 0U);
  EXPECT_EQ((*tasks)[1].job_id(), 3U);
  EXPECT_TRUE((*tasks)[1].is_root());
  EXPECT_FALSE((*tasks)[2].is_root());
  EXPECT_EQ((*tasks)[2].parent_pid(), 1001U);
  EXPECT_EQ((*tasks)[2].command(), "prog -x");
  EXPECT_EQ((*tasks)[2].uid(), 1000U);
  EXPECT_EQ((*tasks)[2].state(), "R");
  EXPECT_GT((*tasks)[2].resident_bytes(), 0U);
}

TEST_F(FakeProc, MarksPidsOutsideTheSliceUnlessTheyMovedHere) {
  add(2500, 'S', 1, "/gestalt/job-3");
  add(500, 'S', 1, "/gestalt/job-4");  // the root of a job that came from elsewhere
  add(501, 'S', 500, "/gestalt/job-4");
  add(1500, 'S', 1, "/gestalt/job-3");
  EXPECT_TRUE(read_task(view(), 2500)->outside_slice());
  EXPECT_FALSE(read_task(view(), 500)->outside_slice());
  EXPECT_FALSE(read_task(view(), 501)->outside_slice());
  EXPECT_FALSE(read_task(view(), 1500)->outside_slice());
}

TEST_F(FakeProc, WhatHasDepartedIsNotThere) {
  add(1001, 'S', 1000, "/gestalt/job-3");
  add(1000, 'S', 1, "/");  // its stand-in
  add(1002, 'S', 1, "/gestalt/job-4");
  auto after = view();
  after.departed_jobs = {3};
  after.hidden_pids = {1000};
  auto tasks = list(after);
  ASSERT_TRUE(tasks) << tasks.error().text();
  ASSERT_EQ(tasks->size(), 1U);
  EXPECT_EQ((*tasks)[0].pid(), 1002U);
  EXPECT_EQ(read_task(after, 1001).error().code, ErrorCode::kGone);
}

TEST_F(FakeProc, AProcessThatIsGone) {
  auto task = read_task(view(), 77);
  ASSERT_FALSE(task);
  EXPECT_EQ(task.error().code, ErrorCode::kGone);
}

TEST_F(FakeProc, CountsThreadsThatRun) {
  add(1001, 'R', 1, "/");
  add(1002, 'S', 1, "/");
  add(1003, 'D', 1, "/");
  add(1010, 'S', 1, "/", 3);
  auto counts = ProcTaskSource().count({.proc = proc_.string()});
  ASSERT_TRUE(counts);
  EXPECT_EQ(counts->processes, 4U);
  EXPECT_EQ(counts->active, 4U);
}

TEST_F(FakeProc, GhostsAreNotThere) {
  add_keeper("gestalt-ghosts", 0, {1500, 1501, 1502});
  EXPECT_EQ(ProcTaskSource().count({.proc = proc_.string()})->processes, 2U);
  EXPECT_EQ(list(view())->size(), 2U);
  EXPECT_EQ(read_task(view(), 1500).error().code, ErrorCode::kGone);
}

TEST_F(FakeProc, NobodyElseMakesGhosts) {
  add_keeper("gestalt-ghosts", 1000, {1500, 1501, 1502});
  EXPECT_EQ(ProcTaskSource().count({.proc = proc_.string()})->processes, 5U);
  EXPECT_EQ(list(view())->size(), 5U);
  EXPECT_TRUE(read_task(view(), 1500));
}

TEST_F(FakeProc, CountingTakesAFiftiethOfTheTime) {
  using std::chrono::milliseconds;
  EXPECT_EQ(TaskCounter::interval_for(milliseconds(1)), milliseconds(50));
  EXPECT_EQ(TaskCounter::interval_for(milliseconds(800)), TaskCounter::kOldest);
  TaskCounter counter;
  unsigned asked = 0;
  auto count = [&]() -> Result<TaskCounts> {
    ++asked;
    std::this_thread::sleep_for(milliseconds(20));
    return TaskCounts{.processes = asked};
  };
  auto failing = []() -> Result<TaskCounts> { return fail(ErrorCode::kUnavailable, "no"); };
  EXPECT_FALSE(counter.count(1, failing));
  EXPECT_EQ(counter.count(1, count)->processes, 1U);
  EXPECT_EQ(counter.count(1, count)->processes, 1U);
  // Another cluster init.
  EXPECT_EQ(counter.count(2, count)->processes, 2U);
}

TEST(Load, ParsesCpuMax) {
  EXPECT_DOUBLE_EQ(parse_cpu_max("40000 100000\n"), 0.4);
  EXPECT_DOUBLE_EQ(parse_cpu_max("max 100000\n"), 0);
  EXPECT_DOUBLE_EQ(parse_cpu_max(""), 0);
  EXPECT_DOUBLE_EQ(parse_cpu_max("5 0"), 0);
}

TEST(Load, ParsesMeminfo) {
  auto memory = parse_meminfo("MemTotal:  1000 kB\nMemFree: 1 kB\nMemAvailable:  400 kB\n");
  ASSERT_TRUE(memory);
  EXPECT_EQ(memory->total_bytes, 1024000U);
  EXPECT_EQ(memory->available_bytes, 409600U);
  EXPECT_FALSE(parse_meminfo("nonsense"));
}

TEST(Load, MeasuresThisMachine) {
  ProcTaskSource source;
  auto load = load_message(usable_cpus(), source.load(), source.count({.proc = "/proc"}));
  EXPECT_GT(load.cpus(), 0);
  EXPECT_GT(load.memory_total_bytes(), 0U);
  EXPECT_GT(load.tasks(), 0U);
  EXPECT_NE(load_file_text("n1", load).find("node=n1\n"), std::string::npos);
}

}  // namespace
}  // namespace gestalt
