// /proc/loadavg, /proc/uptime, /proc/pressure/*: numbers with two decimals.
#include <array>

#include "daemon/view/mergers.h"
#include "daemon/view/text.h"

namespace gestalt {
namespace {

using view_text::append_hundredths;
using view_text::append_number;
using view_text::next_word;
using view_text::parse_hundredths;
using view_text::parse_number;

struct Load {
  std::array<std::uint64_t, 3> averages{};  // hundredths
  std::uint64_t running = 0;
  std::uint64_t tasks = 0;
  std::uint64_t last_pid = 0;
};

// "0.20 0.18 0.12 1/80 11206"
Load parse_load(std::string_view text) {
  std::string_view line;
  Load out;
  view_text::next_line(text, line);
  for (auto& average : out.averages) average = parse_hundredths(next_word(line)).value_or(0);
  auto counts = next_word(line);
  auto slash = counts.find('/');
  if (slash != std::string_view::npos) {
    out.running = parse_number(counts.substr(0, slash)).value_or(0);
    out.tasks = parse_number(counts.substr(slash + 1)).value_or(0);
  }
  out.last_pid = parse_number(next_word(line)).value_or(0);
  return out;
}

struct Uptime {
  std::uint64_t up = 0;    // hundredths of a second
  std::uint64_t idle = 0;  // the same, summed over the CPUs
};

Uptime parse_uptime(std::string_view text) {
  std::string_view line;
  view_text::next_line(text, line);
  Uptime out;
  out.up = parse_hundredths(next_word(line)).value_or(0);
  out.idle = parse_hundredths(next_word(line)).value_or(0);
  return out;
}

struct Pressure {
  std::array<std::uint64_t, 3> averages{};  // hundredths of a percent; in sums, times CPUs
  std::uint64_t total_microseconds = 0;
};

// "avg10=0.00 avg60=0.00 avg300=0.00 total=0", what follows "some" or "full"
bool parse_pressure(std::string_view line, Pressure& out) {
  static constexpr std::array<std::string_view, 3> kKeys{"avg10=", "avg60=", "avg300="};
  for (std::size_t i = 0; i < kKeys.size(); ++i) {
    auto word = next_word(line);
    if (!word.starts_with(kKeys[i])) return false;
    auto value = parse_hundredths(word.substr(kKeys[i].size()));
    if (!value) return false;
    out.averages[i] = std::min<std::uint64_t>(*value, 100'00);
  }
  auto word = next_word(line);
  auto total = word.starts_with("total=") ? parse_number(word.substr(6)) : std::nullopt;
  out.total_microseconds = total.value_or(0);
  return total.has_value();
}

bool find_pressure(std::string_view text, std::string_view kind, Pressure& out) {
  for (std::string_view line; view_text::next_line(text, line);)
    if (next_word(line) == kind && parse_pressure(line, out)) return true;
  return false;
}

void append_pressure(std::string& out, std::string_view kind, const Pressure& sum,
                     std::uint64_t cpus) {
  out += kind;
  static constexpr std::array<std::string_view, 3> kLabels{" avg10=", " avg60=", " avg300="};
  for (std::size_t i = 0; i < kLabels.size(); ++i) {
    out += kLabels[i];
    append_hundredths(out, (sum.averages[i] + cpus / 2) / cpus);
  }
  out += " total=";
  append_number(out, sum.total_microseconds);
  out += '\n';
}

}  // namespace

// Sums: a load is a number of tasks. The last pid is the leader's.
std::string merge_loadavg(std::string_view name, Nodes nodes) {
  Load sum;
  for (const NodeFiles& node : nodes) {
    Load load = parse_load(file_of(node, name));
    for (std::size_t i = 0; i < sum.averages.size(); ++i)
      sum.averages[i] = view_text::add(sum.averages[i], load.averages[i]);
    sum.running = view_text::add(sum.running, load.running);
    sum.tasks = view_text::add(sum.tasks, load.tasks);
  }
  sum.last_pid = parse_load(model_file(name, nodes)).last_pid;
  std::string out;
  for (auto average : sum.averages) {
    append_hundredths(out, average);
    out += ' ';
  }
  append_number(out, sum.running);
  out += '/';
  append_number(out, sum.tasks);
  out += ' ';
  append_number(out, sum.last_pid);
  return out += '\n';
}

// The machine has been up for as long as its leader; the idle time is that of all CPUs,
// as it is on one machine.
std::string merge_uptime(std::string_view name, Nodes nodes) {
  Uptime sum{.up = parse_uptime(model_file(name, nodes)).up};
  for (const NodeFiles& node : nodes)
    sum.idle = view_text::add(sum.idle, parse_uptime(file_of(node, name)).idle);
  std::string out;
  append_hundredths(out, sum.up);
  out += ' ';
  append_hundredths(out, sum.idle);
  return out += '\n';
}

// A percentage of the cluster's time is the mean over its nodes, each counting as many
// times as it has CPUs. The stalled time is a sum, so it can exceed the uptime.
std::string merge_pressure(std::string_view name, Nodes nodes) {
  std::string out;
  for (std::string_view kind : {"some", "full"}) {
    Pressure sum;
    std::uint64_t cpus = 0;
    for (const NodeFiles& node : nodes) {
      Pressure pressure;
      if (!find_pressure(file_of(node, name), kind, pressure)) continue;
      std::uint64_t weight = std::max(node.cpus, 1U);
      cpus += weight;
      for (std::size_t i = 0; i < sum.averages.size(); ++i)
        sum.averages[i] += pressure.averages[i] * weight;
      sum.total_microseconds = view_text::add(sum.total_microseconds, pressure.total_microseconds);
    }
    if (cpus > 0) append_pressure(out, kind, sum, cpus);
  }
  return out;
}

}  // namespace gestalt
