// The short commands as processes of their own, against a daemon that the test plays.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <cstdlib>
#include <filesystem>
#include <fstream>

#include "cli/fake_daemon.h"

namespace gestalt::cli {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::StartsWith;

struct Ended {
  int exit_code = -1;
  std::string output;
  std::string errors;
};

class CommandsTest : public ::testing::Test {
 protected:
  // Runs the command; `answer` gets each request.
  Ended run(std::vector<std::string> arguments,
            const std::function<void(FakeDaemon&, const wire::Message&)>& answer = {}) {
    EventLoop loop;
    FakeDaemon daemon(loop);
    daemon.on_message = [&](const wire::Message& message) {
      request_ = message;
      if (answer) answer(daemon, message);
    };
    CommandUnderTest command(loop, daemon.path(), std::move(arguments));
    int status = command.wait();
    return {WIFEXITED(status) ? WEXITSTATUS(status) : -1, command.output(), command.errors()};
  }

  wire::Message request_;
};

TEST_F(CommandsTest, UnreachableDaemonIs125WithARemedy) {
  EventLoop loop;
  CommandUnderTest command(loop, "/nonexistent/sock", {"ps"});
  EXPECT_EQ(WEXITSTATUS(command.wait()), 125);
  EXPECT_THAT(command.errors(), StartsWith("gestalt: cannot reach gestaltd at /nonexistent/sock:"));
  EXPECT_THAT(command.errors(), HasSubstr("\ngestalt: try: "));
}

TEST_F(CommandsTest, ADaemonThatGoesAwayIs125) {
  auto ended = run({"ps"}, [](FakeDaemon& daemon, const wire::Message&) { daemon.hang_up(); });
  EXPECT_EQ(ended.exit_code, 125);
  EXPECT_THAT(ended.errors, HasSubstr("lost before it answered"));
}

TEST_F(CommandsTest, PsSortsAndNamesSilentNodes) {
  auto answer = [](FakeDaemon& daemon, const wire::Message& request) {
    wire::Message reply;
    for (std::uint32_t pid : {16391U, 3U}) {
      auto& task = *reply.mutable_task_list_reply()->add_tasks();
      task.set_pid(pid);
      task.set_node("n1");
      task.set_state("S");
      task.set_command("a\tb");
    }
    reply.mutable_task_list_reply()->add_silent_nodes("n2");
    daemon.reply(request, reply);
  };
  auto ended = run({"ps"}, answer);
  EXPECT_EQ(ended.exit_code, 0);
  EXPECT_THAT(ended.output, HasSubstr("    3  n1    root  S"));
  EXPECT_LT(ended.output.find("    3  n1"), ended.output.find("16391  n1"));
  EXPECT_THAT(ended.output, HasSubstr("a\\tb"));
  EXPECT_THAT(ended.errors, HasSubstr("node n2 did not answer"));
  EXPECT_TRUE(request_.task_list_request().all_nodes());
  EXPECT_THAT(run({"ps", "--json"}, answer).output, StartsWith("[\n {\"pid\": 3, "));
}

TEST_F(CommandsTest, KillTakesSignalsAsKillDoes) {
  auto answer = [](FakeDaemon& daemon, const wire::Message& request) {
    wire::Message reply;
    reply.mutable_kill_reply()->add_results()->set_pid(5);
    auto& failed = *reply.mutable_kill_reply()->add_results();
    failed.set_pid(6);
    *failed.mutable_error() = to_wire(Error{ErrorCode::kPermission, "not yours", ""});
    daemon.reply(request, reply);
  };
  const std::pair<std::vector<std::string>, int> kCases[] = {
      {{"kill", "5", "6"}, SIGTERM},
      {{"kill", "-9", "5", "6"}, SIGKILL},
      {{"kill", "-STOP", "5", "6"}, SIGSTOP},
      {{"kill", "-s", "SIGHUP", "5", "6"}, SIGHUP},
      {{"kill", "-0", "5", "6"}, 0}};
  for (const auto& [arguments, signal] : kCases) {
    auto ended = run(arguments, answer);
    EXPECT_EQ(ended.exit_code, 4);
    EXPECT_EQ(ended.errors, "gestalt: kill 6: not yours\n");
    EXPECT_EQ(request_.kill_request().signal(), static_cast<unsigned>(signal));
    EXPECT_THAT(request_.kill_request().pids(), ElementsAre(5, 6));
  }
  EXPECT_EQ(run({"kill", "-NOPE", "5"}).exit_code, 2);
  EXPECT_EQ(run({"kill", "0"}).exit_code, 2);
  EXPECT_EQ(run({"kill", "-l", "9"}).output, "KILL\n");
  EXPECT_EQ(run({"kill", "-l", "143", "INT"}).output, "TERM\n2\n");
}

TEST_F(CommandsTest, ErrorsBecomeExitCodes) {
  const std::pair<ErrorCode, int> kCases[] = {{ErrorCode::kNotFound, 3},
                                              {ErrorCode::kPermission, 4},
                                              {ErrorCode::kBlocked, 5},
                                              {ErrorCode::kBusy, 6},
                                              {ErrorCode::kInternal, 1}};
  for (auto [code, expected] : kCases) {
    auto ended =
        run({"migrate", "1", "n2"}, [code](FakeDaemon& daemon, const wire::Message& request) {
          daemon.reply_error(request, code, "why", "what to do");
        });
    EXPECT_EQ(ended.exit_code, expected);
    EXPECT_EQ(ended.errors, "gestalt: why\ngestalt: try: what to do\n");
  }
}

TEST_F(CommandsTest, NodesAreListedShownAndDrained) {
  auto answer = [](FakeDaemon& daemon, const wire::Message& request) {
    wire::Message reply;
    auto& node = *reply.mutable_node_list_reply()->add_nodes();
    node.set_name("n1");
    node.set_state("online");
    node.set_cpus(0.4);
    daemon.reply(request, reply);
  };
  auto list = run({"node", "list", "n[1-3]"}, answer);
  EXPECT_EQ(list.exit_code, 0);
  EXPECT_THAT(list.output, HasSubstr("\nn1    online"));
  EXPECT_EQ(request_.node_list_request().name(), "n[1-3]");
  EXPECT_THAT(run({"node", "list", "--json"}, answer).output, HasSubstr("\"cpus\": 0.4"));
  EXPECT_THAT(run({"node", "show", "n1"}, answer).output, HasSubstr("state         online\n"));
  auto done = [](FakeDaemon& daemon, const wire::Message& request) {
    wire::Message reply;
    reply.mutable_empty();
    daemon.reply(request, reply);
  };
  EXPECT_EQ(run({"node", "drain", "n1"}, done).exit_code, 0);
  EXPECT_TRUE(request_.node_drain_request().drain());
  EXPECT_EQ(run({"node", "resume", "n1"}, done).exit_code, 0);
  EXPECT_FALSE(request_.node_drain_request().drain());
}

TEST_F(CommandsTest, InitMakesAClusterOnce) {
  char pattern[] = "/tmp/gestalt-init-test-XXXXXX";
  std::string directory = ::mkdtemp(pattern);
  std::string config = directory + "/gestalt.toml";
  std::ofstream(config) << "[cluster]\nleader = \"head\"\n[paths]\nstate_directory = \""
                        << directory << "/state\"\njoin_token = \"" << directory
                        << "/etc/token\"\n";
  auto made = run({"init", "--config", config});
  EXPECT_EQ(made.exit_code, 0) << made.errors;
  EXPECT_THAT(made.output, HasSubstr("leader head\n"));
  EXPECT_THAT(made.output, HasSubstr("Next:"));
  namespace fs = std::filesystem;
  EXPECT_EQ(fs::status(directory + "/etc/token").permissions(),
            fs::perms::owner_read | fs::perms::owner_write);
  EXPECT_EQ(run({"init", "--config", config}).exit_code, 6);
  auto again = run({"init", "--config", config, "--force", "--json"});
  EXPECT_EQ(again.exit_code, 0) << again.errors;
  EXPECT_THAT(again.output, HasSubstr("\"leader\": \"head\""));
  fs::remove_all(directory);
}

TEST_F(CommandsTest, UsageErrors) {
  EXPECT_EQ(run({}).exit_code, 2);
  EXPECT_EQ(run({"nope"}).exit_code, 2);
  EXPECT_EQ(run({"migrate", "x", "n2"}).exit_code, 2);
  EXPECT_THAT(run({"migrate"}).errors, HasSubstr("gestalt: try: gestalt migrate --help\n"));
  // Other codes of `run` are the program's.
  EXPECT_EQ(run({"run"}).exit_code, 125);
  EXPECT_EQ(run({"run", "--nope", "true"}).exit_code, 125);
  EXPECT_EQ(run({"run", "--env", "novalue", "true"}).exit_code, 125);
  EXPECT_EQ(run({"run", "--node", "n1", "--best", "true"}).exit_code, 125);
}

TEST_F(CommandsTest, HelpNamesPurposeExamplesAndExitCodes) {
  for (const char* command : {"run", "ps", "migrate", "kill", "node", "init", "version"}) {
    auto help = run({command, "--help"});
    EXPECT_EQ(help.exit_code, 0) << command;
    EXPECT_THAT(help.output, HasSubstr("Examples:")) << command;
    EXPECT_THAT(help.output, HasSubstr("Exit codes:")) << command;
  }
  EXPECT_EQ(run({"--version"}).output, "gestalt " GESTALT_VERSION "\n");
}

}  // namespace
}  // namespace gestalt::cli
