// What nodes send for the single view.
#include <algorithm>
#include <array>

#include "common/format.h"
#include "daemon/view/cpu_numbers.h"
#include "daemon/view/merged_files.h"
#include "daemon/view/sys_tree.h"
#include "daemon/view/task_text.h"
#include "tests/fuzz/entries.h"

namespace gestalt::fuzz {
namespace {

using Files = std::map<std::string, std::string, std::less<>>;

constexpr std::string_view kMeminfo =
    "MemTotal:       24682416 kB\nMemFree:        14540360 kB\nCached:          9480316 kB\n"
    "VmallocTotal:   34359738367 kB\nHugePages_Total:       0\nHugepagesize:       2048 kB\n";
constexpr std::string_view kCpuinfo =
    "processor\t: 0\nphysical id\t: 0\ncore id\t\t: 0\nflags\t\t: fpu vme\npower management:\n\n"
    "processor\t: 1\nphysical id\t: 1\ncore id\t\t: 0\nflags\t\t: fpu vme\npower management:\n\n";
constexpr std::string_view kVmstat = "nr_free_pages 100\nnuma_hit 7\nnuma_local 7\npgpgin 50\n";

// The leader's and another node's copy of a file, divided by a byte 1.
struct TwoNodes {
  explicit TwoNodes(std::string_view bytes) {
    auto end = bytes.find('\1');
    leader_text = bytes.substr(0, end);
    if (end != std::string_view::npos) other_text = bytes.substr(end + 1);
  }
  std::array<NodeFiles, 2> with(std::string_view name) {
    leader.insert_or_assign(std::string(name), std::string(leader_text));
    other.insert_or_assign(std::string(name), std::string(other_text));
    return {NodeFiles{"leader", 0, 2, &leader}, NodeFiles{"node1", 2, 3, &other}};
  }
  std::string_view leader_text;
  std::string_view other_text;
  Files leader;
  Files other;
};

bool is_text(std::string_view bytes) {
  return (bytes.empty() || bytes.back() == '\n') && std::ranges::none_of(bytes, [](char c) {
           return static_cast<unsigned char>(c) < ' ' && c != '\n' && c != '\t';
         });
}

std::size_t lines_beginning(std::string_view text, std::string_view key) {
  std::size_t count = 0;
  while (!text.empty()) {
    count += text.starts_with(key) ? 1U : 0U;
    auto end = text.find('\n');
    text.remove_prefix(end == std::string_view::npos ? text.size() : end + 1);
  }
  return count;
}

void run_files(std::string_view bytes) {
  TwoNodes cluster(bytes);
  for (auto name : merged_file_names()) {
    auto nodes = cluster.with(name);
    std::string text = merge_file(name, nodes);
    promise(is_text(text), "a merged file consists of lines of printable text");
    if (name == "stat" && !text.empty())
      promise(lines_beginning(text, "cpu") == 6, "there is a line for each CPU, and the sum");
    if (name == "cpuinfo" && !text.empty())
      promise(lines_beginning(text, "processor\t: ") == 5, "there is a block for each CPU");
    if (name == "loadavg" || name == "uptime")
      promise(std::ranges::count(text, '\n') <= 1, "there is one line");
    if (name == "cpuinfo") continue;  // a CPU without a package still counts as one
    Files merged{{std::string(name), text}};
    std::array<NodeFiles, 1> again{NodeFiles{"leader", 0, 5, &merged}};
    promise(merge_file(name, again) == text, "a merged file is what one machine's could be");
  }
}

std::vector<std::string> files_seeds() {
  std::string stat =
      "cpu  3 0 1 30 0 0 0 0 0 0\ncpu0 1 0 1 10 0 0 0 0 0 0\ncpu1 2 0 0 20 0 0 0 0 0 0\n"
      "intr 111 0 1\nctxt 192\nbtime 1795225085\nprocesses 39\nprocs_running 4\n"
      "procs_blocked 0\nsoftirq 16 0 3\n";
  std::string pressure =
      "some avg10=33.56 avg60=59.71 avg300=72.76 total=11337788165\n"
      "full avg10=0.00 avg60=0.00 avg300=0.00 total=0\n";
  std::string disks =
      "   7       0 loop0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0\n"
      " 254       0 vda 294976 46052 37 315197 64 31 36 13 0 13 17 26 41 33 58 69 14\n";
  std::string interfaces =
      "Inter-|   Receive       |  Transmit\n face |bytes    packets|bytes    packets\n"
      "    lo: 13 116 0 0 0 0 0 0 13 116 0 0 0 0 0 0\n  eth0: 1 2 0 0 0 0 0 0 3 4 0 0 0 0 0 0\n";
  std::string loads = "3.35 6.63 7.93 5/128 21135\n";
  std::vector<std::string> seeds{
      "37942.80 37311.22\n\1"
      "500.00 100.79\n"};
  for (const std::string& text : {stat, pressure, disks, interfaces, loads, std::string(kMeminfo),
                                  std::string(kCpuinfo), std::string(kVmstat)})
    seeds.push_back(formatted("{0}\1{0}", text));
  return seeds;
}

// One node's meminfo, cpuinfo and vmstat all hold the same bytes.
void run_sys_tree(std::string_view bytes) {
  TwoNodes cluster(bytes);
  for (auto name : {"meminfo", "cpuinfo"}) (void)cluster.with(name);
  auto nodes = cluster.with("vmstat");
  SysTree tree = build_sys_tree(nodes);
  for (const auto& [path, entry] : tree) {
    if (entry.kind == SysEntry::Kind::kFile) promise(is_text(entry.text), "files are text");
    if (entry.kind == SysEntry::Kind::kSymlink)
      promise(tree.contains(entry.text.substr(6)), "links lead somewhere");
  }
  for (int cpu = 0; cpu < 5; ++cpu) {
    auto threads = tree.find(formatted("cpu/cpu{}/topology/core_cpus_list", cpu));
    promise(threads != tree.end(), "every CPU has a place");
    auto set = parse_cpu_list(threads->second.text);
    promise(set && set->contains(static_cast<std::uint32_t>(cpu)), "it is one of its own threads");
  }
}

std::vector<std::string> sys_tree_seeds() {
  return {std::string(kMeminfo) + "\1" + std::string(kMeminfo),
          std::string(kCpuinfo) + "\1" + std::string(kCpuinfo) + std::string(kCpuinfo),
          std::string(kVmstat) + "\1" + std::string(kVmstat)};
}

void run_cpu_list(std::string_view bytes) {
  auto set = parse_cpu_list(bytes);
  if (set) promise(parse_cpu_list(cpu_list(*set)).value() == *set, "a list survives being written");
}

std::vector<std::string> cpu_list_seeds() { return {"0-3,7\n", "0", "\n", "0-8191", "8192"}; }

void run_cpu_mask(std::string_view bytes) {
  auto set = parse_cpu_mask(bytes);
  if (!set) return;
  promise(parse_cpu_mask(cpu_mask(*set)).value() == *set, "a mask survives being written");
  promise(parse_cpu_mask(cpu_mask(*set, 8192)).value() == *set, "also a wide one");
}

std::vector<std::string> cpu_mask_seeds() { return {"3\n", "ff,0000000f", "0,00000000,80000000"}; }

void run_task(std::string_view bytes) {
  TaskPlace place{"node1", 1, 2, 3, bytes.size() % 2 == 0 ? -5'000 : 5'000};
  std::string stat = localize_stat(bytes, place);
  auto name = bytes.rfind(')');
  if (name == std::string_view::npos)
    promise(stat == bytes, "what is no stat line stays as it is");
  else
    promise(stat.starts_with(bytes.substr(0, name)), "what is before the fields stays as it is");
  std::string status = localize_status(bytes, place);
  promise(std::ranges::count(status, '\n') == std::ranges::count(bytes, '\n'), "no line is lost");
  std::string cgroup = node_cgroup(bytes, place.node);
  promise(cgroup.starts_with("0::/lxc/node1/") && is_text(cgroup), "a control group is one line");
}

std::vector<std::string> task_seeds() {
  return {
      "4711 (a) b (c)) S 4700 4711 4711 34816 4800 4194304 1 2 3 4 5 6 7 8 20 0 1 0 12345 1 2 "
      "18446744073709551615 1 1 1 0 0 0 65536 3670020 1266777851 0 0 0 17 1 0 0 0 0 0 0 0 0 0 "
      "0 0 0 0\n",
      "Name:\tcat\nCpus_allowed:\tff\nCpus_allowed_list:\t0-7\nMems_allowed:\t00000000,00000001\n"
      "Mems_allowed_list:\t0\nvoluntary_ctxt_switches:\t0\n",
      "1:cpu:/\n0::/gestalt/job-7\n"};
}

}  // namespace

std::span<const Entry> view_entries() {
  static constexpr Entry kEntries[] = {{"view_files", run_files, files_seeds},
                                       {"view_sys_tree", run_sys_tree, sys_tree_seeds},
                                       {"view_cpu_list", run_cpu_list, cpu_list_seeds},
                                       {"view_cpu_mask", run_cpu_mask, cpu_mask_seeds},
                                       {"view_task", run_task, task_seeds}};
  return kEntries;
}

}  // namespace gestalt::fuzz
