// One table drives reading, checking, suggesting and rendering.
#include "daemon/config.h"

#include <unistd.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <exception>
#include <limits>
#include <variant>
#include <vector>

// toml++ asserts, and in release builds assumes, what a hostile document can make untrue;
// the code after it checks properly. So neither assert nor assume.
#pragma push_macro("NDEBUG")
#undef NDEBUG
#define TOML_ASSERT(expr) static_cast<void>(0)
#include <toml++/toml.hpp>
#pragma pop_macro("NDEBUG")

#include "common/fd.h"
#include "common/format.h"
#include "common/ipv4.h"
#include "common/node_set.h"
#include "daemon/pid_slices.h"

namespace gestalt {
namespace {

using Text = std::string& (*)(Config&);
using Number = double& (*)(Config&);
using Small = std::uint16_t& (*)(Config&);
using Count = std::uint32_t& (*)(Config&);
using Large = std::uint64_t& (*)(Config&);

struct Key {
  const char* section;
  const char* name;
  std::variant<Text, Number, Small, Count, Large> field;
  double lowest;
  double highest;
  const char* documentation;  // lines for the rendered file
};

#define GESTALT_FIELD(kind, path)             \
  kind {                                      \
    [](Config& c) -> auto& { return c.path; } \
  }

constexpr double kAnyText = 0;

const std::array kKeys{
    Key{"cluster", "name", GESTALT_FIELD(Text, cluster.name), 1, 64,
        "What people call the cluster; also in its CA's name."},
    Key{"cluster", "leader", GESTALT_FIELD(Text, cluster.leader), 1, 63,
        "The leader's node name. The node of this name runs as leader, all others as compute."},
    Key{"cluster", "leader_address", GESTALT_FIELD(Text, cluster.leader_address), 1, 255,
        "Where nodes reach the leader: an address or a host name."},
    Key{"cluster", "port", GESTALT_FIELD(Small, cluster.port), 1, 65535, "The leader's TCP port."},
    Key{"cluster", "pid_slice_size", GESTALT_FIELD(Count, cluster.pid_slice_size), kMinPidSliceSize,
        kMaxPidSliceSize,
        "Pids for each node, a power of two: 16384 allows 255 nodes, 4096 allows 1023.\n"
        "The same everywhere; change it only with the whole cluster stopped."},
    Key{"node", "name", GESTALT_FIELD(Text, node.name), kAnyText, 63,
        "This node's name. Empty: the host name."},
    Key{"node", "address", GESTALT_FIELD(Text, node.address), kAnyText, 255,
        "Where other nodes reach this one. Empty: the source address towards the leader."},
    Key{"node", "listen", GESTALT_FIELD(Text, node.listen), 1, 255,
        "The address to listen on, for the leader's port and for migrations."},
    Key{"node", "cpus", GESTALT_FIELD(Number, node.cpus), 0, 65536,
        "CPUs this node gives to the cluster, also fractions. 0: all that its quota allows."},
    Key{"node", "task_source", GESTALT_FIELD(Text, node.task_source), 1, 16,
        "Where this node reads its processes and its load: auto, the kernel module while it is\n"
        "loaded, else /proc; or proc."},
    Key{"membership", "heartbeat_seconds", GESTALT_FIELD(Number, membership.heartbeat_seconds),
        0.05, 3600, "How often a node reports to the leader."},
    Key{"membership", "suspect_seconds", GESTALT_FIELD(Number, membership.suspect_seconds), 0.1,
        3600, "Silence after which a node gets no more work. More than heartbeat_seconds."},
    Key{"membership", "failed_seconds", GESTALT_FIELD(Number, membership.failed_seconds), 0.2, 7200,
        "Silence after which a node is un-merged. More than suspect_seconds."},
    Key{"migration", "timeout_seconds", GESTALT_FIELD(Number, migration.timeout_seconds), 1, 86400,
        "A migration that has not committed by then is rolled back."},
    Key{"migration", "port_first", GESTALT_FIELD(Small, migration.port_first), 0, 65535,
        "The range of TCP ports for incoming migrations. Both 0: any ephemeral port."},
    Key{"migration", "port_last", GESTALT_FIELD(Small, migration.port_last), 0, 65535, ""},
    Key{"migration", "max_concurrent", GESTALT_FIELD(Count, migration.max_concurrent), 1, 1024,
        "Migrations at the same time, in the whole cluster. One whose process runs at its\n"
        "destination already, and whose pages follow, does not count."},
    Key{"migration", "image_directory", GESTALT_FIELD(Text, migration.image_directory), 1, 4095,
        "Node-local directory for CRIU's images; a memory file system is best."},
    Key{"migration", "mode", GESTALT_FIELD(Text, migration.mode), 1, 16,
        "How a process moves if nobody says otherwise: eager, lazy, pre-copy, post-copy or\n"
        "hybrid. This key and those below are defaults of `gestalt migrate`."},
    Key{"migration", "transport", GESTALT_FIELD(Text, migration.transport), 1, 16,
        "What pages go by: auto, tcp or rdma. auto: by RDMA if both nodes have it, else TCP."},
    Key{"migration", "streams", GESTALT_FIELD(Count, migration.streams), 1, kMaxMigrationStreams,
        "Connections that carry a migration's pages."},
    Key{"migration", "max_rounds", GESTALT_FIELD(Count, migration.max_rounds), 0, kMaxPrecopyRounds,
        "Rounds before the freeze, the first full one included. 0: 5 in pre-copy, 3 in hybrid."},
    Key{"migration", "downtime_goal_seconds",
        GESTALT_FIELD(Number, migration.downtime_goal_seconds), 0.000001, kMaxDowntimeGoalSeconds,
        "Rounds end when the rest can be sent in this time. For pre-copy and hybrid."},
    Key{"migration", "bandwidth_bytes_per_second",
        GESTALT_FIELD(Large, migration.bandwidth_bytes_per_second), 0, 1e12,
        "For all pages that nobody waits for: 0, no limit, or at least 65536."},
    Key{"jobs", "reattach_seconds", GESTALT_FIELD(Number, jobs.reattach_seconds), 0, 86400,
        "How long a job waits for its client to come back before it is hung up."},
    Key{"jobs", "network", GESTALT_FIELD(Text, jobs.network), kAnyText, 18,
        "Addresses for jobs that have their own (gestalt run --net own), as 10.1.2.0/24: a part\n"
        "of the network that connects the nodes, used by nobody else. Empty: no such jobs.\n"
        "Only the leader's counts."},
    Key{"jobs", "direct_streams", GESTALT_FIELD(Count, jobs.direct_streams), 0, 1,
        "1: a pipe between a job on this node and its client, through which much passes, gets\n"
        "a TCP connection of its own: authenticated, not encrypted. 0: it keeps to those of the\n"
        "daemons, which are encrypted, and slower."},
    Key{"view", "hidepid", GESTALT_FIELD(Count, view.hidepid), 0, 2,
        "What a user sees of other users' processes in a session, as procfs has it: 0 all that\n"
        "is public, 1 only that they exist, 2 nothing."},
    Key{"view", "interval_seconds", GESTALT_FIELD(Number, view.interval_seconds), 0.1, 60,
        "How often sessions are told of other nodes' processes and load, if those do nothing\n"
        "that a node notices by itself. The leader's value counts."},
    Key{"paths", "join_token", GESTALT_FIELD(Text, paths.join_token), 1, 4095,
        "The join token, with which a node obtains its certificate."},
    Key{"paths", "state_directory", GESTALT_FIELD(Text, paths.state_directory), 1, 4095,
        "The leader's own state: CA, certificates, database. On a local disk."},
    Key{"paths", "load_directory", GESTALT_FIELD(Text, paths.load_directory), 1, 4095,
        "On the shared file system: one file a node with its load."},
    Key{"log", "level", GESTALT_FIELD(Text, log.level), 1, 16, "debug, info, warning or error."},
};
#undef GESTALT_FIELD

std::string full_name(const Key& key) { return formatted("{}.{}", key.section, key.name); }

std::string place(const std::string& file, const toml::source_region& source) {
  return formatted("{}:{}:{}", file, source.begin.line, source.begin.column);
}

std::size_t edit_distance(std::string_view a, std::string_view b) {
  std::vector<std::size_t> row(b.size() + 1);
  for (std::size_t j = 0; j <= b.size(); ++j) row[j] = j;
  for (std::size_t i = 1; i <= a.size(); ++i) {
    std::size_t diagonal = std::exchange(row[0], i);
    for (std::size_t j = 1; j <= b.size(); ++j) {
      std::size_t changed = diagonal + (a[i - 1] == b[j - 1] ? 0 : 1);
      diagonal = row[j];
      row[j] = std::min({changed, row[j] + 1, row[j - 1] + 1});
    }
  }
  return row[b.size()];
}

// The key most like `name`: a key of the same section wins a tie.
std::string nearest_key(std::string_view section, std::string_view name) {
  std::string written = formatted("{}.{}", section, name);
  const Key* best = nullptr;
  std::size_t best_distance = std::numeric_limits<std::size_t>::max();
  for (const Key& key : kKeys) {
    // A right name in the wrong section, or at the top level, is near too.
    std::size_t distance = edit_distance(written, full_name(key));
    if (name == key.name) distance = std::min<std::size_t>(distance, 1);
    distance = 2 * distance + (section == key.section ? 0 : 1);
    if (distance < best_distance) best = &key, best_distance = distance;
  }
  return full_name(*best);
}

std::string nearest_section(std::string_view name) {
  const Key* best = kKeys.data();
  for (const Key& key : kKeys)
    if (edit_distance(name, key.section) < edit_distance(name, best->section)) best = &key;
  return best->section;
}

class Reader {
 public:
  Reader(Config& config, const std::string& file) : config_(config), file_(file) {}

