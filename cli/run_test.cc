// `gestalt run` as a process of its own, against a daemon that the test plays.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <csignal>
#include <thread>

#include "cli/fake_daemon.h"
#include "common/stdio_window.h"

namespace gestalt::cli {
namespace {

using ::testing::ElementsAre;

class RunTest : public ::testing::Test {
 protected:
  // Answers the first request with a started job, then does as `then` says.
  void start_then(const std::function<void()>& then) {
    daemon_.on_message = [this, then](const wire::Message& message) {
      take(message);
      if (!message.has_run_request()) return;
      request_ = message.run_request();
      daemon_.start_job(message);
      then();
    };
  }
  // Standard input as a stand-in would see it.
  void take(const wire::Message& message) {
    if (message.has_stdio_data()) {
      const auto& data = message.stdio_data();
      if (data.offset() + data.data().size() > input_.size())
        input_.replace(data.offset(), std::string::npos, data.data());
      input_ended_ = input_ended_ || data.eof();
      chunks_.push_back(data.offset());
    }
    if (message.has_stdio_ack()) acks_.push_back(message.stdio_ack());
    if (message.has_job_signal()) signals_.push_back(message.job_signal());
  }
  void end_job(std::uint32_t wait_status) {
    daemon_.send_data(1, 0, "", true);
    daemon_.send_data(2, 0, "", true);
    daemon_.send_exit(wait_status);
  }
  CommandUnderTest run(std::vector<std::string> arguments) {
    arguments.insert(arguments.begin(), "run");
    return {loop_, daemon_.path(), std::move(arguments)};
  }

