// gestaltd: the daemon of every node. An agent always; on the cluster's leader also the
// leader, to which that agent connects like any other.

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <csignal>
#include <iostream>

#include "common/criu_version.h"
#include "common/fd.h"
#include "common/format.h"
#include "daemon/agent.h"
#include "daemon/client_api.h"
#include "daemon/leader.h"
#include "daemon/notify.h"

namespace gestalt {
namespace {

constexpr auto kStopTimeout = std::chrono::seconds(1);
constexpr auto kCriuTimeout = std::chrono::seconds(10);  // milliseconds, on a machine at leisure

struct Options {
  std::string config = paths::kConfigFile;
  bool check_config = false;
  bool print_config = false;
  bool version = false;
};

// Held until the process ends.
Result<Fd> lock_node() {
  if (::mkdir(paths::kRunDirectory, 0755) != 0 && errno != EEXIST)
    return fail_errno(errno, formatted("make {}", paths::kRunDirectory), "run gestaltd as root");
  std::string path = formatted("{}/gestaltd.lock", paths::kRunDirectory);
  GESTALT_ASSIGN(auto fd, open_file(path, O_RDWR | O_CREAT, 0600));
  if (::flock(fd.get(), LOCK_EX | LOCK_NB) != 0)
    return fail(ErrorCode::kBusy, "gestaltd runs on this node already", "stop it first");
  return fd;
}

struct Daemon {
  explicit Daemon(const Config& configuration) : config(configuration) {}
  const Config& config;
  asio::io_context context{1};
  std::unique_ptr<Leader> leader;
  std::unique_ptr<ClientApi> clients;
  std::unique_ptr<Agent> agent;

  Result<void> start() {
    auto asked = criu_version(deadline_in(kCriuTimeout));
    if (!asked)
      log::warning("no CRIU on this node: processes cannot migrate",
                   log::field("error", asked.error().text()));
    std::string criu = asked.value_or("");
    if (config.run_as_leader()) {
      GESTALT_ASSIGN(leader, Leader::start(context, config));
    }
    clients = std::make_unique<ClientApi>(context, config, leader.get(), criu);
    GESTALT_TRY(clients->start());
    agent = std::make_unique<Agent>(context, config, criu);
    return agent->start();
  }
};

Awaitable<> stop_on_signal(Daemon* daemon) {
  asio::signal_set signals(daemon->context, SIGTERM, SIGINT);
  auto [error, signal] = co_await signals.async_wait(kAsResult);
  log::info("stopping", log::field("signal", signal));
  notify_service_manager("STOPPING=1");
  daemon->agent->stop();
  daemon->clients->stop();
  // The leader's own agent says its goodbye first.
  co_await sleep_for(std::chrono::milliseconds(100));
  if (daemon->leader) daemon->leader->stop();
  co_await sleep_for(kStopTimeout);
  daemon->context.stop();
}

Result<void> run(const Options& options) {
  GESTALT_ASSIGN(auto config, load_config(options.config));
  if (options.print_config) std::cout << render_config(config);
  if (options.print_config || options.check_config) return {};
  if (std::getenv("GESTALT_LOG") == nullptr) log::set_level(config.log.level);
  GESTALT_ASSIGN(auto lock, lock_node());
  Daemon daemon(config);
  GESTALT_TRY(daemon.start());
  asio::co_spawn(daemon.context, stop_on_signal(&daemon), asio::detached);
  log::info("gestaltd runs", log::field("version", GESTALT_VERSION),
            log::field("node", config.node.name),
            log::field("role", config.run_as_leader() ? "leader" : "compute"));
  notify_service_manager("READY=1");
  daemon.context.run();
  log::info("gestaltd ends");
  // What still hangs in coroutines refers to the daemon's parts: leave it to the kernel.
  std::_Exit(0);
}

}  // namespace
}  // namespace gestalt

int main(int argc, char** argv) {
  CLI::App app("The Gestalt daemon: node agent, and leader where the configuration says so.");
  gestalt::Options options;
  app.add_option("--config", options.config, "Configuration file")->capture_default_str();
  app.add_flag("--check-config", options.check_config, "Only check the configuration");
  app.add_flag("--print-config", options.print_config, "Print the configuration with all defaults");
  app.add_flag("--version", options.version, "Print the version");
  CLI11_PARSE(app, argc, argv);
  if (options.version) {
    std::cout << "gestaltd " GESTALT_VERSION "\n";
    return 0;
  }
  gestalt::log::initialise("gestaltd");
  std::signal(SIGPIPE, SIG_IGN);
  if (auto done = gestalt::run(options); !done) {
    std::cerr << "gestaltd: " << done.error().text() << '\n';
    return 1;
  }
  return 0;
}