  Result<void> read(const toml::table& document) {
    for (const auto& [section, node] : document) {
      const toml::table* table = node.as_table();
      bool known = std::ranges::any_of(kKeys, [&](const Key& k) { return section == k.section; });
      if (table == nullptr)
        return known ? wrong(section.source(), formatted("{} must be a section", section.str()),
                             formatted("write [{}]", section.str()))
                     : unknown(section.source(), "", section.str());
      if (!known)
        return wrong(section.source(), formatted("unknown section [{}]", section.str()),
                     formatted("did you mean [{}]?", nearest_section(section)));
      for (const auto& [name, value] : *table) GESTALT_TRY(read_key(section, name, value));
    }
    return {};
  }

 private:
  Unexpected wrong(const toml::source_region& where, std::string_view what, std::string remedy) {
    return fail(ErrorCode::kInvalidArgument, formatted("{}: {}", place(file_, where), what),
                std::move(remedy));
  }

  Unexpected unknown(const toml::source_region& where, std::string_view section,
                     std::string_view name) {
    return wrong(where, formatted("unknown key {}{}{}", section, section.empty() ? "" : ".", name),
                 formatted("did you mean {}?", nearest_key(section, name)));
  }

  Result<void> read_key(const toml::key& section, const toml::key& name, const toml::node& value) {
    for (const Key& key : kKeys) {
      if (section != key.section || name != key.name) continue;
      return std::visit([&](auto field) { return store(key, field(config_), value); }, key.field);
    }
    return unknown(name.source(), section, name);
  }

