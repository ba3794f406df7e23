#include "daemon/view/sys_tree.h"

#include <algorithm>
#include <utility>
#include <vector>

#include "common/format.h"
#include "daemon/view/cpu_numbers.h"
#include "daemon/view/cpuinfo.h"
#include "daemon/view/mergers.h"
#include "daemon/view/node_memory.h"

namespace gestalt {
namespace {

constexpr std::size_t kMaxNumaNodes = 1024;

void add_directory(SysTree& tree, std::string path) {
  tree.try_emplace(std::move(path), SysEntry{SysEntry::Kind::kDirectory, {}});
}

void add_line(SysTree& tree, std::string path, std::string_view line) {
  tree.try_emplace(std::move(path), SysEntry{SysEntry::Kind::kFile, formatted("{}\n", line)});
}

void add_file(SysTree& tree, std::string path, std::string text) {
  tree.try_emplace(std::move(path), SysEntry{SysEntry::Kind::kFile, std::move(text)});
}

void add_link(SysTree& tree, std::string path, std::string target) {
  tree.try_emplace(std::move(path), SysEntry{SysEntry::Kind::kSymlink, std::move(target)});
}

// A set in both notations: "core_cpus" and "core_cpus_list".
struct SetText {
  SetText(const CpuSet& set, std::uint32_t bits) : mask(cpu_mask(set, bits)), list(cpu_list(set)) {}
  std::string mask;
  std::string list;
};

void add_set(SysTree& tree, const std::string& path, const SetText& set) {
  add_line(tree, path, set.mask);
  add_line(tree, path + "_list", set.list);
}

using CoreKey = std::pair<std::uint64_t, std::uint64_t>;

struct Core {
  std::uint32_t number = 0;  // in the node: ids of its packages' cores may be the same
  CpuSet threads;
};

// For each of the node's CPUs the core that it belongs to. One of which cpuinfo does not
// tell the core is a core of its own.
std::pair<std::vector<Core>, std::vector<std::uint32_t>> find_cores(const NodeFiles& node) {
  std::uint32_t cpus = shown_cpus(node.first_cpu, node.cpus);
  auto blocks = parse_cpuinfo(file_of(node, "cpuinfo"), cpus);
  std::vector<Core> cores;
  std::vector<std::uint32_t> core_of(cpus);
  std::map<CoreKey, std::uint32_t> known;
  for (std::uint32_t i = 0; i < cpus; ++i) {
    auto number = static_cast<std::uint32_t>(cores.size());
    CpuBlock block = i < blocks.size() ? blocks[i] : CpuBlock{};
    if (block.core)
      number = known.try_emplace({block.package.value_or(0), *block.core}, number).first->second;
    if (number == cores.size()) cores.push_back({number, {}});
    cores[number].threads.add(node.first_cpu + i);
    core_of[i] = number;
  }
  return {std::move(cores), std::move(core_of)};
}

void add_cpu(SysTree& tree, std::uint32_t cpu, std::size_t node, const Core& core,
             const SetText& package, std::uint32_t bits) {
  std::string directory = formatted("cpu/cpu{}", cpu);
  std::string topology = directory + "/topology";
  SetText threads(core.threads, bits);
  add_directory(tree, directory);
  add_directory(tree, topology);
  add_line(tree, directory + "/online", "1");
  add_link(tree, formatted("{}/node{}", directory, node), formatted("../../node/node{}", node));
  add_line(tree, topology + "/core_id", std::to_string(core.number));
  add_line(tree, topology + "/die_id", "0");
  add_line(tree, topology + "/physical_package_id", std::to_string(node));
  for (const char* name : {"/core_cpus", "/thread_siblings"})
    add_set(tree, topology + name, threads);
  for (const char* name : {"/package_cpus", "/core_siblings"})
    add_set(tree, topology + name, package);
}

// 10 to itself, 20 to any other: nothing is known of the network between them.
std::string distances(std::size_t node, std::size_t nodes) {
  std::string line;
  for (std::size_t other = 0; other < nodes; ++other) {
    if (other > 0) line += ' ';
    line += other == node ? "10" : "20";
  }
  return line;
}

void add_node(SysTree& tree, Nodes nodes, std::size_t index, std::uint32_t bits) {
  const NodeFiles& node = nodes[index];
  CpuSet cpus;
  cpus.add_range(node.first_cpu, node.cpus);
  SetText text(cpus, bits);
  std::string directory = formatted("node/node{}", index);
  add_directory(tree, directory);
  add_line(tree, directory + "/cpulist", text.list);
  add_line(tree, directory + "/cpumap", text.mask);
  add_line(tree, directory + "/distance", distances(index, nodes.size()));
  add_file(tree, directory + "/meminfo", numa_meminfo(index, file_of(node, "meminfo")));
  add_file(tree, directory + "/numastat", numa_statistics(file_of(node, "vmstat")));
  add_file(tree, directory + "/vmstat", numa_vmstat(file_of(node, "vmstat")));
  auto [cores, core_of] = find_cores(node);
  for (std::uint32_t i = 0; i < core_of.size(); ++i) {
    std::uint32_t cpu = node.first_cpu + i;
    add_link(tree, formatted("{}/cpu{}", directory, cpu), formatted("../../cpu/cpu{}", cpu));
    add_cpu(tree, cpu, index, cores[core_of[i]], text, bits);
  }
}

void add_cpu_lists(SysTree& tree, const CpuSet& cpus) {
  add_directory(tree, "cpu");
  for (const char* path : {"cpu/online", "cpu/possible", "cpu/present"})
    add_line(tree, path, cpu_list(cpus));
  add_line(tree, "cpu/offline", "");
  add_line(tree, "cpu/kernel_max", std::to_string(kMaxClusterCpus - 1));
}

void add_node_lists(SysTree& tree, Nodes nodes) {
  CpuSet all;
  CpuSet with_cpus;
  for (std::uint32_t i = 0; i < nodes.size(); ++i) {
    all.add(i);
    if (shown_cpus(nodes[i].first_cpu, nodes[i].cpus) > 0) with_cpus.add(i);
  }
  add_directory(tree, "node");
  for (const char* path :
       {"node/online", "node/possible", "node/has_memory", "node/has_normal_memory"})
    add_line(tree, path, cpu_list(all));
  add_line(tree, "node/has_cpu", cpu_list(with_cpus));
}

}  // namespace

// `possible` and `present` are no more than `online`, as programs size their tables by
// them and count CPUs with them.
SysTree build_sys_tree(Nodes nodes) {
  nodes = nodes.first(std::min(nodes.size(), kMaxNumaNodes));
  CpuSet cpus;
  for (const NodeFiles& node : nodes) cpus.add_range(node.first_cpu, node.cpus);
  SysTree tree;
  add_cpu_lists(tree, cpus);
  add_node_lists(tree, nodes);
  for (std::size_t i = 0; i < nodes.size(); ++i) add_node(tree, nodes, i, cpus.end());
  return tree;
}

}  // namespace gestalt
