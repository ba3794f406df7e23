#include "cli/command_line.h"

#include <CLI/CLI.hpp>
#include <charconv>
#include <functional>
#include <memory>

#include "cli/commands.h"
#include "cli/exit_codes.h"
#include "cli/report.h"
#include "cli/signal_names.h"
#include "cli/units.h"
#include "common/format.h"
#include "common/migration_modes.h"
#include "common/paths.h"

namespace gestalt::cli {
namespace {

using Action = std::function<int()>;
// Where a command's callback leaves what is to be done once all is parsed.
using ActionSlot = std::shared_ptr<Action>;

constexpr char kExitCodes[] =
    "Exit codes: 0 done; 1 failed; 2 usage; 3 no such node or process; 4 permission\n"
    "denied; 5 blocked; 6 unavailable, busy or timed out; 125 gestaltd unreachable.";

std::string footer(const std::string& examples) {
  return "\nExamples:\n" + examples + "\n" + kExitCodes + "\n";
}

// In place of CLI11's own, which names the limits of a double.
CLI::Validator positive_number() {
  auto check = [](const std::string& text) {
    double number = 0;
    auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
    bool good = error == std::errc() && end == text.data() + text.size() && number > 0;
    return good ? std::string() : formatted("'{}' is not a number above 0", text);
  };
  return {check, "POSITIVE"};
}

CLI::App* add_command(CLI::App& parent, const std::string& name, const std::string& purpose,
                      const std::string& examples) {
  auto* command = parent.add_subcommand(name, purpose);
  command->footer(footer(examples));
  return command;
}

void add_node(CLI::App& app, const ActionSlot& slot) {
  auto* node =
      add_command(app, "node", "Look at the cluster's nodes, and take them out of service.",
                  "  gestalt node list\n  gestalt node drain n2\n");
  node->require_subcommand(1);

  auto list_options = std::make_shared<NodeListOptions>();
  auto* list = add_command(*node, "list", "List the nodes with their state and load.",
                           "  gestalt node list\n  gestalt node list 'n[1-16]' --json\n");
  list->add_option("NODESET", list_options->node_set, "Only these, for instance n[001-064,070]");
  list->add_flag("--json", list_options->json, "Print a list of objects");
  list->callback([=] { *slot = [=] { return node_list(*list_options); }; });

  auto show_options = std::make_shared<NodeShowOptions>();
  auto* show = add_command(*node, "show", "Show all that is known about a node.",
                           "  gestalt node show n1\n");
  show->add_option("NAME", show_options->name, "The node")->required();
  show->add_flag("--json", show_options->json, "Print a list of one object");
  show->callback([=] { *slot = [=] { return node_show(*show_options); }; });

  auto name = std::make_shared<std::string>();
  auto* drain = add_command(*node, "drain",
                            "Start nothing new on a node. What runs there stays; move it away\n"
                            "with `gestalt migrate`. For root only.",
                            "  gestalt node drain n2\n");
  drain->add_option("NAME", *name, "The node")->required();
  drain->callback([=] { *slot = [=] { return node_drain(*name, true); }; });
  auto* resume =
      add_command(*node, "resume", "Put a drained node back into service. For root only.",
                  "  gestalt node resume n2\n");
  resume->add_option("NAME", *name, "The node")->required();
  resume->callback([=] { *slot = [=] { return node_drain(*name, false); }; });
}

void add_ps(CLI::App& app, const ActionSlot& slot) {
  auto options = std::make_shared<PsOptions>();
  auto* command = add_command(app, "ps", "List the processes of the whole cluster, by pid.",
                              "  gestalt ps\n"
                              "  gestalt ps --json | jq '.[] | select(.migratable)'\n");
  command->add_flag("--all-columns", options->all_columns,
                    "Also parent, threads, job, and whether it can be moved");
  command->add_flag("--preflight", options->preflight,
                    "Also what speaks against moving each of your jobs");
  command->add_flag("--json", options->json, "Print a list of objects");
  command->callback([=] { *slot = [=] { return ps(*options); }; });
}

// 0 means what it says, whatever is configured.
std::optional<std::uint64_t> parse_limit(std::string_view text) {
  auto rate = parse_rate(text);
  return rate == 0U ? kUnlimitedBandwidth : rate;
}

// The value of an option that has a unit; usage error if it makes no sense.
template <class T>
std::function<void(const std::string&)> parsed(const char* option, const char* examples,
                                               std::optional<T> (*parse)(std::string_view),
                                               std::function<bool(T)> is_good, T& target) {
  return [=, &target](const std::string& text) {
    auto value = parse(text);
    if (!value || !is_good(*value))
      throw CLI::ValidationError(option, text + " makes no sense; give something like " + examples);
    target = *value;
  };
}

void add_migrate_paging(CLI::App& command, const std::shared_ptr<MigrateOptions>& options) {
  command
      .add_option("--mode", options->mode, "When pages move; hybrid unless configured otherwise")
      ->check(
          CLI::IsMember(std::vector<std::string>(kMigrationModes.begin(), kMigrationModes.end())));
  command
      .add_option("--max-rounds", options->max_rounds,
                  "pre-copy, hybrid: rounds before the freeze (5, 3)")
      ->check(CLI::Range(1U, kMaxPrecopyRounds));
  command
      .add_option_function<std::string>(
          "--downtime-goal",
          parsed<double>(
              "--downtime-goal", "50 (ms), 50ms or 0.2s", parse_duration_seconds,
              [](double goal) { return goal > 0 && goal <= kMaxDowntimeGoalSeconds; },
              options->downtime_goal_seconds),
          "pre-copy, hybrid: freeze once the rest can be sent in this time (50ms)")
      ->type_name("TIME");
  command
      .add_option_function<std::string>(
          "--bandwidth",
          parsed<std::uint64_t>(
              "--bandwidth", "100M (bytes/s, at least 64K), or 0 for no limit", parse_limit,
              [](std::uint64_t rate) { return rate >= kMinBandwidthBytesPerSecond; },
              options->bandwidth_bytes_per_second),
          "For all pages that nobody waits for, in bytes/s; 0: no limit")
      ->type_name("RATE");
  command
      .add_option("--transport", options->transport,
                  "What pages go by; auto (RDMA if both nodes have it) unless configured otherwise")
      ->check(CLI::IsMember(std::vector<std::string>(kTransports.begin(), kTransports.end())));
  command.add_option("--streams", options->streams, "Connections that carry pages (2)")
      ->check(CLI::Range(1U, kMaxMigrationStreams));
  command
      .add_option("--prefetch", options->prefetch_pages,
                  "lazy, post-copy, hybrid: pages sent along with one that is asked for, at most")
      ->type_name("PAGES")
      ->check(CLI::Range(0U, kMaxPrefetchPages));
  command.add_flag("--compress", options->compress, "Compress pages (lz4)");
  command.add_flag("--checksum", options->checksum, "Check pages by sums of their own");
}

void add_migrate(CLI::App& app, const ActionSlot& slot) {
  auto options = std::make_shared<MigrateOptions>();
  auto* command =
      add_command(app, "migrate",
                  "Move a running job, its root process with all its descendants, to\n"
                  "another node. If it fails the job goes on where it was.",
                  "  gestalt migrate 16390 n2\n"
                  "  gestalt migrate 16390 n2 --dry-run\n"
                  "  gestalt migrate 16390 n2 --mode pre-copy --bandwidth 100M --json\n");
  command->add_option("PID", options->pid, "The job's root process (see gestalt ps)")
      ->required()
      ->check(positive_number());
  command->add_option("NODE", options->node, "Where to")->required();
  add_migrate_paging(*command, options);
  command->add_flag("--no-file-cache", options->no_file_cache,
                    "Do not read its files ahead there, as far as they are cached here");
  command->add_flag("--any-cpu", options->any_cpu, "Also to CPUs without features that it may use");
  command->add_flag(
      "--dry-run", options->dry_run,
      "Only say what is in the way (exit code 5), how much is to be sent, and by what");
  auto* wait = command->add_flag("--wait", options->wait,
                                 "Until the source is free: so unless the mode is lazy");
  command->add_flag("--no-wait", options->no_wait, "Only until the job runs there")->excludes(wait);
  command
      ->add_option("--timeout", options->timeout_seconds,
                   "Give up after this many seconds, unless the move is decided already")
      ->check(positive_number());
  command->add_flag("--json", options->json, "Print a list of one object");
  command->callback([=] { *slot = [=] { return migrate(*options); }; });
}

void add_migrations(CLI::App& app, const ActionSlot& slot) {
  auto options = std::make_shared<MigrationsOptions>();
  auto* command =
      add_command(app, "migrations",
                  "List the migrations under way and the last ones that are over, or\n"
                  "show all that is known about one. Your own; root sees all.",
                  "  gestalt migrations\n"
                  "  gestalt migrations 12\n"
                  "  gestalt migrations --json | jq '.[] | select(.state == \"paging\")'\n");
  command->add_option("ID", options->migration_id, "Only this one")->check(positive_number());
  command->add_flag("--json", options->json, "Print a list of objects");
  command->callback([=] { *slot = [=] { return migrations(*options); }; });
}

void add_kill(CLI::App& app, const ActionSlot& slot) {
  auto options = std::make_shared<KillOptions>();
  auto list = std::make_shared<bool>(false);
  auto operands = std::make_shared<std::vector<std::string>>();
  auto* command =
      add_command(app, "kill", "Send a signal to processes of the cluster, wherever they run.",
                  "  gestalt kill 16390\n"
                  "  gestalt kill -STOP 16390 32801\n"
                  "  gestalt kill -l\n");
  command->add_option("-s,--signal", options->signal, "Name or number; also -NAME, -NUMBER")
      ->capture_default_str();
  command->add_flag("-l,--list", *list, "List the signals, or translate names and numbers");
  command->add_option("PID", *operands, "The processes")->type_name("PID");
  command->callback([=] {
    if (*list) {
      *slot = [=] { return kill_list(*operands); };
      return;
    }
    if (operands->empty()) throw CLI::RequiredError("PID");
    for (const auto& operand : *operands) {
      unsigned pid = 0;
      if (!CLI::detail::lexical_cast(operand, pid) || pid == 0)
        throw CLI::ValidationError("PID", operand + " is no process id");
      options->pids.push_back(pid);
    }
    *slot = [=] { return kill(*options); };
  });
}

void add_run(CLI::App& app, const ActionSlot& slot, const std::vector<std::string>& program) {
  auto options = std::make_shared<RunOptions>();
  options->command = program;
  auto* command = app.add_subcommand(
      "run",
      "Run a program in the cluster as if it ran here: its standard streams, terminal,\n"
      "signals and exit status are this command's. On the leader, unless told otherwise.");
  command->usage(
      "Usage: gestalt run [--node NODE | --best] [--net own] [--env KEY=VALUE]... [--cwd DIR]\n    "
      "   [--] "
      "CMD [ARG]...");
  command->footer(
      "\nExamples:\n  gestalt run --best make -j4\n"
      "  gestalt run --node n2 -- python3 -i\n"
      "  gestalt run --best --net own -- python3 -m http.server\n"
      "  tar c src | gestalt run --best xz -9 > src.tar.xz\n\n"
      "Exit codes: the program's own; 125 Gestalt failed; 126 the program cannot be\n"
      "executed; 127 no such program. If a signal ended the program, the same signal\n"
      "ends this command.\n");
  auto* node = command->add_option("--node", options->node, "On this node");
  command->add_flag("--best", options->best, "On the node with the most to spare")->excludes(node);
  command
      ->add_option("--net", options->network,
                   "own: with an address of its own in the cluster's network (GESTALT_ADDRESS),\n"
                   "which moves along, and its TCP connections with it. Else: its node's network")
      ->check(CLI::IsMember({"node", "own"}));
  command->add_option("--env", options->environment, "Set a variable, besides the caller's")
      ->type_name("KEY=VALUE")
      ->allow_extra_args(false);
  command->add_option("--cwd", options->working_directory, "Start in this directory")
      ->type_name("DIR");
  command->callback([=] {
    if (options->command.empty()) throw CLI::RequiredError("CMD");
    for (const auto& entry : options->environment) {
      if (entry.find('=') == std::string::npos || entry[0] == '=')
        throw CLI::ValidationError("--env", entry + " is not KEY=VALUE");
    }
    *slot = [=] { return run(*options); };
  });
}

void add_shell(CLI::App& app, const ActionSlot& slot) {
  auto options = std::make_shared<ShellOptions>();
  auto* command = app.add_subcommand(
      "shell",
      "Start a shell on the leader that sees the cluster as one machine: in it ps, top,\n"
      "free and all that reads /proc show the processes, CPUs and memory of all nodes.");
  command->footer(
      "\nExamples:\n  gestalt shell\n  gestalt shell -c 'ps -eo pid,lxc,psr,args'\n\n"
      "Exit codes: the shell's own; 125 Gestalt failed. If a signal ended the shell, the\n"
      "same signal ends this command.\n");
  command->add_option("-c", options->command, "Run this command line instead of being interactive")
      ->type_name("CMD");
  command->add_flag("-l,--login", options->login, "As a login shell");
  command->add_option("--env", options->environment, "Set a variable, besides the caller's")
      ->type_name("KEY=VALUE")
      ->allow_extra_args(false);
  command->callback([=] {
    for (const auto& entry : options->environment) {
      if (entry.find('=') == std::string::npos || entry[0] == '=')
        throw CLI::ValidationError("--env", entry + " is not KEY=VALUE");
    }
    *slot = [=] { return shell(*options); };
  });
}

void add_others(CLI::App& app, const ActionSlot& slot) {
  auto init_options = std::make_shared<InitOptions>();
  init_options->config_file = paths::kConfigFile;
  auto* init_command = add_command(
      app, "init", "Make a new cluster with this host as its leader: CA, certificate, join token.",
      "  gestalt init\n");
  init_command->add_flag("--force", init_options->force,
                         "Put an existing cluster's state aside: all nodes must join anew");
  init_command->add_option("--config", init_options->config_file, "Written if it is not there")
      ->type_name("FILE")
      ->capture_default_str();
  init_command->add_flag("--json", init_options->json, "Print a list of one object");
  init_command->callback([=] { *slot = [=] { return init(*init_options); }; });

  auto json = std::make_shared<bool>(false);
  auto* version_command = add_command(
      app, "version", "Print this command's and gestaltd's version.", "  gestalt version --json\n");
  version_command->add_flag("--json", *json, "Print a list of one object");
  version_command->callback([=] { *slot = [=] { return version(*json); }; });
}

// `gestalt kill -9 PID`: a signal as an option of its own, as kill(1) has it.
void rewrite_kill_signal(std::vector<std::string>& arguments) {
  for (auto it = arguments.begin() + 1; it != arguments.end(); ++it) {
    if (*it == "--") return;
    if (it->size() < 2 || (*it)[0] != '-' || !parse_signal(it->substr(1))) continue;
    std::string signal = it->substr(1);
    it = arguments.insert(it, "-s") + 1;
    *it = signal;
    return;
  }
}

// Takes the program and its arguments off: they may look like our own options. The
// program begins at the first argument that is neither an option nor an option's value.
std::vector<std::string> split_program(const CLI::App& run_app,
                                       std::vector<std::string>& arguments) {
  auto it = arguments.begin() + 1;
  for (; it != arguments.end() && *it != "--" && it->starts_with('-'); ++it) {
    const auto* option = run_app.get_option_no_throw(*it);
    bool takes_value = option != nullptr && option->get_items_expected_max() > 0;
    if (takes_value && it + 1 != arguments.end()) ++it;
  }
  auto begin = it != arguments.end() && *it == "--" ? it + 1 : it;
  std::vector<std::string> program(begin, arguments.end());
  arguments.erase(it, arguments.end());
  return program;
}

int report_usage(const CLI::App& app, const CLI::ParseError& error, bool is_program) {
  if (error.get_exit_code() == 0) return app.exit(error);  // --help, --version
  std::string path = "gestalt";
  const auto* level = &app;
  while (!level->get_subcommands().empty()) {
    level = level->get_subcommands().front();
    path += " " + level->get_name();
  }
  // Of `run` and `shell` every other code would be the program's.
  return report(Error{ErrorCode::kInvalidArgument, error.what(), path + " --help"},
                is_program ? kExitGestalt : kExitUsage);
}

}  // namespace

int run_command_line(std::vector<std::string> arguments) {
  CLI::App app(
      "Gestalt makes the nodes of a cluster one system: run programs anywhere, see\n"
      "all processes, move running ones.",
      "gestalt");
  app.require_subcommand(1);
  app.set_version_flag("--version", "gestalt " GESTALT_VERSION);
  app.footer(footer("  gestalt run --best make -j4\n  gestalt ps\n  gestalt migrate 16390 n2\n") +
             "Environment: GESTALT_SOCKET, where gestaltd listens.\n");
  auto slot = std::make_shared<Action>();
  bool is_run = !arguments.empty() && arguments[0] == "run";
  bool is_program = is_run || (!arguments.empty() && arguments[0] == "shell");
  try {
    std::vector<std::string> program;
    if (is_run) {
      CLI::App options_only;
      add_run(options_only, slot, {});
      program = split_program(*options_only.get_subcommand("run"), arguments);
    }
    if (!arguments.empty() && arguments[0] == "kill") rewrite_kill_signal(arguments);
    add_run(app, slot, program);
    add_shell(app, slot);
    add_ps(app, slot);
    add_migrate(app, slot);
    add_migrations(app, slot);
    add_kill(app, slot);
    add_node(app, slot);
    add_others(app, slot);
    std::ranges::reverse(arguments);  // CLI11 takes them from the end
    app.parse(arguments);
  } catch (const CLI::ParseError& error) {
    return report_usage(app, error, is_program);
  }
  return (*slot)();
}

}  // namespace gestalt::cli
