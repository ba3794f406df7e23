// The commands. Each takes its parsed options, does everything including reports, and
// returns the exit code.
#pragma once

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
};
[[nodiscard]] int ps(const PsOptions& options);

struct MigrateOptions {
  unsigned pid = 0;
  std::string node;
  std::string mode = "eager";
  double timeout_seconds = 0;  // 0: the daemon's own
  bool json = false;
};
[[nodiscard]] int migrate(const MigrateOptions& options);

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
};
[[nodiscard]] int run(const RunOptions& options);

}  // namespace gestalt::cli
