// `gestalt migrate` and `gestalt migrations` as processes of their own, against a daemon
// that the test plays.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/wait.h>

#include <boost/json/parse.hpp>

#include "cli/fake_daemon.h"

namespace gestalt::cli {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;
using ::testing::StartsWith;
using Stdio = CommandUnderTest::Stdio;

struct Ended {
  int exit_code = -1;
  std::string output;
  std::string errors;
};

class MigrateTest : public ::testing::Test {
 protected:
  Ended run(std::vector<std::string> arguments, Stdio stdio = Stdio::kPipes) {
    EventLoop loop;
    FakeDaemon daemon(loop);
    asked_ = false;
    daemon.on_message = [&](const wire::Message& message) {
      request_ = message;
      asked_ = true;
      if (progress_.has_migration_progress()) daemon.send(progress_);
      daemon.reply(message, reply_);
    };
    CommandUnderTest command(loop, daemon.path(), std::move(arguments), stdio);
    int status = command.wait();
    return {WIFEXITED(status) ? WEXITSTATUS(status) : -1, command.output(), command.errors()};
  }
  wire::MigrationStats& stats() { return *reply_.mutable_migrate_reply()->mutable_stats(); }
  [[nodiscard]] const wire::MigrateRequest& request() const { return request_.migrate_request(); }
  [[nodiscard]] const wire::MigrationOptions& options() const { return request().options(); }

  void SetUp() override {
    stats().set_migration_id(5);
    stats().set_pid(16390);
    stats().set_source("n1");
    stats().set_destination("n2");
    stats().set_freeze_seconds(0.0125);
    stats().set_total_seconds(0.5);
    stats().set_wire_bytes(4096);
    stats().set_command("sleep 9");
    stats().set_state("done");
  }

