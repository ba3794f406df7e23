#include <unistd.h>

#include <algorithm>
#include <cctype>
#include <cerrno>
#include <filesystem>

#include "cli/commands.h"
#include "cli/exit_codes.h"
#include "cli/json_output.h"
#include "cli/report.h"
#include "cli/text.h"
#include "common/fd.h"
#include "common/format.h"
#include "daemon/cluster_state_dir.h"
#include "daemon/config.h"

namespace gestalt::cli {
namespace {

struct Cluster {
  Config config;
  bool wrote_config = false;
  JoinToken token;
};

// The host name as the daemon would take it for its node name.
Result<std::string> host_node_name() {
  char buffer[256] = {};
  if (::gethostname(buffer, sizeof buffer - 1) != 0) return fail_errno(errno, "read the host name");
  std::string name(buffer);
  name.resize(std::min(name.size(), name.find('.')));
  std::ranges::transform(name, name.begin(),
                         [](unsigned char c) { return static_cast<char>(std::tolower(c)); });
  GESTALT_TRY(check_node_name(name));
  return name;
}

// The file's, or what a first init on this host starts from.
Result<Cluster> read_configuration(const std::string& file) {
  auto config = load_config(file);
  if (config) return Cluster{std::move(*config)};
  if (config.error().code != ErrorCode::kNotFound) return std::unexpected(config.error());
  Cluster cluster;
  GESTALT_ASSIGN(cluster.config.cluster.leader, host_node_name());
  cluster.wrote_config = true;
  return cluster;
}

Result<void> make_parent(const std::string& file) {
  std::error_code error;
  std::filesystem::create_directories(std::filesystem::path(file).parent_path(), error);
  if (error) return fail_errno(error.value(), formatted("make the directory of {}", file));
  return {};
}

Result<Cluster> create(const InitOptions& options) {
  GESTALT_ASSIGN(auto cluster, read_configuration(options.config_file));
  const auto& config = cluster.config;
  // What can fail for outer reasons comes first: the state is made once.
  GESTALT_TRY(make_parent(config.paths.join_token));
  GESTALT_TRY(make_parent(options.config_file));
  if (cluster.wrote_config)
    GESTALT_TRY(replace_file(options.config_file, render_config(config), 0644));
  GESTALT_ASSIGN(cluster.token,
                 create_cluster_state(config.paths.state_directory, config.cluster.name,
                                      config.cluster.leader, options.force));
  auto token = format_join_token(cluster.token) + "\n";
  if (auto written = replace_file(config.paths.join_token, token, 0600); !written)
    return fail(written.error().code, written.error().message,
                formatted("cp {} {}", join_token_path(config.paths.state_directory),
                          config.paths.join_token));
  return cluster;
}

std::string explanation(const Cluster& cluster, const std::string& config_file) {
  const auto& config = cluster.config;
  const auto& state = config.paths.state_directory;
  std::string out =
      formatted("cluster {}, leader {}\n", config.cluster.name, config.cluster.leader);
  out += formatted("  CA certificate  {} (SHA-256 {})\n", ca_certificate_path(state),
                   cluster.token.ca_sha256);
  out += formatted("  CA key          {} (keep a copy in a safe place)\n", ca_key_path(state));
  out += formatted("  join token      {} (a secret: lets nodes in)\n", config.paths.join_token);
  out += formatted("  configuration   {}{}\n", config_file, cluster.wrote_config ? " (new)" : "");
  out += formatted(
      "Next:\n"
      "  1. Set cluster.leader_address in {} to an address that the nodes reach.\n"
      "  2. Start gestaltd here.\n"
      "  3. Put {} and {} into the nodes' image, and start gestaltd there.\n"
      "  4. See them come: gestalt node list\n",
      config_file, config_file, config.paths.join_token);
  return out;
}

boost::json::object cluster_object(const Cluster& cluster, const std::string& config_file) {
  const auto& config = cluster.config;
  const auto& state = config.paths.state_directory;
  return {
      {"cluster", to_utf8(config.cluster.name)},
      {"leader", to_utf8(config.cluster.leader)},
      {"state_directory", to_utf8(state)},
      {"ca_certificate", to_utf8(ca_certificate_path(state))},
      {"ca_sha256", cluster.token.ca_sha256},
      {"leader_certificate", to_utf8(leader_certificate_path(state))},
      {"join_token", to_utf8(config.paths.join_token)},
      {"configuration", to_utf8(config_file)},
  };
}

}  // namespace

int init(const InitOptions& options) {
  auto cluster = create(options);
  if (!cluster) return report(cluster.error(), command_exit_code(cluster.error().code));
  auto printed =
      print_out(options.json ? render_json({cluster_object(*cluster, options.config_file)})
                             : explanation(*cluster, options.config_file));
  return printed ? kExitOk : report(printed.error(), kExitFailed);
}

}  // namespace gestalt::cli
