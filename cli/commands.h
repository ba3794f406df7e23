// The commands. Each takes its parsed options, does everything including reports, and
// returns the exit code.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

namespace gestalt::cli {

struct NodeListOptions {
  std::string node_set;  // empty: all
  bool json = false;
};
[[nodiscard]] int node_list(const NodeListOptions& options);

struct NodeShowOptions {
  std::string name;
  bool json = false;
};
[[nodiscard]] int node_show(const NodeShowOptions& options);
[[nodiscard]] int node_drain(const std::string& name, bool drain);

struct PsOptions {
  bool json = false;
  bool all_columns = false;
  bool preflight = false;
};
[[nodiscard]] int ps(const PsOptions& options);

struct MigrateOptions {
  unsigned pid = 0;
  std::string node;
  // Empty, 0, or nothing: the daemon's own.
  std::string mode;
  double timeout_seconds = 0;
  unsigned max_rounds = 0;
  double downtime_goal_seconds = 0;
  std::uint64_t bandwidth_bytes_per_second = 0;
  std::string transport;
  unsigned streams = 0;
  std::optional<unsigned> prefetch_pages;
  bool compress = false;
  bool checksum = false;
  bool any_cpu = false;
  bool no_file_cache = false;
  bool dry_run = false;
  bool wait = false;  // until the source is free, also in mode lazy
  bool no_wait = false;
  bool json = false;
};
[[nodiscard]] int migrate(const MigrateOptions& options);

struct MigrationsOptions {
  std::uint64_t migration_id = 0;  // 0: all
  bool json = false;
};
[[nodiscard]] int migrations(const MigrationsOptions& options);

struct KillOptions {
  std::string signal = "TERM";
  std::vector<unsigned> pids;
};
[[nodiscard]] int kill(const KillOptions& options);
// All names, or the translations of `arguments`: numbers to names and back.
[[nodiscard]] int kill_list(const std::vector<std::string>& arguments);

struct InitOptions {
  std::string config_file;
  bool force = false;
  bool json = false;
};
[[nodiscard]] int init(const InitOptions& options);

[[nodiscard]] int version(bool json);

struct RunOptions {
  std::string node;
  bool best = false;
  std::vector<std::string> environment;  // KEY=VALUE
  std::string working_directory;         // empty: the caller's
  std::vector<std::string> command;
  bool in_session = false;  // with the single view, on the leader
  std::string network;      // "own"; else the node's
};
[[nodiscard]] int run(const RunOptions& options);

struct ShellOptions {
  std::string command;  // empty: interactive
  bool login = false;
  std::vector<std::string> environment;  // KEY=VALUE
};
[[nodiscard]] int shell(const ShellOptions& options);

// The program by the name gestalt-shell, as passwd(5) has it: a session, or a plain shell if
// there is no daemon. `program` is argv[0]; with a dash before it, it is a login.
[[nodiscard]] bool is_login_shell(std::string_view program);
[[nodiscard]] int login_shell(std::string_view program, std::vector<std::string> arguments);

}  // namespace gestalt::cli
