#include "daemon/view/merged_files.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "common/format.h"
#include "daemon/view/test_nodes.h"

namespace gestalt {
namespace {

using test::Cluster;

std::size_t count(std::string_view text, std::string_view part) {
  std::size_t found = 0;
  for (auto at = text.find(part); at != std::string_view::npos; at = text.find(part, at + 1))
    ++found;
  return found;
}

void give_stat(Cluster& cluster) {
  cluster[0]["stat"] =
      "cpu  300 0 30 3000 3 0 1 2 4 5\ncpu0 100 0 10 1000 1 0 1 2 4 5\n"
      "cpu1 200 0 20 2000 2 0 0 0 0 0\nintr 500 0 7 493\nctxt 1000\nbtime 1795225085\n"
      "processes 50\nprocs_running 3\nprocs_blocked 1\nsoftirq 70 10 60\n";
  // CPU 1 is offline; the kernel is older than the guest columns.
  cluster[1]["stat"] =
      "cpu  6 0 0 60 0 0 0 0\ncpu0 1 0 0 10 0 0 0 0\ncpu2 2 0 0 20 0 0 0 0\n"
      "cpu3 3 0 0 30 0 0 0 0\nintr 5 9 9\nctxt 10\nbtime 1\nprocesses 5\nprocs_running 2\n"
      "procs_blocked 0\nsoftirq 7 1 6\n";
}

TEST(MergedStat, SumsAndNumbersTheCpus) {
  Cluster cluster;
  give_stat(cluster);
  EXPECT_EQ(cluster.merge("stat"),
            "cpu  306 0 30 3060 3 0 1 2 4 5\ncpu0 100 0 10 1000 1 0 1 2 4 5\n"
            "cpu1 200 0 20 2000 2 0 0 0 0 0\ncpu2 1 0 0 10 0 0 0 0 0 0\n"
            "cpu3 2 0 0 20 0 0 0 0 0 0\ncpu4 3 0 0 30 0 0 0 0 0 0\n"
            "cpu5 0 0 0 0 0 0 0 0 0 0\n"  // node2 has sent nothing yet
            "intr 505 0 7 493\nctxt 1010\nbtime 1795225085\nprocesses 55\nprocs_running 5\n"
            "procs_blocked 1\nsoftirq 77 10 60\n");
}

TEST(MergedStat, HasAsManyCpusAsTheNodesWhateverTheirFilesSay) {
  Cluster cluster;
  give_stat(cluster);
  cluster.node(1).cpus = 2;  // a container on a host with three
  cluster.node(2) = {"node2", 4, 3, cluster.node(2).files};
  auto text = cluster.merge("stat");
  EXPECT_EQ(count(text, "\ncpu"), 7U);
  for (int cpu = 0; cpu < 7; ++cpu) EXPECT_EQ(count(text, formatted("\ncpu{} ", cpu)), 1U);
}

TEST(MergedStat, LeavesOutCpusBeyondTheLimit) {
  Cluster cluster;
  give_stat(cluster);
  cluster.node(2).cpus = 4'000'000'000;
  EXPECT_EQ(count(cluster.merge("stat"), "\ncpu"), 8192U);
  cluster.node(2).first_cpu = 4'294'967'295;
  EXPECT_EQ(count(cluster.merge("stat"), "\ncpu"), 5U);
}

TEST(MergedMeminfo, SumsInTheLeadersOrderAndColumns) {
  Cluster cluster;
  EXPECT_EQ(
      cluster.merge("meminfo"),
      "MemTotal:       27682416 kB\nMemFree:        16290360 kB\nMemAvailable:   25348404 kB\n"
      "Buffers:           48524 kB\nCached:          9580316 kB\nSwapCached:           10 kB\n"
      "Active(anon):       1000 kB\nHardwareCorrupted:     4 kB\n"
      "VmallocTotal:   34359738367 kB\nHugePages_Total:       3\nHugepagesize:       2048 kB\n");
}

TEST(MergedVmstat, SumsByKey) {
  Cluster cluster;
  EXPECT_EQ(cluster.merge("vmstat"), "nr_free_pages 110\nnuma_hit 12\nnuma_local 7\npgpgin 50\n");
  cluster[0]["vmstat"] = "pgpgin 1\nno number\npgpgin 2\n";
  EXPECT_EQ(cluster.merge("vmstat"), "pgpgin 3\n");
}

TEST(MergedCpuinfo, NumbersCpusAndPackages) {
  Cluster cluster;
  EXPECT_EQ(cluster.merge("cpuinfo"), test::cpu_block(0, 0, 0) + test::cpu_block(1, 0, 1) +
                                          test::cpu_block(2, 1, 0) + test::cpu_block(3, 1, 0) +
                                          test::cpu_block(4, 2, 0) + test::cpu_block(5, 3, 0));
}

TEST(MergedCpuinfo, RepeatsTheLastBlockAndDropsTheSurplus) {
  Cluster cluster;
  cluster[0]["cpuinfo"] = "processor\t: 7\nBogoMIPS\t: 1.00\n\nHardware\t: Board\n";  // no newlines
  cluster.node(1).cpus = 2;
  cluster[2].clear();
  EXPECT_EQ(cluster.merge("cpuinfo"),
            "processor\t: 0\nBogoMIPS\t: 1.00\n\nprocessor\t: 1\nBogoMIPS\t: 1.00\n\n" +
                test::cpu_block(2, 1, 0) + test::cpu_block(3, 1, 0) + "processor\t: 5\n\n");
}

TEST(MergedAverages, Loadavg) {
  Cluster cluster;
  cluster[0]["loadavg"] = "3.35 6.63 7.93 5/128 21135\n";
  cluster[1]["loadavg"] = "0.70 0.00 0.08 1/12 99\n";
  EXPECT_EQ(cluster.merge("loadavg"), "4.05 6.63 8.01 6/140 21135\n");
}

TEST(MergedAverages, Uptime) {
  Cluster cluster;
  cluster[0]["uptime"] = "37942.80 37311.22\n";
  cluster[1]["uptime"] = "500.00 100.79\n";
  EXPECT_EQ(cluster.merge("uptime"), "37942.80 37412.01\n");
}

TEST(MergedAverages, PressureCountsANodeByItsCpus) {
  Cluster cluster;
  cluster[0]["pressure/io"] =
      "some avg10=10.00 avg60=0.01 avg300=0.00 total=100\n"
      "full avg10=2.00 avg60=0.00 avg300=0.00 total=10\n";
  cluster[1]["pressure/io"] = "some avg10=60.00 avg60=0.02 avg300=100.00 total=7\n";
  EXPECT_EQ(cluster.merge("pressure/io"),
            "some avg10=40.00 avg60=0.02 avg300=60.00 total=107\n"
            "full avg10=2.00 avg60=0.00 avg300=0.00 total=10\n");
}

TEST(MergedDevices, Diskstats) {
  Cluster cluster;
  const std::string leader =
      "   7       0 loop0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0\n"
      " 254       0 vda 294976 46052 37030482 315197 647586 312084 369342696 1393868 0 132292 "
      "1768659 266754 41 334544304 58153 69927 1440\n";
  cluster[0]["diskstats"] = leader;
  cluster[1]["diskstats"] =
      "   7       0 loop0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0\n"
      " 259       0 nvme0n1 1 2 3 4 5 6 7 8 0 9 10\n   8       0 short 1 2 3\n";
  EXPECT_EQ(cluster.merge("diskstats"),
            leader + " 259       0 node1.nvme0n1 1 2 3 4 5 6 7 8 0 9 10\n");
}

TEST(MergedDevices, NetDev) {
  Cluster cluster;
  const std::string leader =
      "Inter-|   Receive                                                |  Transmit\n"
      " face |bytes    packets errs drop fifo frame compressed multicast|"
      "bytes    packets errs drop fifo colls carrier compressed\n"
      "    lo:   13068     116    0    0    0     0          0         0    13068     116    0    0"
      "    0     0       0          0\n"
      "  eth0: 1129369228   32146    0    0    0     0          0         0  1500998   20044    0"
      "    0    0     0       0          0\n";
  cluster[0]["net/dev"] = leader;
  cluster[1]["net/dev"] = leader + "  ifb0: 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0\n" +
                          "enp193s0f1np1: 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16\n";
  cluster[2]["net/dev"] = "eth0:1 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0";
  cluster.node(2).name = "a-node-with-a-long-name-017";
  EXPECT_EQ(
      cluster.merge("net/dev"),
      leader +
          "node1.eth0: 1129369228   32146    0    0    0     0          0         0  1500998"
          "   20044    0    0    0     0       0          0\n"
          "node1.93s0f1np1:       1       2    3    4    5     6          7         8        9"
          "      10   11   12   13    14      15         16\n"
          "g-name-017.eth0:       1       0    0    0    0     0          0         0        0"
          "       0    0    0    0     0       0          0\n");
}

TEST(MergedFiles, OthersAreTheLeaders) {
  Cluster cluster;
  EXPECT_EQ(cluster.merge("stat"), "");  // nobody has it
  cluster[0]["version"] = "Linux version 6.18\n";
  cluster[1]["version"] = "another";
  EXPECT_EQ(cluster.merge("version"), "Linux version 6.18\n");
  EXPECT_EQ(merge_file("stat", {}), "");
  NodeFiles nothing;
  EXPECT_EQ(merge_file("version", {&nothing, 1}), "");
}

TEST(MergedFiles, AnotherNodeStandsInForALeaderWithoutTheFile) {
  Cluster cluster;
  cluster[1]["loadavg"] = "0.70 0.00 0.08 1/12 99\n";
  EXPECT_EQ(cluster.merge("loadavg"), "0.70 0.00 0.08 1/12 99\n");
}

void give_averages(Cluster& cluster) {
  cluster[0]["loadavg"] = "3.35 6.63 7.93 5/128 21135\n";
  cluster[0]["uptime"] = "37942.80 37311.22\n";
  for (auto name : {"pressure/cpu", "pressure/io", "pressure/memory"})
    cluster[0][name] = "some avg10=10.00 avg60=0.01 avg300=0.00 total=100\n";
  cluster[0]["diskstats"] = "   8       0 sda 1 2 3 4 5 6 7 8 0 9 10\n";
  cluster[0]["net/dev"] = "eth0: 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16\n";
}

// A single number may be believed, but no line comes or goes.
TEST(MergedFiles, GarbageAddsNoLines) {
  for (auto name : merged_file_names()) {
    Cluster cluster;
    give_stat(cluster);
    give_averages(cluster);
    std::string key(name);
    cluster[1].erase(key);
    auto lines = count(cluster.merge(name), name == "cpuinfo" ? "processor\t: " : "\n");
    for (const std::string& bytes : test::garbage()) {
      cluster[1][key] = bytes;
      EXPECT_EQ(count(cluster.merge(name), name == "cpuinfo" ? "processor\t: " : "\n"), lines)
          << name << " with " << bytes.substr(0, 100);
    }
  }
}

// The leader's file is no exception: it may be a bind mount of anything.
TEST(MergedFiles, NoBytesBreakTheFormOfAFile) {
  for (auto name : merged_file_names()) {
    for (const std::string& bytes : test::garbage()) {
      Cluster cluster;
      for (std::size_t i = 0; i < 3; ++i) cluster[i][std::string(name)] = bytes;
      auto text = cluster.merge(name);
      EXPECT_EQ(text.find('\0'), std::string::npos);
      EXPECT_TRUE(text.empty() || text.ends_with('\n')) << name << text;
      EXPECT_THAT(text, testing::Not(testing::HasSubstr("\x1b")));
    }
  }
}

TEST(MergedFiles, SumsStopAtTheLargestNumber) {
  Cluster cluster;
  cluster[0]["vmstat"] = "pgpgin 18446744073709551615\n";
  cluster[1]["vmstat"] = "pgpgin 5\n";
  EXPECT_EQ(cluster.merge("vmstat"), "pgpgin 18446744073709551615\n");
}

}  // namespace
}  // namespace gestalt