  EventLoop loop_;
  FakeDaemon daemon_{loop_};
  CommandUnderTest* command_ = nullptr;
  wire::RunRequest request_;
  std::string input_;
  bool input_ended_ = false;
  std::vector<std::uint64_t> chunks_;
  std::vector<wire::StdioAck> acks_;
  std::vector<wire::JobSignal> signals_;
};

TEST_F(RunTest, PassesOutputsAndExitStatus) {
  start_then([this] {
    daemon_.send_data(1, 0, "out", true);
    daemon_.send_data(2, 0, "err", true);
    daemon_.send_exit(3 << 8);
  });
  auto command = run({"--node", "n2", "true"});
  int status = command.wait();
  EXPECT_TRUE(WIFEXITED(status));
  EXPECT_EQ(WEXITSTATUS(status), 3);
  EXPECT_EQ(command.output(), "out");
  EXPECT_EQ(command.errors(), "err");
  EXPECT_EQ(request_.node(), "n2");
}

TEST_F(RunTest, SendsWhatAProgramInherits) {
  start_then([this] { end_job(0); });
  auto command = run({"--best", "--env", "A=1", "--env", "A=b=c", "--cwd", "/tmp", "ls", "-l", "--",
                      "--node", "\xff"});
  EXPECT_EQ(command.wait(), 0);
  EXPECT_TRUE(request_.best());
  const auto& spec = request_.spec();
  EXPECT_THAT(spec.argv(), ElementsAre("ls", "-l", "--", "--node", "\xff"));
  EXPECT_THAT(spec.environment(), ::testing::Contains("A=b=c").Times(1));
  EXPECT_THAT(spec.environment(), ::testing::Not(::testing::Contains("A=1")));
  EXPECT_EQ(spec.working_directory(), "/tmp");
  EXPECT_EQ(spec.limits_size(), 16);
  EXPECT_EQ(spec.stdio().in(), wire::STDIO_PIPE);
  EXPECT_FALSE(spec.stdio().merge_err());
}

TEST_F(RunTest, OutputAfterTheExitIsStillWritten) {
  start_then([this] {
    daemon_.send_exit(0);
    (void)loop_.after(milliseconds(300), [this] {
      daemon_.send_data(1, 0, "late", true);
      daemon_.send_data(2, 0, "", true);
    });
  });
  auto command = run({"true"});
  EXPECT_EQ(command.wait(), 0);
  EXPECT_EQ(command.output(), "late");
}

TEST_F(RunTest, PassesInputWithinTheWindow) {
  std::string sent(1'000'000, 'x');
  for (std::size_t i = 0; i < sent.size(); ++i) sent[i] = static_cast<char>('a' + i % 23);
  std::size_t unacknowledged_limit = 0;
  daemon_.on_message = [&](const wire::Message& message) {
    take(message);
    if (message.has_run_request()) {
      daemon_.start_job(message);
      // Nothing is acknowledged for a while: the window is all that may come.
      (void)loop_.after(milliseconds(500), [&] {
        unacknowledged_limit = input_.size();
        daemon_.send_ack(0, input_.size());
      });
    }
    if (unacknowledged_limit > 0 && message.has_stdio_data()) daemon_.send_ack(0, input_.size());
    if (input_ended_) end_job(0);
  };
  auto command = run({"cat"});
  std::jthread writer([&] {
    command.write_input(sent);
    command.close_input();
  });
  EXPECT_EQ(command.wait(), 0);
  EXPECT_EQ(unacknowledged_limit, kStdioWindowBytes);
  EXPECT_TRUE(input_ == sent);
}

TEST_F(RunTest, ResyncSendsAgainAndDropsDuplicates) {
  bool resynced = false;
  daemon_.on_message = [&](const wire::Message& message) {
    take(message);
    if (message.has_run_request()) {
      daemon_.start_job(message);
      daemon_.send_data(1, 0, "abcdef", false);
    }
    if (message.has_stdio_data() && !resynced) {
      resynced = true;
      daemon_.send_ack(0, 2);
      wire::Message resync;
      resync.mutable_job_resync()->set_job_id(7);
      resync.mutable_job_resync()->set_node("n3");
      daemon_.send(resync);
      daemon_.send_data(1, 3, "defghi", true);
      daemon_.send_data(1, 0, "abc", false);
      daemon_.send_data(2, 0, "", true);
    } else if (message.has_stdio_data()) {
      daemon_.send_exit(0);
    }
  };
  auto command = run({"cat"});
  command.write_input("hello");
  EXPECT_EQ(command.wait(), 0);
  EXPECT_EQ(command.output(), "abcdefghi");
  EXPECT_EQ(input_, "hello");
  EXPECT_THAT(chunks_, ElementsAre(0, 2));
  EXPECT_TRUE(std::ranges::any_of(
      acks_, [](const auto& ack) { return ack.stream() == 1 && ack.offset() == 9; }));
}

TEST_F(RunTest, AttachesAgainAfterALostConnection) {
  daemon_.on_message = [&](const wire::Message& message) {
    take(message);
    if (message.has_run_request()) {
      daemon_.start_job(message);
      daemon_.send_data(1, 0, "one ", false);
    }
    if (message.has_stdio_data() && daemon_.connections() == 1) {
      daemon_.hang_up();
    }
    if (message.has_attach_request()) {
      EXPECT_EQ(message.attach_request().job_id(), 7U);
      wire::Message attached;
      auto& job = *attached.mutable_attach_reply()->mutable_job();
      job.set_job_id(7);
      job.set_node("n2");
      job.set_state(wire::JOB_RUNNING);
      daemon_.reply(message, attached);
      daemon_.send_data(1, 7, "!", false);  // overtakes what was lost
      daemon_.send_data(1, 0, "one two", false);
      daemon_.send_data(1, 7, "!", true);
      daemon_.send_data(2, 0, "", true);
    }
    if (message.has_stdio_data() && daemon_.connections() == 2) daemon_.send_exit(0);
  };
  auto command = run({"cat"});
  command.write_input("typed");
  EXPECT_EQ(command.wait(), 0);
  EXPECT_EQ(command.output(), "one two!");
  EXPECT_EQ(input_, "typed");
  EXPECT_EQ(daemon_.connections(), 2);
  EXPECT_THAT(chunks_, ElementsAre(0, 0));
}

TEST_F(RunTest, DiesOfTheSameSignal) {
  for (int signal : {SIGTERM, SIGKILL, SIGSEGV, SIGINT}) {
    EventLoop loop;
    FakeDaemon daemon(loop);
    daemon.on_message = [&](const wire::Message& message) {
      if (!message.has_run_request()) return;
      daemon.start_job(message);
      daemon.send_data(1, 0, "", true);
      daemon.send_data(2, 0, "", true);
      daemon.send_exit(static_cast<std::uint32_t>(signal));
    };
    CommandUnderTest command(loop, daemon.path(), {"run", "true"});
    int status = command.wait();
    ASSERT_TRUE(WIFSIGNALED(status)) << signal;
    EXPECT_EQ(WTERMSIG(status), signal);
    EXPECT_FALSE(WCOREDUMP(status));
  }
}

TEST_F(RunTest, StartFailuresHaveTheShellsCodes) {
  const std::pair<ErrorCode, int> kCases[] = {
      {ErrorCode::kExecNotFound, 127}, {ErrorCode::kExecDenied, 126}, {ErrorCode::kSystem, 125}};
  for (auto [code, expected] : kCases) {
    EventLoop loop;
    FakeDaemon daemon(loop);
    daemon.on_message = [&, code](const wire::Message& message) {
      wire::Message accepted;
      accepted.mutable_run_reply()->set_job_id(7);
      daemon.reply(message, accepted);
      wire::Message failed;
      failed.mutable_job_start_failed()->set_job_id(7);
      *failed.mutable_job_start_failed()->mutable_error() = to_wire(Error{code, "no\x1b luck", ""});
      daemon.send(failed);
    };
    CommandUnderTest command(loop, daemon.path(), {"run", "nothing"});
    int status = command.wait();
    EXPECT_EQ(WEXITSTATUS(status), expected);
    EXPECT_EQ(command.errors(), "gestalt: no\\e luck\n");
  }
}

TEST_F(RunTest, ReportsARefusedRequestWithItsRemedy) {
  daemon_.on_message = [&](const wire::Message& message) {
    daemon_.reply_error(message, ErrorCode::kNotFound, "no node n9", "gestalt node list");
  };
  auto command = run({"--node", "n9", "true"});
  EXPECT_EQ(WEXITSTATUS(command.wait()), 125);
  EXPECT_EQ(command.errors(), "gestalt: no node n9\ngestalt: try: gestalt node list\n");
}

TEST_F(RunTest, ReportsALostNode) {
  start_then([this] {
    daemon_.send_data(1, 0, "before", false);
    wire::Message lost;
    lost.mutable_job_node_lost()->set_job_id(7);
    lost.mutable_job_node_lost()->set_node("n2");
    daemon_.send(lost);
  });
  auto command = run({"sleep", "9"});
  EXPECT_EQ(WEXITSTATUS(command.wait()), 125);
  EXPECT_EQ(command.output(), "before");
  EXPECT_EQ(command.errors(), "gestalt: node n2 failed; the job is lost\n");
}

TEST_F(RunTest, ForwardsSignalsToTheRootButNoIgnoredOnes) {
  auto* old = ::signal(SIGHUP, SIG_IGN);  // inherited, as from nohup
  daemon_.on_message = [&](const wire::Message& message) {
    take(message);
    if (message.has_run_request()) {
      daemon_.start_job(message);
      // Behind JobStarted, so the command is ready once it acknowledges this.
      daemon_.send_data(1, 0, "x", false);
    }
    if (message.has_stdio_ack() && signals_.empty()) {
      ::kill(command_->pid(), SIGHUP);
      ::kill(command_->pid(), SIGTERM);
    }
    if (message.has_job_signal()) {
      daemon_.send_data(1, 1, "", true);
      daemon_.send_data(2, 0, "", true);
      daemon_.send_exit(5 << 8);
    }
  };
  auto command = run({"sleep", "9"});
  ::signal(SIGHUP, old);
  command_ = &command;
  EXPECT_EQ(WEXITSTATUS(command.wait()), 5);
  ASSERT_EQ(signals_.size(), 1U);
  EXPECT_EQ(signals_[0].signal(), static_cast<unsigned>(SIGTERM));
  EXPECT_FALSE(signals_[0].to_group());
}

TEST_F(RunTest, TellsThatTheReaderIsGone) {
  bool closed = false;
  std::uint64_t sent = 0;
  daemon_.on_message = [&](const wire::Message& message) {
    if (message.has_run_request()) {
      daemon_.start_job(message);
      daemon_.send_data(1, sent, "head", false);
      sent += 4;
    }
    if (!message.has_stdio_ack()) return;
    if (message.stdio_ack().closed()) {
      closed = true;
      daemon_.send_data(2, 0, "", true);
      daemon_.send_data(1, sent, "", true);
      daemon_.send_exit(SIGPIPE);
    } else {
      command_->close_output();
      daemon_.send_data(1, sent, "more", false);
      sent += 4;
    }
  };
  auto command = run({"yes"});
  command_ = &command;
  int status = command.wait();
  EXPECT_TRUE(closed);
  EXPECT_TRUE(WIFSIGNALED(status) && WTERMSIG(status) == SIGPIPE);
  EXPECT_EQ(command.errors(), "");
}

TEST_F(RunTest, LosesNothingOfAFullWindow) {
  std::string all(kStdioWindowBytes, 'y');
  daemon_.on_message = [&](const wire::Message& message) {
    if (!message.has_run_request()) return;
    daemon_.start_job(message);
    daemon_.send_data(1, 0, all, true);
    daemon_.send_data(2, 0, "", true);
    daemon_.send_exit(0);
  };
  auto command = run({"cat"});
  EXPECT_EQ(command.wait(), 0);
  EXPECT_TRUE(command.output() == all);
}

}  // namespace
}  // namespace gestalt::cli