  Result<void> store(const Key& key, std::string& target, const toml::node& value) {
    auto text = value.value_exact<std::string>();
    if (!text) return wrong_type(key, value, "a string in quotes");
    if (static_cast<double>(text->size()) < key.lowest)
      return wrong(value.source(), full_name(key) + " must not be empty", remedy(key));
    if (static_cast<double>(text->size()) > key.highest)
      return wrong(value.source(), full_name(key) + " is too long", remedy(key));
    if (text->find_first_of(std::string_view("\0\n\r", 3)) != std::string::npos)
      return wrong(value.source(), full_name(key) + " holds control characters", remedy(key));
    target = std::move(*text);
    return {};
  }

  Result<void> store(const Key& key, double& target, const toml::node& value) {
    if (!value.is_number()) return wrong_type(key, value, "a number");
    double number = *value.value<double>();
    if (!std::isfinite(number) || number < key.lowest || number > key.highest)
      return out_of_range(key, value);
    target = number;
    return {};
  }

  template <std::unsigned_integral T>
  Result<void> store(const Key& key, T& target, const toml::node& value) {
    auto number = value.value_exact<std::int64_t>();
    if (!number) return wrong_type(key, value, "a whole number");
    auto as_double = static_cast<double>(*number);
    if (as_double < key.lowest || as_double > key.highest) return out_of_range(key, value);
    target = static_cast<T>(*number);
    return {};
  }

