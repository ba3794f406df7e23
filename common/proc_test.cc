#include "common/proc.h"

#include <gtest/gtest.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>

#include "common/fd.h"
#include "common/format.h"

namespace gestalt {
namespace {

const std::string kRest =
    " S 10 11 12 34817 12 4194304 1 2 3 4 500 600 7 8 20 0 3 0 99999 1000000 250 "
    "18446744073709551615 1 1 0 0 0 0 0 0 0\n";

TEST(ParseStat, Fields) {
  auto stat = parse_stat("42 (bash)" + kRest);
  ASSERT_TRUE(stat) << stat.error().text();
  EXPECT_EQ(stat->pid, 42);
  EXPECT_EQ(stat->comm, "bash");
  EXPECT_EQ(stat->state, 'S');
  EXPECT_EQ(stat->parent_pid, 10);
  EXPECT_EQ(stat->group_id, 11);
  EXPECT_EQ(stat->session_id, 12);
  EXPECT_EQ(stat->tty, 34817);
  EXPECT_EQ(stat->user_ticks, 500U);
  EXPECT_EQ(stat->system_ticks, 600U);
  EXPECT_EQ(stat->threads, 3U);
  EXPECT_EQ(stat->start_ticks, 99999U);
  EXPECT_EQ(stat->resident_pages, 250U);
}

TEST(ParseStat, NamesMadeToConfuse) {
  for (const char* name : {"a b", ")", "(", ") R 1 1 1", "a)b(c", "", "\n", "\xff"}) {
    auto stat = parse_stat(formatted("42 ({})", name) + kRest);
    ASSERT_TRUE(stat) << name;
    EXPECT_EQ(stat->comm, name);
    EXPECT_EQ(stat->parent_pid, 10);
  }
}

TEST(ParseStat, Nonsense) {
  for (const std::string& text :
       {std::string(), std::string("42"), std::string("42 (bash"), std::string(")("),
        std::string("42 (bash)"), std::string("42 (bash) S 1 2 3"), "0 (x)" + kRest,
        "-4 (x)" + kRest, "x (x)" + kRest, "42x (x)" + kRest, "(x)" + kRest,
        "99999999999999 (x)" + kRest, std::string("42 (x) S a b c d"),
        "42 (x) S 99999999999" + kRest.substr(5)})
    EXPECT_FALSE(parse_stat(text)) << text;
}

TEST(Proc, StatusFields) {
  std::string text = "Name:\ta: b\nState:\tS (sleeping)\nNSpid:\t7\t1\nEmpty:\nLast:  9 ";
  EXPECT_EQ(status_field(text, "Name"), "a: b");
  EXPECT_EQ(status_field(text, "State"), "S (sleeping)");
  EXPECT_EQ(status_field(text, "NSpid"), "7\t1");
  EXPECT_EQ(status_field(text, "Empty"), "");
  EXPECT_EQ(status_field(text, "Last"), "9");
  for (const char* name : {"Stat", "tate", "a", "", "NSpid:", "Nothing"})
    EXPECT_EQ(status_field(text, name), "") << name;
  EXPECT_EQ(status_field("", "Name"), "");
  EXPECT_EQ(status_field("Name", "Name"), "");
}

TEST(ParseStatus, Fields) {
  auto ids = parse_status("Name:\tUid:\nUid:\t1\t2\t3\t4\nGid:\t5\nNSpid:\t100\t20\t1\nX:\t1\n");
  ASSERT_TRUE(ids);
  EXPECT_EQ(ids->real_uid, 1U);
  EXPECT_EQ(ids->effective_uid, 2U);
  EXPECT_EQ(ids->saved_uid, 3U);
  EXPECT_EQ(ids->namespace_pids, (std::vector<pid_t>{100, 20, 1}));
  EXPECT_EQ(parse_status("Uid:\t4294967295\t0\t0\t0\n")->real_uid, ~0U);
  for (const char* text : {"", "Name:\tx\n", "Uid:\t1\n", "Uid:\tx y z\n"})
    EXPECT_FALSE(parse_status(text)) << text;
}

TEST(Proc, Ourselves) {
  auto stat = read_stat("/proc", ::getpid());
  ASSERT_TRUE(stat);
  EXPECT_EQ(stat->parent_pid, ::getppid());
  EXPECT_EQ(stat->session_id, ::getsid(0));
  EXPECT_GT(stat->resident_pages, 0U);
  auto ids = read_ids("/proc", ::getpid());
  ASSERT_TRUE(ids);
  EXPECT_EQ(ids->real_uid, ::getuid());
  EXPECT_EQ(ids->namespace_pids.back(), ::getpid());
  auto pids = list_pids("/proc");
  ASSERT_TRUE(pids);
  EXPECT_NE(std::find(pids->begin(), pids->end(), ::getpid()), pids->end());
  EXPECT_NE(command_line("/proc", ::getpid()).find("proc_test"), std::string::npos);
  EXPECT_EQ(command_line("/proc", ::getpid(), 3).size(), 3U);
}

TEST(Proc, GoneAndZombie) {
  pid_t child = ::fork();
  if (child == 0) ::_exit(0);
  siginfo_t info{};
  ASSERT_EQ(::waitid(P_PID, static_cast<id_t>(child), &info, WEXITED | WNOWAIT), 0);
  auto zombie = read_stat("/proc", child);
  ASSERT_TRUE(zombie);
  EXPECT_EQ(zombie->state, 'Z');
  EXPECT_EQ(command_line("/proc", child), "[proc_test]");
  ASSERT_EQ(::waitpid(child, nullptr, 0), child);
  EXPECT_EQ(read_stat("/proc", child).error().code, ErrorCode::kGone);
  EXPECT_EQ(read_ids("/proc", child).error().code, ErrorCode::kGone);
  EXPECT_EQ(command_line("/proc", child), "[?]");
  EXPECT_FALSE(list_pids("/nonexistent"));
}

class FakeProc : public testing::Test {
 protected:
  void SetUp() override {
    std::string name = testing::TempDir() + "/gestalt-proc-XXXXXX";
    ASSERT_NE(::mkdtemp(name.data()), nullptr);
    proc_ = name;
    std::filesystem::create_directory(proc_ + "/42");
    put("stat", "42 (name)" + kRest);
  }
  void TearDown() override { std::filesystem::remove_all(proc_); }
  void put(const char* file, const std::string& content) {
    ASSERT_TRUE(replace_file(formatted("{}/42/{}", proc_, file), content, 0600));
  }
  std::string proc_;
};

TEST_F(FakeProc, OnlyPidsAreListed) {
  for (const char* name : {"-5", "0", "+7", "7a", "99999999999999999999", "self", "0x10"})
    std::filesystem::create_directory(proc_ + "/" + name);
  EXPECT_EQ(*list_pids(proc_), std::vector<pid_t>{42});
}

// What the kernel writes of a process that is collected meanwhile: no parent, no group, no thread.
TEST_F(FakeProc, CollectedWhileTheLineWasWritten) {
  EXPECT_TRUE(read_stat(proc_, 42));
  put("stat",
      "42 (name) R 0 -1 -1 0 -1 4228108 1 2 3 4 0 0 0 0 20 0 0 0 99999 0 0 0 0 0 0 0 0 0 0\n");
  EXPECT_EQ(read_stat(proc_, 42).error().code, ErrorCode::kGone);
}

TEST_F(FakeProc, CommandLines) {
  using std::string_literals::operator""s;
  put("cmdline", "sh\0-c\0a b\0"s);
  EXPECT_EQ(command_line(proc_, 42), "sh -c a b");
  EXPECT_EQ(command_line(proc_, 42, 4), "sh -");
  put("cmdline", "\0\0"s);
  EXPECT_EQ(command_line(proc_, 42), "[name]");
  put("cmdline", "");
  EXPECT_EQ(command_line(proc_, 42), "[name]");
}

TEST_F(FakeProc, CgroupPath) {
  put("cgroup", "12:cpu:/v1\n0::/gestalt/job-7\n");
  EXPECT_EQ(*cgroup_path(proc_, 42), "/gestalt/job-7");
  put("cgroup", "12:cpu:/v1\n");
  EXPECT_EQ(cgroup_path(proc_, 42).error().code, ErrorCode::kNotFound);
  EXPECT_EQ(cgroup_path(proc_, 43).error().code, ErrorCode::kGone);
}

}  // namespace
}  // namespace gestalt
