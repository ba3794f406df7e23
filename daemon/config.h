// The daemon's configuration, /etc/gestalt/gestalt.toml. Every key has a default and
// a line of documentation (the table in config.cc); an unknown key, a wrong type or a
// value out of range is an error that says file, line, column and the remedy.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "common/migration_modes.h"
#include "common/paths.h"
#include "common/result.h"

namespace gestalt {

struct ClusterConfig {
  std::string name = "gestalt";
  std::string leader = "leader";  // node name of the leader
  std::string leader_address = "127.0.0.1";
  std::uint16_t port = 7480;
  std::uint32_t pid_slice_size = 16384;  // power of two, 4096 to 262144
};

struct NodeConfig {
  std::string name;     // parse_config leaves it empty; load_config puts the host name in
  std::string address;  // empty: the source address towards the leader
  std::string listen = "0.0.0.0";
  double cpus = 0.0;  // 0: detect
  std::string task_source = "auto";
};

struct MembershipConfig {
  double heartbeat_seconds = 1.0;
  double suspect_seconds = 3.0;
  double failed_seconds = 5.0;
};

struct MigrationConfig {
  double timeout_seconds = 60.0;
  std::uint16_t port_first = 0;  // both 0: any ephemeral port
  std::uint16_t port_last = 0;
  std::uint32_t max_concurrent = 4;
  std::string image_directory = paths::kImageDirectory;
  // Of migrations that ask for nothing else; docs/migration.md says what they mean.
  std::string mode = std::string(kDefaultMigrationMode);
  std::string transport = std::string(kDefaultTransport);
  std::uint32_t streams = 2;
  std::uint32_t max_rounds = 0;  // 0: the mode's own
  double downtime_goal_seconds = 0.005;
  std::uint64_t bandwidth_bytes_per_second = 0;  // 0: no limit
};

struct ViewConfig {
  std::uint32_t hidepid = 0;
  double interval_seconds = 1.0;
};

struct JobsConfig {
  double reattach_seconds = 10.0;
  std::string network;               // addresses for `gestalt run --net own`; empty: there are none
  std::uint32_t direct_streams = 1;  // 0: all streams by the daemons' own connections
};

struct PathsConfig {
  std::string join_token = paths::kJoinToken;
  std::string state_directory = paths::kLeaderState;
  std::string load_directory = paths::kLoadDirectory;
};

struct LogConfig {
  std::string level = "info";
};

struct Config {
  ClusterConfig cluster;
  NodeConfig node;
  MembershipConfig membership;
  MigrationConfig migration;
  JobsConfig jobs;
  ViewConfig view;
  PathsConfig paths;
  LogConfig log;

  // The role is not a key: the leader is the node that the cluster says it is.
  [[nodiscard]] bool run_as_leader() const { return node.name == cluster.leader; }
};

// `file` is the name for messages.
[[nodiscard]] Result<Config> parse_config(std::string_view text, const std::string& file);

// Reads the file and fills in the node's name: the host name up to its first dot, in
// lower case. A file that does not exist is kNotFound.
[[nodiscard]] Result<Config> load_config(const std::string& path = paths::kConfigFile);

// The whole file with every key, its value and its documentation; parses to `config`
// again. `render_config({})` is what `gestalt init` writes.
[[nodiscard]] std::string render_config(const Config& config);

}  // namespace gestalt
