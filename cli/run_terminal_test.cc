// `gestalt run` on a terminal: raw mode, stopping and continuing, the window's size.
#include <gtest/gtest.h>
#include <sys/wait.h>
#include <termios.h>
#include <unistd.h>

#include <csignal>
#include <functional>

#include "cli/fake_daemon.h"

namespace gestalt::cli {
namespace {

class RunTerminalTest : public ::testing::Test {
 protected:
  [[nodiscard]] bool is_raw() const {
    termios settings{};
    EXPECT_EQ(::tcgetattr(command_.terminal(), &settings), 0);
    return (settings.c_lflag & (ICANON | ECHO | ISIG)) == 0;
  }
  void end_job(std::uint32_t wait_status) {
    daemon_.send_data(1, 0, "", true);
    daemon_.send_exit(wait_status);
  }
  void stop_job(int signal) {
    wire::Message stopped;
    stopped.mutable_job_stopped()->set_job_id(7);
    stopped.mutable_job_stopped()->set_signal(static_cast<std::uint32_t>(signal));
    daemon_.send(stopped);
  }
  // Until the command is stopped or over; its wait status, 0 for neither in 5 s.
  [[nodiscard]] int await_stop() const {
    int status = 0;
    for (int i = 0; i < 500; ++i) {
      if (::waitpid(command_.pid(), &status, WUNTRACED | WNOHANG) == command_.pid()) return status;
      ::usleep(10'000);
    }
    return 0;
  }

  EventLoop loop_;
  FakeDaemon daemon_{loop_};
  CommandUnderTest command_{
      loop_, daemon_.path(), {"run", "vi"}, CommandUnderTest::Stdio::kTerminal};
};

TEST_F(RunTerminalTest, IsRawWhileTheJobRuns) {
  bool raw_before = true;
  bool raw_during = false;
  wire::Stdio stdio;
  std::string typed;
  daemon_.on_message = [&](const wire::Message& message) {
    if (message.has_run_request()) {
      stdio = message.run_request().spec().stdio();
      raw_before = is_raw();
      daemon_.start_job(message);
    } else if (message.has_job_window()) {
      raw_during = is_raw();
      command_.write_input("\x03");  // the job's terminal is to make a signal of it
    } else if (message.has_stdio_data()) {
      typed = message.stdio_data().data();
      end_job(4 << 8);
    }
  };
  EXPECT_EQ(WEXITSTATUS(command_.wait()), 4);
  EXPECT_FALSE(raw_before);
  EXPECT_TRUE(raw_during);
  EXPECT_FALSE(is_raw());
  EXPECT_EQ(typed, "\x03");
  EXPECT_EQ(stdio.in(), wire::STDIO_TTY);
  EXPECT_EQ(stdio.out(), wire::STDIO_TTY);
  EXPECT_TRUE(stdio.merge_err());
  EXPECT_EQ(stdio.window().rows(), 33U);
  EXPECT_EQ(stdio.window().columns(), 101U);
  EXPECT_EQ(stdio.termios().size(), sizeof(termios));
}

TEST_F(RunTerminalTest, StopsAndContinuesWithTheJob) {
  int windows = 0;
  int stopped_status = 0;
  bool raw_while_stopped = true;
  bool raw_again = false;
  wire::JobSignal signal;
  daemon_.on_message = [&](const wire::Message& message) {
    if (message.has_run_request()) {
      daemon_.start_job(message);
    } else if (message.has_job_window() && ++windows == 1) {
      stop_job(SIGSTOP);
      stopped_status = await_stop();
      raw_while_stopped = is_raw();
      ::kill(command_.pid(), SIGCONT);
    } else if (message.has_job_signal()) {
      signal = message.job_signal();
      raw_again = is_raw();
      end_job(0);
    }
  };
  EXPECT_EQ(command_.wait(), 0);
  EXPECT_TRUE(WIFSTOPPED(stopped_status));
  EXPECT_FALSE(raw_while_stopped);
  EXPECT_TRUE(raw_again);
  EXPECT_FALSE(is_raw());
  EXPECT_EQ(signal.signal(), static_cast<unsigned>(SIGCONT));
  EXPECT_TRUE(signal.to_group());
}

TEST_F(RunTerminalTest, WithoutAShellAStopKeyDoesNotStop) {
  // The command leads a session of its own: the kernel stops no such group by SIGTSTP,
  // so the job is continued at once, as a local program would never have stopped.
  int signals = 0;
  daemon_.on_message = [&](const wire::Message& message) {
    if (message.has_run_request()) daemon_.start_job(message);
    if (message.has_job_window() && signals == 0) stop_job(SIGTSTP);
    if (message.has_job_signal() && ++signals == 1) {
      EXPECT_EQ(message.job_signal().signal(), static_cast<unsigned>(SIGCONT));
      end_job(0);
    }
  };
  EXPECT_EQ(command_.wait(), 0);
  EXPECT_FALSE(is_raw());
}

TEST_F(RunTerminalTest, IsRestoredWhenTheSessionFails) {
  daemon_.on_message = [&](const wire::Message& message) {
    if (message.has_run_request()) daemon_.start_job(message);
    if (!message.has_job_window()) return;
    daemon_.send_data(1, 0, "x", true);
    daemon_.send_data(1, 1, "after the end", false);
  };
  EXPECT_EQ(WEXITSTATUS(command_.wait()), 125);
  EXPECT_FALSE(is_raw());
}

// Ctrl-Z, fg and the exit status, as a user's shell sees them.
class JobControlTest : public ::testing::Test {
 protected:
  // Runs `then` once the shell has written `text` after all that was awaited before.
  void when_written(const std::string& text, const std::function<void()>& then) {
    auto found = shell_.output().find(text, seen_);
    if (found == std::string::npos) {
      (void)loop_.after(milliseconds(10), [=, this] { when_written(text, then); });
      return;
    }
    seen_ = found + text.size();
    then();
  }

  EventLoop loop_;
  FakeDaemon daemon_{loop_};
  std::size_t seen_ = 0;
  CommandUnderTest shell_{loop_,
                          daemon_.path(),
                          {"--norc", "--noediting", "-i"},
                          CommandUnderTest::Stdio::kTerminal,
                          "/bin/bash"};
};

TEST_F(JobControlTest, TheShellSeesTheJobStopContinueAndEnd) {
  int windows = 0;
  int continued = 0;
  daemon_.on_message = [&](const wire::Message& message) {
    if (message.has_run_request()) daemon_.start_job(message);
    if (message.has_job_window() && ++windows == 1) {
      wire::Message stopped;
      stopped.mutable_job_stopped()->set_job_id(7);
      stopped.mutable_job_stopped()->set_signal(SIGTSTP);
      daemon_.send(stopped);
      when_written("Stopped", [&] { shell_.write_input("echo cooked=$?; fg\n"); });
    }
    if (message.has_job_signal() && ++continued == 1) {
      EXPECT_EQ(message.job_signal().signal(), static_cast<unsigned>(SIGCONT));
      daemon_.send_data(1, 0, "", true);
      daemon_.send_exit(SIGINT);
      when_written("bash-", [&] { shell_.write_input("echo status=$?; exit\n"); });
    }
  };
  when_written("bash-", [&] { shell_.write_input(GESTALT_PROGRAM " run vi\n"); });
  EXPECT_NE(shell_.wait(), -1);
  EXPECT_NE(shell_.output().find("cooked=148"), std::string::npos) << shell_.output();
  EXPECT_NE(shell_.output().find("status=130"), std::string::npos) << shell_.output();
  EXPECT_EQ(continued, 1);
}

}  // namespace
}  // namespace gestalt::cli