  wire::Message progress_;
  wire::Message reply_;
  wire::Message request_;
  bool asked_ = false;
};

TEST_F(MigrateTest, ReportsTheMove) {
  progress_.mutable_migration_progress()->set_phase("sending");
  auto ended = run({"migrate", "16390", "n2", "--timeout", "10"});
  EXPECT_EQ(ended.exit_code, 0);
  EXPECT_EQ(ended.output,
            "moved pid 16390 (sleep 9) from n1 to n2: froze 12.5 ms, total 500.0 ms, 4096 bytes\n");
  EXPECT_EQ(ended.errors, "");  // no progress where nobody looks
  EXPECT_EQ(options().timeout_seconds(), 10);
  auto json = run({"migrate", "16390", "n2", "--json"}).output;
  EXPECT_THAT(json, HasSubstr("\"freeze_seconds\": 0.0125"));
  EXPECT_EQ(boost::json::parse(json).as_array().size(), 1U);
}

TEST_F(MigrateTest, TellsOfRoundsAndFaults) {
  stats().set_rounds(3);
  stats().set_rounds_end_reason("no-convergence");
  stats().set_source_free_seconds(0.4);
  stats().set_faults_demand(12);
  stats().set_faults_avoided(4000);
  stats().mutable_fault_latency_seconds()->set_p50(0.0002);
  auto output = run({"migrate", "16390", "n2"}).output;
  EXPECT_THAT(output, HasSubstr("source free after 400.0 ms"));
  EXPECT_THAT(output, HasSubstr("\n  3 rounds before the freeze, ended by: no convergence"));
  EXPECT_THAT(output, HasSubstr("\n  faults: 12 waited for a page from the source (p50 0.2 ms"));
}

TEST_F(MigrateTest, LeavesDefaultsToTheDaemon) {
  (void)run({"migrate", "16390", "n2"});
  EXPECT_EQ(options().SerializeAsString(), "");
  EXPECT_FALSE(request().dry_run());
  EXPECT_FALSE(request().answer_when_resumed());
}

TEST_F(MigrateTest, PassesEveryOption) {
  (void)run({"migrate", "16390", "n2", "--mode", "hybrid", "--max-rounds", "4", "--downtime-goal",
             "0.2s", "--bandwidth", "100M", "--streams", "8", "--prefetch", "0", "--compress",
             "--checksum", "--transport", "tcp"});
  EXPECT_EQ(options().transport(), "tcp");
  EXPECT_EQ(options().mode(), "hybrid");
  EXPECT_EQ(options().max_rounds(), 4U);
  EXPECT_DOUBLE_EQ(options().downtime_goal_seconds(), 0.2);
  EXPECT_EQ(options().bandwidth_bytes_per_second(), 100U << 20);
  EXPECT_EQ(options().streams(), 8U);
  EXPECT_TRUE(options().has_prefetch_pages());
  EXPECT_EQ(options().prefetch_pages(), 0U);
  EXPECT_TRUE(options().compress() && options().checksum());
  (void)run({"migrate", "16390", "n2", "--downtime-goal", "50", "--bandwidth", "0"});
  EXPECT_DOUBLE_EQ(options().downtime_goal_seconds(), 0.05);
  EXPECT_EQ(options().bandwidth_bytes_per_second(), ~std::uint64_t{0});  // no limit at all
}

TEST_F(MigrateTest, RefusesWhatMakesNoSense) {
  const std::vector<std::vector<std::string>> kBad{
      {"--mode", "nonsense"},   {"--max-rounds", "0"},      {"--max-rounds", "65"},
      {"--downtime-goal", "0"}, {"--downtime-goal", "61s"}, {"--downtime-goal", "x"},
      {"--bandwidth", "1K"},    {"--bandwidth", "fast"},    {"--streams", "0"},
      {"--streams", "17"},      {"--prefetch", "4097"},     {"--prefetch", "-1"},
      {"--wait", "--no-wait"},  {"--timeout", "0"},         {"--transport", "pigeon"}};
  for (const auto& bad : kBad) {
    std::vector<std::string> arguments{"migrate", "16390", "n2"};
    arguments.insert(arguments.end(), bad.begin(), bad.end());
    auto ended = run(arguments);
    EXPECT_EQ(ended.exit_code, 2) << bad[0] << bad[1];
    EXPECT_FALSE(asked_) << bad[0] << bad[1];
    EXPECT_THAT(ended.errors, StartsWith("gestalt: "));
  }
  for (const char* pid : {"n2", "0", "-1", "7x", ""}) {
    auto ended = run({"migrate", pid, "n2"});
    EXPECT_EQ(ended.exit_code, 2) << pid;
    EXPECT_FALSE(asked_) << pid;
    EXPECT_THAT(ended.errors, HasSubstr("is not a number above 0")) << pid;
  }
}

TEST_F(MigrateTest, WaitsAsToldAndAsTheModeHasIt) {
  const std::pair<std::vector<std::string>, bool> kCases[] = {
      {{"--mode", "lazy"}, true},
      {{"--mode", "lazy", "--wait"}, false},
      {{"--mode", "lazy", "--no-wait"}, true},
      {{"--mode", "post-copy"}, false},
      {{"--mode", "post-copy", "--no-wait"}, true},
      {{"--wait"}, false}};
  for (const auto& [extra, when_resumed] : kCases) {
    std::vector<std::string> arguments{"migrate", "16390", "n2"};
    arguments.insert(arguments.end(), extra.begin(), extra.end());
    (void)run(arguments);
    EXPECT_EQ(request().answer_when_resumed(), when_resumed) << extra.back();
  }
  stats().set_state("paging");
  auto output = run({"migrate", "16390", "n2", "--no-wait"}).output;
  EXPECT_THAT(output, HasSubstr("pages still follow: see `gestalt migrations 5`"));
  EXPECT_THAT(output, Not(HasSubstr("total")));
}

TEST_F(MigrateTest, ADryRunSaysWhatIsInTheWay) {
  reply_.Clear();
  auto& report = *reply_.mutable_migrate_reply()->mutable_preflight();
  report.set_source("n1");
  report.set_destination("n2");
  report.set_mode("hybrid");
  report.set_resident_bytes(1U << 30);
  report.set_expected_bytes(512U << 20);
  report.set_state_dump("state-only");
  report.set_tracker("uffd-wp");
  report.set_transport("tcp");
  report.set_transport_reason("no device (load one)");
  auto ended = run({"migrate", "16390", "n2", "--dry-run"});
  EXPECT_EQ(ended.exit_code, 0);
  EXPECT_TRUE(request().dry_run());
  EXPECT_THAT(ended.output, StartsWith("pid 16390 can move from n1 to n2 (mode hybrid)"));
  EXPECT_THAT(ended.output, HasSubstr("1.0G resident, about 512M to send"));
  EXPECT_THAT(ended.output, HasSubstr("  transport: tcp; not RDMA: no device (load one)\n"));
  report.set_transport("rdma");
  report.clear_transport_reason();
  EXPECT_THAT(run({"migrate", "16390", "n2", "--dry-run"}).output,
              HasSubstr("  transport: rdma\n"));
  auto& blocker = *report.add_blockers();
  blocker.set_pid(16391);
  blocker.set_what("io_uring is in use");
  blocker.set_remedy("run it without");
  ended = run({"migrate", "16390", "n2", "--dry-run"});
  EXPECT_EQ(ended.exit_code, 5);
  EXPECT_THAT(ended.output, StartsWith("pid 16390 cannot move from n1 to n2"));
  EXPECT_THAT(ended.output,
              HasSubstr("  pid 16391: io_uring is in use\n    try: run it without\n"));
  ended = run({"migrate", "16390", "n2", "--dry-run", "--json"});
  EXPECT_EQ(ended.exit_code, 5);
  EXPECT_FALSE(boost::json::parse(ended.output).at(0).at("can_move").as_bool());
}

TEST_F(MigrateTest, ATerminalShowsProgress) {
  auto& progress = *progress_.mutable_migration_progress();
  progress.set_phase("pre-copy");
  progress.set_round(1);
  progress.set_bytes_done(1U << 20);
  progress.set_bytes_total(2U << 20);
  auto output = run({"migrate", "16390", "n2"}, Stdio::kTerminal).output;
  EXPECT_THAT(output, HasSubstr("\r\033[Kpre-copy round 1 [##########..........] 1.0M of 2.0M"));
  EXPECT_THAT(output, HasSubstr("\r\033[Kmoved pid 16390"));
}

TEST_F(MigrateTest, ListsMigrations) {
  wire::MigrationStats one = stats();
  one.set_mode("hybrid");
  one.set_state("failed");
  one.set_error("node n1 failed");
  reply_.Clear();
  *reply_.mutable_migration_list_reply()->add_migrations() = one;
  auto ended = run({"migrations"});
  EXPECT_EQ(ended.exit_code, 0);
  EXPECT_EQ(request_.migration_list_request().migration_id(), 0U);
  EXPECT_EQ(ended.output,
            "ID    PID  FROM  TO  MODE    STATE    FREEZE     TOTAL  SENT  COMMAND\n"
            " 5  16390  n1    n2  hybrid  failed  12.5 ms  500.0 ms  4.0K  sleep 9\n");
  ended = run({"migrations", "5"});
  EXPECT_EQ(request_.migration_list_request().migration_id(), 5U);
  EXPECT_THAT(ended.output, HasSubstr("\nerror         node n1 failed\n"));
  auto json = boost::json::parse(run({"migrations", "--json"}).output);
  EXPECT_EQ(json.at(0).at("state").as_string(), "failed");
  EXPECT_EQ(json.at(0).at("error").as_string(), "node n1 failed");
  EXPECT_EQ(run({"migrations", "0"}).exit_code, 2);
}

}  // namespace
}  // namespace gestalt::cli
