// /proc/stat.
#include <array>
#include <vector>

#include "daemon/view/counters.h"
#include "daemon/view/cpu_numbers.h"
#include "daemon/view/mergers.h"

namespace gestalt {
namespace {

using view_text::next_word;
using view_text::parse_number;

// user nice system idle iowait irq softirq steal guest guest_nice
using Ticks = std::array<std::uint64_t, 10>;

struct NodeStat {
  Ticks all{};
  std::vector<Ticks> cpus;  // those online, in order
  std::uint64_t interrupts = 0;
  std::uint64_t softirqs = 0;
  std::uint64_t switches = 0;
  std::uint64_t forks = 0;
  std::uint64_t running = 0;
  std::uint64_t blocked = 0;
  std::uint64_t boot_unix_seconds = 0;
  std::string_view by_interrupt;  // what follows the totals
  std::string_view by_softirq;
};

std::uint64_t next_number(std::string_view& line) {
  return parse_number(next_word(line)).value_or(0);
}

Ticks parse_ticks(std::string_view line) {
  Ticks ticks{};
  for (auto& each : ticks) each = next_number(line);
  return ticks;
}

NodeStat parse(std::string_view text, std::uint32_t cpus) {
  NodeStat out;
  for (std::string_view line; view_text::next_line(text, line);) {
    auto key = next_word(line);
    if (key == "cpu") {
      out.all = parse_ticks(line);
    } else if (key.starts_with("cpu")) {
      if (out.cpus.size() < cpus && parse_number(key.substr(3)))
        out.cpus.push_back(parse_ticks(line));
    } else if (key == "intr") {
      out.interrupts = next_number(line);
      out.by_interrupt = line;
    } else if (key == "softirq") {
      out.softirqs = next_number(line);
      out.by_softirq = line;
    } else if (key == "ctxt") {
      out.switches = next_number(line);
    } else if (key == "processes") {
      out.forks = next_number(line);
    } else if (key == "procs_running") {
      out.running = next_number(line);
    } else if (key == "procs_blocked") {
      out.blocked = next_number(line);
    } else if (key == "btime") {
      out.boot_unix_seconds = next_number(line);
    }
  }
  return out;
}

void add_totals(NodeStat& sum, const NodeStat& node) {
  for (std::size_t i = 0; i < sum.all.size(); ++i)
    sum.all[i] = view_text::add(sum.all[i], node.all[i]);
  sum.interrupts = view_text::add(sum.interrupts, node.interrupts);
  sum.softirqs = view_text::add(sum.softirqs, node.softirqs);
  sum.switches = view_text::add(sum.switches, node.switches);
  sum.forks = view_text::add(sum.forks, node.forks);
  sum.running = view_text::add(sum.running, node.running);
  sum.blocked = view_text::add(sum.blocked, node.blocked);
}

void append_ticks(std::string& out, const Ticks& ticks) {
  for (auto each : ticks) {
    out += ' ';
    view_text::append_number(out, each);
  }
  out += '\n';
}

// As many lines as the node has CPUs, whatever its file says: an absent one is idle.
void append_cpus(std::string& out, const NodeFiles& node, const NodeStat& stat) {
  std::uint32_t count = shown_cpus(node.first_cpu, node.cpus);
  for (std::uint32_t i = 0; i < count; ++i) {
    out += "cpu";
    view_text::append_number(out, node.first_cpu + i);
    append_ticks(out, i < stat.cpus.size() ? stat.cpus[i] : Ticks{});
  }
}

// The sum, then the model's own numbers one by one: interrupts have no numbers in common.
void append_breakdown(std::string& out, std::string_view key, std::uint64_t total,
                      std::string_view rest) {
  out.append(key) += ' ';
  view_text::append_number(out, total);
  while (auto number = parse_number(next_word(rest))) {
    out += ' ';
    view_text::append_number(out, *number);
  }
  out += '\n';
}

}  // namespace

// `cpu` and the counters are sums over the nodes. `cpuN`: a node's n-th online CPU is
// number first_cpu + n. `intr` and `softirq` have the cluster's total and the leader's
// details. `btime` is the leader's, and so are start times in the view.
std::string merge_stat(std::string_view name, Nodes nodes) {
  NodeStat sum;
  std::string lines;
  bool has_model = false;
  for (const NodeFiles& node : nodes) {
    auto text = file_of(node, name);
    NodeStat stat = parse(text, shown_cpus(node.first_cpu, node.cpus));
    add_totals(sum, stat);
    append_cpus(lines, node, stat);
    if (has_model || text.empty()) continue;
    has_model = true;
    sum.by_interrupt = stat.by_interrupt;
    sum.by_softirq = stat.by_softirq;
    sum.boot_unix_seconds = stat.boot_unix_seconds;
  }
  std::string out = "cpu ";
  out.reserve(lines.size() + 4096);
  append_ticks(out, sum.all);
  out += lines;
  append_breakdown(out, "intr", sum.interrupts, sum.by_interrupt);
  append_counter(out, "ctxt", sum.switches);
  append_counter(out, "btime", sum.boot_unix_seconds);
  append_counter(out, "processes", sum.forks);
  append_counter(out, "procs_running", sum.running);
  append_counter(out, "procs_blocked", sum.blocked);
  append_breakdown(out, "softirq", sum.softirqs, sum.by_softirq);
  return out;
}

}  // namespace gestalt
