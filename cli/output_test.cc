// Tables, JSON, exit codes, names of signals: everything without a daemon.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <boost/json/parse.hpp>
#include <csignal>
#include <limits>
#include <regex>

#include "cli/exit_codes.h"
#include "cli/json_output.h"
#include "cli/migration_report.h"
#include "cli/signal_names.h"
#include "cli/table.h"
#include "cli/text.h"
#include "cli/units.h"
#include "common/fd.h"
#include "common/format.h"

namespace gestalt::cli {
namespace {

// How many the message has, by the text that it is made of: at run time nobody knows.
std::size_t fields_of(const std::string& message) {
  for (const char* file : {GESTALT_PROTO "/migration.proto", GESTALT_PROTO "/control.proto"}) {
    auto text = read_file(file).value_or("");
    auto begin = text.find(formatted("\nmessage {} {{", message));
    if (begin == std::string::npos) continue;
    auto body = text.substr(begin, text.find("\n}", begin) - begin);
    std::regex field(R"(\n  [^\n/]* = \d+;)");
    return static_cast<std::size_t>(
        std::distance(std::sregex_iterator(body.begin(), body.end(), field), {}));
  }
  ADD_FAILURE() << "there is no message " << message;
  return 0;
}

TEST(Text, InvalidUtf8BecomesHexAndStaysValid) {
  EXPECT_EQ(to_utf8("gr\xc3\xbc\xc3\x9f\n"), "gr\xc3\xbc\xc3\x9f\n");
  EXPECT_EQ(to_utf8("a\xff\x62"), "a\\xffb");
  EXPECT_EQ(to_utf8("\xc0\xaf"), "\\xc0\\xaf");           // overlong
  EXPECT_EQ(to_utf8("\xed\xa0\x80"), "\\xed\\xa0\\x80");  // surrogate
  EXPECT_EQ(to_utf8("\xf4\x90\x80\x80"), "\\xf4\\x90\\x80\\x80");
  EXPECT_EQ(to_utf8("\xe2\x82"), "\\xe2\\x82");  // cut off
}

TEST(Text, ControlCharactersBecomeVisible) {
  EXPECT_EQ(visible("a\tb\nc\rd\x1b[2J\x7f"), "a\\tb\\nc\\rd\\e[2J\\x7f");
  EXPECT_EQ(visible(std::string_view("\0", 1)), "\\x00");
  EXPECT_EQ(visible("\xc2\x9b"), "\\xc2\\x9b");           // C1: CSI
  EXPECT_EQ(visible("\xe2\x80\xae"), "\\xe2\\x80\\xae");  // right-to-left override
  EXPECT_EQ(visible("\xc3\xa9"), "\xc3\xa9");
}

TEST(Text, WidthCountsColumns) {
  EXPECT_EQ(display_width("h\xc3\xa9"), 2U);
  EXPECT_EQ(display_width("\xe4\xb8\xad"), 2U);  // a wide character
  EXPECT_EQ(cut_to_width("\xe4\xb8\xad\xe4\xb8\xad", 3), "\xe4\xb8\xad");
  EXPECT_EQ(cut_to_width("abc", 9), "abc");
}

TEST(Text, HumanNumbers) {
  EXPECT_EQ(human_bytes(0), "0");
  EXPECT_EQ(human_bytes(1023), "1023");
  EXPECT_EQ(human_bytes(1536), "1.5K");
  EXPECT_EQ(human_bytes((1U << 20) - 1), "1.0M");
  EXPECT_EQ(human_bytes(24ULL << 30), "24G");
  EXPECT_EQ(human_bytes(std::numeric_limits<std::uint64_t>::max()), "16E");
  EXPECT_EQ(human_duration(0.5), "0.50s");
  EXPECT_EQ(human_duration(12), "12s");
  EXPECT_EQ(human_duration(187), "3m07");
  EXPECT_EQ(human_duration(8040), "2h14");
  EXPECT_EQ(human_duration(-1), "?");
}

TEST(Table, AlignsAndCuts) {
  using enum Table::Align;
  Table table({{"PID", kRight}, {"NODE"}, {"COMMAND"}});
  table.add_row({"1", "n\xc3\xbc", "sleep 100"});
  table.add_row({"16390", "leader", "x\ny"});
  EXPECT_EQ(table.render(),
            "  PID  NODE    COMMAND\n"
            "    1  n\xc3\xbc      sleep 100\n"
            "16390  leader  x\\ny\n");
  EXPECT_EQ(table.render(20),
            "  PID  NODE    COMMA\n"
            "    1  n\xc3\xbc      sleep\n"
            "16390  leader  x\\ny\n");
}

TEST(Json, IsAlwaysAList) {
  EXPECT_EQ(render_json({}), "[]\n");
  EXPECT_EQ(render_json({{{"pid", 1}, {"cpu_seconds", 0.5}}, {{"pid", 2}}}),
            "[\n {\"pid\": 1, \"cpu_seconds\": 0.5},\n {\"pid\": 2}\n]\n");
  EXPECT_EQ(render_json({{{"x", std::numeric_limits<double>::infinity()}}}),
            "[\n {\"x\": null}\n]\n");
}

TEST(Json, TaskSurvivesAnyCommand) {
  wire::Task task;
  task.set_pid(16390);
  task.set_node("n2");
  task.set_job_id(7);
  task.set_is_root(true);
  task.set_command("a\"b\\c\x01\xff\n");
  auto parsed = boost::json::parse(render_json({task_object(task, "alice")}));
  const auto& object = parsed.as_array().at(0).as_object();
  EXPECT_EQ(object.at("command").as_string(), "a\"b\\c\x01\\xff\n");
  EXPECT_EQ(object.at("user").as_string(), "alice");
  EXPECT_TRUE(object.at("migratable").as_bool());
  for (const char* key : {"pid", "parent_pid", "node", "uid", "state", "threads", "resident_bytes",
                          "cpu_seconds", "started_seconds_ago", "job_id"})
    EXPECT_TRUE(object.contains(key)) << key;
}

TEST(Json, OnlyJobRootsInTheirSliceAreMigratable) {
  wire::Task task;
  task.set_is_root(true);
  EXPECT_FALSE(migratable(task));
  task.set_job_id(7);
  EXPECT_TRUE(migratable(task));
  task.set_outside_slice(true);
  EXPECT_FALSE(migratable(task));
}

TEST(Json, NodeAndMigrationKeys) {
  auto node = node_object({});
  for (const char* key :
       {"name", "state", "role", "address", "cpus", "load", "memory_total_bytes",
        "memory_available_bytes", "tasks", "jobs", "pid_first", "pid_last", "heartbeat_age_seconds",
        "version", "kernel", "criu", "task_source", "task_events", "certificate_sha256"})
    EXPECT_TRUE(node.contains(key)) << key;
  auto migration = migration_object({});
  for (const char* key : {"migration_id",
                          "pid",
                          "source",
                          "destination",
                          "mode",
                          "freeze_seconds",
                          "total_seconds",
                          "source_free_seconds",
                          "rounds",
                          "rounds_end_reason",
                          "wire_bytes",
                          "pages_sent",
                          "pages_zero",
                          "pages_duplicate",
                          "faults_demand",
                          "faults_avoided",
                          "faults_local",
                          "faults_zero",
                          "fault_latency_seconds",
                          "source_cpu_seconds",
                          "destination_cpu_seconds",
                          "resident_bytes",
                          "state_bytes",
                          "state_dump",
                          "tracker",
                          "dump_seconds",
                          "restore_seconds",
                          "commit_seconds",
                          "streams",
                          "transport",
                          "transport_reason",
                          "rdma_reads",
                          "rdma_read_bytes",
                          "rdma_demand_reads",
                          "zero_copy_pages",
                          "zero_copy_regions",
                          "processes",
                          "threads",
                          "command",
                          "started_unix_seconds",
                          "state",
                          "rounds_detail"})
    EXPECT_TRUE(migration.contains(key)) << key;
  EXPECT_FALSE(migration.contains("error"));
  for (const char* key : {"p50", "p99", "p999", "max"})
    EXPECT_TRUE(migration.at("fault_latency_seconds").as_object().contains(key)) << key;
  // Nothing that is measured stays unsaid.
  EXPECT_EQ(migration.size() + 1, fields_of("MigrationStats"));  // error
}

TEST(Json, NestedNumbersAreForPeopleToo) {
  wire::MigrationStats stats;
  stats.mutable_fault_latency_seconds()->set_p50(0.25);
  stats.set_error("it \"broke\"");
  auto& round = *stats.add_rounds_detail();
  round.set_pages(9);
  round.set_seconds(0.25);
  auto text = render_json({migration_object(stats)});
  EXPECT_NE(text.find("\"fault_latency_seconds\": {\"p50\": 0.25, \"p99\": 0"), std::string::npos);
  EXPECT_NE(text.find("\"rounds_detail\": [{\"pages\": 9, \"seconds\": 0.25, \"dirty_pages\": 0}]"),
            std::string::npos)
      << text;
  EXPECT_EQ(boost::json::parse(text).at(0).at("error").as_string(), "it \"broke\"");
}

TEST(Json, PreflightKeys) {
  wire::PreflightReport report;
  EXPECT_TRUE(preflight_object(report, 5).at("can_move").as_bool());
  report.add_blockers()->set_what("io_uring");
  report.set_transport("tcp");
  report.set_transport_reason("no device");
  auto object = preflight_object(report, 5);
  EXPECT_FALSE(object.at("can_move").as_bool());
  EXPECT_EQ(object.at("blockers").at(0).at("what").as_string(), "io_uring");
  EXPECT_EQ(object.at("transport").as_string(), "tcp");
  EXPECT_EQ(object.at("transport_reason").as_string(), "no device");
  EXPECT_EQ(object.size(), fields_of("PreflightReport") + 2);
}

TEST(Units, Rates) {
  EXPECT_EQ(parse_rate("65536"), 65536U);
  EXPECT_EQ(parse_rate("100M"), 100U << 20);
  EXPECT_EQ(parse_rate("64k"), 64U << 10);
  EXPECT_EQ(parse_rate("1.5GB/s"), 3ULL << 29);
  EXPECT_EQ(parse_rate("2MiB/s"), 2U << 20);
  EXPECT_EQ(parse_rate("0"), 0U);
  for (const char* bad : {"", "M", "-1", "1X", "1MM", "nan", "inf", "1e9", "9999999T", "1 M"})
    EXPECT_EQ(parse_rate(bad), std::nullopt) << bad;
}

TEST(Units, Durations) {
  EXPECT_DOUBLE_EQ(parse_duration_seconds("50").value_or(0), 0.05);
  EXPECT_DOUBLE_EQ(parse_duration_seconds("50ms").value_or(0), 0.05);
  EXPECT_DOUBLE_EQ(parse_duration_seconds("0.2s").value_or(0), 0.2);
  EXPECT_DOUBLE_EQ(parse_duration_seconds("800us").value_or(0), 0.0008);
  for (const char* bad : {"", "s", "-5", "5m", "inf", "nan", "5 s"})
    EXPECT_EQ(parse_duration_seconds(bad), std::nullopt) << bad;
}

TEST(MigrationText, ProgressIsOneLine) {
  wire::MigrationProgress progress;
  progress.set_phase("connecting\n");
  EXPECT_EQ(progress_text(progress, 80), "connecting\\n");
  progress.set_phase("pre-copy");
  progress.set_round(2);
  progress.set_bytes_done(512U << 20);
  progress.set_bytes_total(1U << 30);
  progress.set_bytes_per_second(1.1e9);
  progress.set_dirty_bytes_per_second(20 << 20);
  EXPECT_EQ(progress_text(progress, 100),
            "pre-copy round 2 [##########..........] 512M of 1.0G  1.0G/s  dirty 20M/s");
  EXPECT_EQ(progress_text(progress, 16), "pre-copy round 2");
  progress.set_bytes_done(2ULL << 30);  // more than was thought
  EXPECT_NE(progress_text(progress, 100).find("[####################]"), std::string::npos);
}

TEST(MigrationText, RoundsSayWhyTheyEnded) {
  wire::MigrationStats stats;
  stats.set_rounds(5);
  for (auto [reason, text] :
       {std::pair("no-convergence", "no convergence"),
        std::pair("round-limit", "the limit of rounds"),
        std::pair("downtime-goal", "downtime goal"), std::pair("timeout", "the time was up")}) {
    stats.set_rounds_end_reason(reason);
    auto summary = migration_summary(stats);
    EXPECT_NE(summary.find("5 rounds before the freeze, ended by: "), std::string::npos) << summary;
    EXPECT_NE(summary.find(text), std::string::npos) << summary;
  }
}

TEST(ExitCodes, OfCommands) {
  EXPECT_EQ(command_exit_code(ErrorCode::kInternal), 1);
  EXPECT_EQ(command_exit_code(ErrorCode::kInvalidArgument), 2);
  EXPECT_EQ(command_exit_code(ErrorCode::kNotFound), 3);
  EXPECT_EQ(command_exit_code(ErrorCode::kGone), 3);
  EXPECT_EQ(command_exit_code(ErrorCode::kPermission), 4);
  EXPECT_EQ(command_exit_code(ErrorCode::kBlocked), 5);
  EXPECT_EQ(command_exit_code(ErrorCode::kUnavailable), 6);
  EXPECT_EQ(command_exit_code(ErrorCode::kTimeout), 6);
  EXPECT_EQ(command_exit_code(ErrorCode::kBusy), 6);
}

TEST(ExitCodes, OfRun) {
  EXPECT_EQ(run_exit_code(ErrorCode::kExecNotFound), 127);
  EXPECT_EQ(run_exit_code(ErrorCode::kExecDenied), 126);
  EXPECT_EQ(run_exit_code(ErrorCode::kNotFound), 125);
}

TEST(Signals, AreParsed) {
  EXPECT_EQ(parse_signal("TERM"), SIGTERM);
  EXPECT_EQ(parse_signal("sigkill"), SIGKILL);
  EXPECT_EQ(parse_signal("0"), 0);
  EXPECT_EQ(parse_signal("15"), SIGTERM);
  EXPECT_EQ(parse_signal("RTMIN+3"), SIGRTMIN + 3);
  EXPECT_EQ(parse_signal("SIGRTMAX-1"), SIGRTMAX - 1);
  EXPECT_EQ(parse_signal_or_status("137"), SIGKILL);
  for (const char* bad : {"", "SIG", "NOPE", "65", "-1", "9x", "RTMIN-1", "RTMIN+99", "RTMIN+"})
    EXPECT_EQ(parse_signal(bad), std::nullopt) << bad;
}

TEST(Signals, NamesParseBack) {
  for (int signal = 1; signal <= SIGRTMAX; ++signal)
    EXPECT_EQ(parse_signal(signal_name(signal)), signal) << signal;
}

}  // namespace
}  // namespace gestalt::cli
