#include "daemon/config.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include "common/fd.h"

namespace gestalt {
namespace {

Config parsed(std::string_view text) {
  auto config = parse_config(text, "test.toml");
  EXPECT_TRUE(config) << config.error().text();
  return config.value_or(Config{});
}

// Message and remedy of what must fail.
std::string failure(std::string_view text) {
  auto config = parse_config(text, "test.toml");
  if (config) return "no error";
  EXPECT_EQ(config.error().code, ErrorCode::kInvalidArgument);
  EXPECT_FALSE(config.error().remedy.empty()) << config.error().message;
  return config.error().text();
}

TEST(Config, EmptyFileGivesDefaults) {
  auto config = parsed("");
  EXPECT_EQ(config.cluster.port, 7480);
  EXPECT_EQ(config.cluster.pid_slice_size, 16384U);
  EXPECT_EQ(config.membership.failed_seconds, 5.0);
  EXPECT_EQ(config.node.name, "");
  EXPECT_FALSE(config.run_as_leader());
}

TEST(Config, ReadsEveryKind) {
  auto config = parsed(
      "[cluster]\nleader = 'n1'\nport = 1\npid_slice_size = 4096\n"
      "[node]\nname = \"n1\"\ncpus = 2\n[membership]\nheartbeat_seconds = 0.5\n");
  EXPECT_TRUE(config.run_as_leader());
  EXPECT_EQ(config.cluster.port, 1);
  EXPECT_EQ(config.cluster.pid_slice_size, 4096U);
  EXPECT_EQ(config.node.cpus, 2.0);
  EXPECT_EQ(config.membership.heartbeat_seconds, 0.5);
}

TEST(Config, RenderedFileParsesToTheSame) {
  EXPECT_EQ(render_config(parsed(render_config({}))), render_config({}));
  Config config;
  config.cluster.name = "quo\"te \\ back\ttab";
  config.node.cpus = 0.4;
  config.membership.heartbeat_seconds = 1e-1;
  config.migration.port_first = 7000;
  config.migration.port_last = 7010;
  EXPECT_EQ(render_config(parsed(render_config(config))), render_config(config));
  EXPECT_EQ(parsed(render_config(config)).cluster.name, config.cluster.name);
}

TEST(Config, DefaultsOfMigrations) {
  auto config = parsed("");
  EXPECT_EQ(config.migration.mode, "hybrid");
  EXPECT_EQ(config.migration.streams, 2U);
  EXPECT_EQ(config.migration.transport, "auto");
  EXPECT_EQ(config.migration.max_rounds, 0U);
  EXPECT_EQ(config.migration.downtime_goal_seconds, 0.005);
  EXPECT_EQ(config.migration.bandwidth_bytes_per_second, 0U);
  config = parsed(
      "[migration]\nmode = 'pre-copy'\nstreams = 16\nmax_rounds = 64\n"
      "downtime_goal_seconds = 0.3\nbandwidth_bytes_per_second = 12500000000\n");
  EXPECT_EQ(config.migration.mode, "pre-copy");
  EXPECT_EQ(config.migration.bandwidth_bytes_per_second, 12'500'000'000U);
  EXPECT_NE(failure("[migration]\ntransport = 'pigeon'").find("auto, tcp or rdma"),
            std::string::npos);
  EXPECT_NE(failure("[migration]\nmode = 'fast'").find("eager, lazy, pre-copy"), std::string::npos);
  for (const char* text :
       {"streams = 0", "streams = 17", "max_rounds = 65", "downtime_goal_seconds = 0",
        "downtime_goal_seconds = 61", "bandwidth_bytes_per_second = 65535",
        "bandwidth_bytes_per_second = -1", "bandwidth_bytes_per_second = '100M'"})
    EXPECT_NE(failure("[migration]\n" + std::string(text)), "no error") << text;
}

TEST(Config, EveryKeyIsDocumented) {
  auto text = render_config({});
  for (const char* key : {"port = 7480", "load_directory = \"/var/lib/gestalt/load\"",
                          "reattach_seconds = 10.0", "# Pids for each node"})
    EXPECT_NE(text.find(key), std::string::npos) << key;
}

TEST(Config, UnknownKeysNameTheNearest) {
  EXPECT_EQ(failure("[cluster]\nprot = 1\n"),
            "test.toml:2:1: unknown key cluster.prot (did you mean cluster.port?)");
  EXPECT_EQ(failure("\n[membershp]\n"),
            "test.toml:2:2: unknown section [membershp] (did you mean [membership]?)");
  EXPECT_EQ(failure("port = 1\n"), "test.toml:1:1: unknown key port (did you mean cluster.port?)");
  EXPECT_EQ(failure("[node]\nport = 1\n"),
            "test.toml:2:1: unknown key node.port (did you mean cluster.port?)");
  EXPECT_EQ(failure("[cluster]\n  leader_adress = ''\n"),
            "test.toml:2:3: unknown key cluster.leader_adress (did you mean "
            "cluster.leader_address?)");
  EXPECT_EQ(failure("cluster = 3\n"), "test.toml:1:1: cluster must be a section (write [cluster])");
}

TEST(Config, WrongTypes) {
  EXPECT_EQ(failure("[cluster]\nport = \"7480\"\n"),
            "test.toml:2:8: cluster.port has the wrong type (give a whole number)");
  for (const char* text :
       {"[cluster]\nport = 1.5", "[cluster]\nport = true", "[cluster]\nname = 3",
        "[node]\ncpus = '1'", "[node]\ncpus = [1]", "[cluster.port]\n", "[[cluster]]\nport = 1"})
    EXPECT_NE(failure(text), "no error") << text;
}

TEST(Config, OutOfRange) {
  EXPECT_EQ(failure("[cluster]\nport = 65536\n"),
            "test.toml:2:8: cluster.port is out of range (give a number from 1 to 65535)");
  for (const char* text :
       {"[cluster]\nport = 0", "[cluster]\nport = -1", "[cluster]\npid_slice_size = 5000",
        "[cluster]\npid_slice_size = 2048", "[cluster]\npid_slice_size = 524288",
        "[cluster]\npid_slice_size = 4294971392", "[cluster]\nname = ''",
        "[cluster]\nleader = 'Big'", "[node]\nname = 'a.b'", "[node]\ncpus = -1",
        "[node]\ncpus = nan", "[node]\ncpus = inf", "[migration]\nmax_concurrent = 0",
        "[log]\nlevel = 'loud'", "[paths]\njoin_token = 'relative'",
        "[node]\nlisten = \"a\\u0000b\"", "[cluster]\nname = \"a\\nb\""})
    EXPECT_NE(failure(text), "no error") << text;
}

TEST(Config, OrderOfTimesAndPorts) {
  EXPECT_NE(failure("[membership]\nsuspect_seconds = 1.0").find("test.toml:2:19"),
            std::string::npos);
  EXPECT_NE(failure("[membership]\nfailed_seconds = 3.0"), "no error");
  EXPECT_NE(failure("[membership]\nheartbeat_seconds = 3.5"), "no error");
  EXPECT_NE(failure("[migration]\nport_first = 1"), "no error");
  EXPECT_NE(failure("[migration]\nport_last = 1"), "no error");
  EXPECT_NE(failure("[migration]\nport_first = 2\nport_last = 1"), "no error");
  (void)parsed("[migration]\nport_first = 2\nport_last = 2");
}

TEST(Config, BrokenToml) {
  EXPECT_TRUE(failure("[cluster]\nport = \n").starts_with("test.toml:2:"));
  EXPECT_NE(failure("[cluster\n"), "no error");
  EXPECT_NE(failure("[cluster]\nport = 1\nport = 2\n"), "no error");
  EXPECT_NE(failure("\xff\xfe"), "no error");
  EXPECT_NE(failure("a = " + std::string(100'000, '[')), "no error");
}

TEST(Config, LoadFillsInTheHostName) {
  std::string path = testing::TempDir() + "/gestalt-config-" + std::to_string(::getpid());
  auto missing = load_config(path);
  ASSERT_FALSE(missing);
  EXPECT_EQ(missing.error().code, ErrorCode::kNotFound);
  ASSERT_TRUE(replace_file(path, "[node]\nname = 'mine'\n", 0600));
  EXPECT_EQ(load_config(path)->node.name, "mine");
  ASSERT_TRUE(replace_file(path, "", 0600));
  EXPECT_FALSE(load_config(path).value_or(Config{.node = {.name = "-"}}).node.name.empty());
  ::unlink(path.c_str());
}

TEST(Config, OnlyCommentsMayLeaveAscii) {
  EXPECT_TRUE(parse_config("# größer\n[cluster]\nname = \"a\" # naïve\n", "x.toml"));
  for (const char* text :
       {"é = 1\n", "[clüster]\n", "[cluster]\nname = \"ü\"\n", "[cluster]\nname = \"#é\"\n"}) {
    auto config = parse_config(text, "x.toml");
    ASSERT_FALSE(config) << text;
    EXPECT_NE(config.error().message.find("x.toml:"), std::string::npos);
  }
}

}  // namespace
}  // namespace gestalt
