#include "daemon/view/sys_tree.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "common/format.h"
#include "daemon/view/cpu_numbers.h"
#include "daemon/view/test_nodes.h"

namespace gestalt {
namespace {

using test::Cluster;

std::string file(const SysTree& tree, std::string_view path) {
  auto found = tree.find(path);
  if (found == tree.end() || found->second.kind != SysEntry::Kind::kFile)
    return formatted("no file {}", path);
  return found->second.text;
}

std::string link(const SysTree& tree, std::string_view path) {
  auto found = tree.find(path);
  if (found == tree.end() || found->second.kind != SysEntry::Kind::kSymlink)
    return formatted("no link {}", path);
  return found->second.text;
}

TEST(SysTree, ListsTheClustersCpus) {
  auto tree = build_sys_tree(Cluster().nodes());
  for (auto path : {"cpu/online", "cpu/present", "cpu/possible"})
    EXPECT_EQ(file(tree, path), "0-5\n");
  EXPECT_EQ(file(tree, "cpu/offline"), "\n");
  EXPECT_EQ(file(tree, "cpu/kernel_max"), "8191\n");
  EXPECT_EQ(file(tree, "cpu/cpu5/online"), "1\n");
  EXPECT_EQ(link(tree, "cpu/cpu4/node1"), "../../node/node1");
  EXPECT_FALSE(tree.contains("cpu/cpu6"));
}

TEST(SysTree, GivesEachCpuItsPlace) {
  Cluster cluster;
  auto tree = build_sys_tree(cluster.nodes());
  auto topology = [&](int cpu, std::string_view name) {
    return file(tree, formatted("cpu/cpu{}/topology/{}", cpu, name));
  };
  EXPECT_EQ(topology(1, "core_id"), "1\n");
  EXPECT_EQ(topology(1, "physical_package_id"), "0\n");
  EXPECT_EQ(topology(1, "thread_siblings"), "02\n");
  EXPECT_EQ(topology(1, "core_siblings_list"), "0-1\n");
  // Two threads of a core, and another package's core with the same id.
  EXPECT_EQ(topology(3, "core_id"), "0\n");
  EXPECT_EQ(topology(3, "core_cpus"), "0c\n");
  EXPECT_EQ(topology(3, "core_cpus_list"), "2-3\n");
  EXPECT_EQ(topology(3, "thread_siblings_list"), "2-3\n");
  EXPECT_EQ(topology(4, "core_id"), "1\n");
  EXPECT_EQ(topology(4, "thread_siblings_list"), "4\n");
  EXPECT_EQ(topology(4, "package_cpus"), "1c\n");
  EXPECT_EQ(topology(4, "package_cpus_list"), "2-4\n");
  EXPECT_EQ(topology(4, "core_siblings"), "1c\n");
  EXPECT_EQ(topology(4, "physical_package_id"), "1\n");
  EXPECT_EQ(topology(4, "die_id"), "0\n");
}

TEST(SysTree, MakesEachNodeANumaNode) {
  auto tree = build_sys_tree(Cluster().nodes());
  for (auto path : {"node/online", "node/possible", "node/has_cpu", "node/has_memory",
                    "node/has_normal_memory"})
    EXPECT_EQ(file(tree, path), "0-2\n");
  EXPECT_EQ(file(tree, "node/node1/cpulist"), "2-4\n");
  EXPECT_EQ(file(tree, "node/node1/cpumap"), "1c\n");
  EXPECT_EQ(file(tree, "node/node1/distance"), "20 10 20\n");
  EXPECT_EQ(link(tree, "node/node1/cpu3"), "../../cpu/cpu3");
  EXPECT_EQ(file(tree, "node/node1/meminfo"),
            "Node 1 MemTotal:        2000000 kB\nNode 1 MemFree:         1500000 kB\n"
            "Node 1 MemUsed:          500000 kB\nNode 1 SwapCached:           10 kB\n"
            "Node 1 Active(anon):         44 kB\nNode 1 FilePages:        101010 kB\n"
            "Node 1 HugePages_Total:       1\n");
  EXPECT_EQ(file(tree, "node/node0/numastat"),
            "numa_hit 7\nnuma_miss 0\nnuma_foreign 0\ninterleave_hit 0\nlocal_node 7\n"
            "other_node 0\n");
  EXPECT_EQ(file(tree, "node/node0/vmstat"), "nr_free_pages 100\nnuma_hit 7\nnuma_local 7\n");
}

TEST(SysTree, ANodeThatHasSentNothingIsThereAllTheSame) {
  Cluster cluster;
  cluster[2].clear();
  cluster.add("node3", 0);
  auto tree = build_sys_tree(cluster.nodes());
  EXPECT_EQ(file(tree, "node/online"), "0-3\n");
  EXPECT_EQ(file(tree, "node/has_cpu"), "0-2\n");
  EXPECT_EQ(file(tree, "node/node3/cpulist"), "\n");
  EXPECT_EQ(file(tree, "node/node3/cpumap"), "00\n");
  EXPECT_EQ(file(tree, "node/node3/meminfo"),
            "Node 3 MemTotal:              0 kB\nNode 3 MemFree:               0 kB\n"
            "Node 3 MemUsed:               0 kB\n");
  EXPECT_EQ(file(tree, "cpu/cpu5/topology/core_id"), "0\n");
}

// Whoever writes the tree out can do so in its order, and every link leads somewhere.
void check_form(const SysTree& tree) {
  for (const auto& [path, entry] : tree) {
    if (auto slash = path.rfind('/'); slash != std::string::npos) {
      auto parent = tree.find(path.substr(0, slash));
      ASSERT_NE(parent, tree.end()) << path;
      EXPECT_EQ(parent->second.kind, SysEntry::Kind::kDirectory);
    }
    if (entry.kind == SysEntry::Kind::kSymlink) {
      ASSERT_TRUE(entry.text.starts_with("../../"));
      EXPECT_TRUE(tree.contains(entry.text.substr(6))) << entry.text;
    }
    if (entry.kind == SysEntry::Kind::kFile) {
      EXPECT_TRUE(entry.text.empty() || entry.text.ends_with('\n')) << path;
      EXPECT_EQ(entry.text.find('\0'), std::string::npos);
    }
  }
}

TEST(SysTree, HoldsTogether) {
  check_form(build_sys_tree({}));
  check_form(build_sys_tree(Cluster().nodes()));
  for (const std::string& bytes : test::garbage()) {
    Cluster cluster;
    for (auto name : {"meminfo", "cpuinfo", "vmstat"}) cluster[1][name] = bytes;
    auto tree = build_sys_tree(cluster.nodes());
    check_form(tree);
    EXPECT_EQ(parse_cpu_list(file(tree, "node/node1/cpulist")).value().size(), 3U);
  }
}

TEST(SysTree, GapsInTheNumbersAreNotThere) {
  Cluster cluster;
  cluster.node(2).first_cpu = 40;
  auto tree = build_sys_tree(cluster.nodes());
  check_form(tree);
  EXPECT_EQ(file(tree, "cpu/possible"), "0-4,40\n");
  EXPECT_EQ(file(tree, "node/node0/cpumap"), "000,00000003\n");
  EXPECT_EQ(file(tree, "node/node2/cpumap"), "100,00000000\n");
}

}  // namespace
}  // namespace gestalt
