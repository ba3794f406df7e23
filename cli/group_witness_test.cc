#include "cli/group_witness.h"

#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <csignal>
#include <thread>

#include "common/format.h"
#include "common/proc.h"

namespace gestalt::cli {
namespace {

// A process with a group and a witness of its own, which tells of each signal whether that was the
// group's. SIGUSR2 starts its witness anew, SIGTERM ends both.
class Witnessed : public testing::Test {
 protected:
  void SetUp() override {
    answers_ = *make_pipe();
    pid_ = ::fork();
    if (pid_ == 0) live();
    EXPECT_EQ(answer(), 'r');
  }
  void TearDown() override {
    ::kill(-pid_, SIGKILL);
    ::waitpid(pid_, nullptr, 0);
  }

  [[noreturn]] void live() {
    ::setpgid(0, 0);
    sigset_t all;
    sigfillset(&all);
    ::sigprocmask(SIG_BLOCK, &all, nullptr);
    std::array<char, 64> title{};
    GroupWitness witness(title);
    witness.start();
    say('r');
    for (int signal = 0; (signal = ::sigwaitinfo(&all, nullptr)) > 0;) {
      if (signal == SIGCHLD) continue;
      if (signal == SIGUSR2) {
        witness.stop();
        witness.start();
      }
      if (signal == SIGTERM) {
        witness.stop();
        ::_exit(0);
      }
      say(witness.saw(signal) ? 'g' : 'p');
    }
    ::_exit(1);
  }
  void say(char c) { (void)!::write(answers_.write.get(), &c, 1); }
  char answer() {
    std::byte c{};
    EXPECT_TRUE(read_exact(answers_.read.get(), {&c, 1}, deadline_in(std::chrono::seconds(10))));
    return static_cast<char>(c);
  }
  char to_process(int signal) {
    ::kill(pid_, signal);
    return answer();
  }
  char to_group(int signal) {
    ::kill(-pid_, signal);
    return answer();
  }
  pid_t witness() {
    auto children = read_file(formatted("/proc/{0}/task/{0}/children", pid_));
    return children && !children->empty() ? std::stoi(*children) : 0;
  }

  Pipe answers_;
  pid_t pid_ = 0;
};

TEST_F(Witnessed, TellsGroupsFromProcesses) {
  for (int i = 0; i < 20; ++i) {
    EXPECT_EQ(to_group(SIGHUP), 'g');
    EXPECT_EQ(to_process(SIGHUP), 'p');
    EXPECT_EQ(to_process(SIGRTMAX), 'p');
    EXPECT_EQ(to_group(SIGRTMAX), 'g');
    EXPECT_EQ(to_process(SIGINT), 'p');
  }
}

TEST_F(Witnessed, HasItsOwnName) {
  auto stat = read_stat("/proc", witness());
  ASSERT_TRUE(stat);
  EXPECT_EQ(stat->comm, "gestalt-witness");
  EXPECT_EQ(stat->group_id, pid_);
}

TEST_F(Witnessed, AnotherOne) {
  auto first = witness();
  EXPECT_EQ(to_process(SIGUSR2), 'p');
  EXPECT_NE(witness(), first);
  EXPECT_EQ(::kill(first, 0), -1);
  EXPECT_EQ(to_group(SIGHUP), 'g');
}

TEST_F(Witnessed, WithoutOneAllIsTheProcesss) {
  ::kill(witness(), SIGKILL);
  EXPECT_EQ(to_group(SIGHUP), 'p');
}

TEST_F(Witnessed, OneThatIsStoppedDoesNotHang) {
  auto pid = witness();
  ::kill(pid, SIGSTOP);
  EXPECT_EQ(to_group(SIGHUP), 'p');
  EXPECT_EQ(to_process(SIGUSR2), 'p') << "it can be ended";
  EXPECT_EQ(to_group(SIGHUP), 'g');
}

TEST_F(Witnessed, EndsWithIt) {
  auto pid = witness();
  ::kill(pid_, SIGTERM);
  EXPECT_EQ(::waitpid(pid_, nullptr, 0), pid_);
  EXPECT_EQ(::kill(pid, 0), -1);
}

TEST_F(Witnessed, StaysForAMomentIfOnlyTheOtherIsKilled) {
  auto pid = witness();
  ::kill(pid_, SIGKILL);
  EXPECT_EQ(::waitpid(pid_, nullptr, 0), pid_);
  std::this_thread::sleep_for(milliseconds(200));
  auto stat = read_stat("/proc", pid);
  EXPECT_TRUE(stat && stat->state == 'S');
}

}  // namespace
}  // namespace gestalt::cli