  static std::string remedy(const Key& key) {
    return formatted("it has from {} to {} characters", key.lowest, key.highest);
  }

  Unexpected wrong_type(const Key& key, const toml::node& value, std::string_view wanted) {
    return wrong(value.source(), formatted("{} has the wrong type", full_name(key)),
                 formatted("give {}", wanted));
  }

  Unexpected out_of_range(const Key& key, const toml::node& value) {
    return wrong(value.source(), formatted("{} is out of range", full_name(key)),
                 formatted("give a number from {} to {}", key.lowest, key.highest));
  }

  Config& config_;
  const std::string& file_;
};

// Where a key's value was written; the start of the file if it is a default.
std::string place_of(const toml::table& document, const std::string& file, std::string_view section,
                     std::string_view name) {
  auto node = document[section][name];
  return node ? place(file, node.node()->source()) : formatted("{}:1:1", file);
}

// Rules that concern several keys, or more than a range.
Result<void> check(const Config& config, const toml::table& document, const std::string& file) {
  auto wrong = [&](std::string_view section, std::string_view name, std::string_view what,
                   std::string remedy) {
    return fail(
        ErrorCode::kInvalidArgument,
        formatted("{}: {}.{} {}", place_of(document, file, section, name), section, name, what),
        std::move(remedy));
  };
  if (auto slices = PidSlices::with_size(config.cluster.pid_slice_size); !slices)
    return wrong("cluster", "pid_slice_size", "is no power of two", slices.error().remedy);
  if (auto ok = check_node_name(config.cluster.leader); !ok)
    return wrong("cluster", "leader", "is no valid node name", ok.error().remedy);
  if (auto ok = check_node_name(config.node.name); !ok && !config.node.name.empty())
    return wrong("node", "name", "is no valid node name", ok.error().remedy);
  const auto& times = config.membership;
  if (times.suspect_seconds <= times.heartbeat_seconds)
    return wrong("membership", "suspect_seconds", "is not more than heartbeat_seconds",
                 "three heartbeats are a good value");
  if (times.failed_seconds <= times.suspect_seconds)
    return wrong("membership", "failed_seconds", "is not more than suspect_seconds",
                 "five heartbeats are a good value");
  if ((config.migration.port_first == 0) != (config.migration.port_last == 0) ||
      config.migration.port_first > config.migration.port_last)
    return wrong("migration", "port_last", "does not end the range that port_first begins",
                 "set both, port_first not above port_last, or both to 0");
  if (config.node.task_source != "auto" && config.node.task_source != "proc")
    return wrong("node", "task_source", "is no source", "sources: auto, proc");
  if (!is_migration_mode(config.migration.mode))
    return wrong("migration", "mode", "is no mode", "modes: " + migration_mode_names());
  if (!is_transport(config.migration.transport))
    return wrong("migration", "transport", "is no transport", "give auto, tcp or rdma");
  auto bandwidth = config.migration.bandwidth_bytes_per_second;
  if (bandwidth != 0 && bandwidth < kMinBandwidthBytesPerSecond)
    return wrong("migration", "bandwidth_bytes_per_second", "is too little",
                 formatted("give 0, for no limit, or at least {}", kMinBandwidthBytesPerSecond));
  if (auto range = parse_ipv4_range(config.jobs.network); !range)
    return wrong("jobs", "network", "is no range of addresses", range.error().remedy);
  static constexpr std::array<std::string_view, 4> kLevels{"debug", "info", "warning", "error"};
  if (std::ranges::find(kLevels, config.log.level) == kLevels.end())
    return wrong("log", "level", "is no level", "use debug, info, warning or error");
  for (auto [name, path] : {std::pair("join_token", &config.paths.join_token),
                            std::pair("state_directory", &config.paths.state_directory),
                            std::pair("load_directory", &config.paths.load_directory)})
    if (!path->starts_with('/'))
      return wrong("paths", name, "is a relative path", "begin it with /");
  if (!config.migration.image_directory.starts_with('/'))
    return wrong("migration", "image_directory", "is a relative path", "begin it with /");
  return {};
}

std::string quoted(const std::string& text) {
  std::string out = "\"";
  for (char c : text) {
    auto byte = static_cast<unsigned char>(c);
    if (c == '"' || c == '\\') out += '\\';
    if (byte < 0x20 || byte == 0x7f) {
      out += formatted("\\u{:04x}", byte);
    } else {
      out += c;
    }
  }
  return out + '"';
}

std::string spell(const std::string& text) { return quoted(text); }
std::string spell(std::unsigned_integral auto number) { return formatted("{}", number); }
std::string spell(double number) {
  auto text = formatted("{}", number);
  return text.find_first_of(".e") == std::string::npos ? text + ".0" : text;
}

// toml++ 3.4 runs into its own "unreachable" where a letter beyond ASCII stands for white
// space or a key (unicode_autogenerated.hpp). None reaches it: comments lose theirs, and
// elsewhere nothing that we read needs one.
Result<std::string> ascii_document(std::string_view document, const std::string& file) {
  std::string text(document);
  std::size_t line = 1;
  std::size_t line_start = 0;
  char quote = 0;
  bool comment = false;
  for (std::size_t i = 0; i < text.size(); ++i) {
    char& c = text[i];
    if (c == '\n') {
      ++line;
      line_start = i + 1;
      quote = 0;
      comment = false;
    } else if (static_cast<unsigned char>(c) >= 0x80) {
      if (!comment)
        return fail(
            ErrorCode::kInvalidArgument,
            formatted("{}:{}:{}: a character that is not ASCII", file, line, i - line_start + 1),
            "outside comments, use ASCII only");
      c = '?';
    } else if (!comment && quote == 0) {
      comment = c == '#';
      if (c == '"' || c == '\'') quote = c;
    } else if (c == quote) {
      quote = 0;
    } else if (c == '\\' && quote == '"') {
      ++i;
    }
  }
  return text;
}

}  // namespace

Result<Config> parse_config(std::string_view bytes, const std::string& file) {
  GESTALT_ASSIGN(std::string text, ascii_document(bytes, file));
  try {
    toml::table document = toml::parse(text, file);
    Config config;
    GESTALT_TRY(Reader(config, file).read(document));
    GESTALT_TRY(check(config, document, file));
    return config;
  } catch (const toml::parse_error& error) {
    return fail(ErrorCode::kInvalidArgument,
                formatted("{}: {}", place(file, error.source()), error.description()),
                "the format is TOML; see `gestaltd --print-config`");
  } catch (const std::exception& error) {
    return fail(ErrorCode::kInternal, formatted("read {}: {}", file, error.what()));
  }
}

Result<Config> load_config(const std::string& path) {
  auto text = read_file(path);
  if (!text) {
    if (text.error().code == ErrorCode::kNotFound)
      return fail(ErrorCode::kNotFound, formatted("there is no configuration {}", path),
                  "`gestalt init` writes one on the leader; nodes have it in their image");
    return std::unexpected(std::move(text).error());
  }
  GESTALT_ASSIGN(Config config, parse_config(*text, path));
  if (!config.node.name.empty()) return config;
  std::array<char, 256> host{};
  if (::gethostname(host.data(), host.size() - 1) != 0)
    return fail_errno(errno, "read the host name");
  std::string_view name = host.data();
  name = name.substr(0, name.find('.'));
  for (char c : name)
    config.node.name += c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c;
  if (auto ok = check_node_name(config.node.name); !ok)
    return fail(ErrorCode::kInvalidArgument,
                formatted("the host name \"{}\" is no valid node name", host.data()),
                formatted("set node.name in {}", path));
  return config;
}

std::string render_config(const Config& config) {
  Config copy = config;  // the fields are reached by mutable references
  std::string out =
      "# Gestalt's configuration, for gestaltd and gestalt. All keys are optional; the values\n"
      "# below are in force. `gestaltd --print-config` shows what a node uses.\n";
  std::string_view section;
  for (const Key& key : kKeys) {
    if (section != key.section) out += formatted("\n[{}]\n", section = key.section);
    std::string_view lines = key.documentation;
    while (!lines.empty()) {
      auto end = std::min(lines.find('\n'), lines.size());
      out += formatted("# {}\n", lines.substr(0, end));
      lines.remove_prefix(std::min(end + 1, lines.size()));
    }
    std::visit([&](auto field) { out += formatted("{} = {}\n", key.name, spell(field(copy))); },
               key.field);
  }
  return out;
}

}  // namespace gestalt
