#include "daemon/view/task_text.h"

#include <gtest/gtest.h>

#include "common/format.h"
#include "daemon/view/test_nodes.h"

namespace gestalt {
namespace {

constexpr TaskPlace kPlace{
    .node = "node7", .node_index = 7, .first_cpu = 10, .cpus = 4, .boot_difference_ticks = 100};

std::string stat(std::string_view name, std::string_view start, std::string_view processor) {
  return formatted(
      "4711 ({}) S 4700 4711 4711 34816 4800 4194304 1 2 3 4 5 6 7 8 20 0 1 0 {} 1 2 "
      "18446744073709551615 1 1 1 0 0 0 65536 3670020 1266777851 0 0 0 17 {} 0 0 0 0 0 0 0 0 0 0 "
      "0 0 0\n",
      name, start, processor);
}

TEST(TaskStat, MovesTheStartTimeAndTheProcessor) {
  EXPECT_EQ(localize_stat(stat("bash", "12345", "1"), kPlace), stat("bash", "12445", "11"));
  EXPECT_EQ(localize_stat(stat("bash", "0", "6"), kPlace), stat("bash", "100", "12"));
}

TEST(TaskStat, AStartTimeIsNeverBelowZero) {
  TaskPlace place = kPlace;
  place.boot_difference_ticks = -12'345;
  EXPECT_EQ(localize_stat(stat("a", "12346", "0"), place), stat("a", "1", "10"));
  EXPECT_EQ(localize_stat(stat("a", "12344", "0"), place), stat("a", "0", "10"));
  place.boot_difference_ticks = std::numeric_limits<std::int64_t>::min();
  EXPECT_EQ(localize_stat(stat("a", "12344", "0"), place), stat("a", "0", "10"));
  place.boot_difference_ticks = std::numeric_limits<std::int64_t>::max();
  EXPECT_EQ(localize_stat(stat("a", "18446744073709551615", "0"), place),
            stat("a", "18446744073709551615", "10"));
}

TEST(TaskStat, ANameMayHoldAnything) {
  for (auto name : {"a b", "a) S 1 2 (b", ")))", "((", "two\nlines", ""})
    EXPECT_EQ(localize_stat(stat(name, "5", "0"), kPlace), stat(name, "105", "10")) << name;
}

TEST(TaskStat, ANodeWithoutCpusHasOneAllTheSame) {
  TaskPlace place = kPlace;
  place.cpus = 0;
  EXPECT_EQ(localize_stat(stat("a", "5", "3"), place), stat("a", "105", "10"));
}

TEST(TaskStat, WhatIsNoStatLineStays) {
  for (const std::string& bytes : test::garbage()) EXPECT_EQ(localize_stat(bytes, kPlace), bytes);
  for (auto text : {"1 (a)", "1 (a) ", "1 (a) S 1 2 3\n", "(", ")"})
    EXPECT_EQ(localize_stat(text, kPlace), text);
  for (auto bad : {"-1", "x", "", "99999999999999999999"}) {
    EXPECT_EQ(localize_stat(stat("a", bad, "0"), kPlace), stat("a", bad, "0"));
    EXPECT_EQ(localize_stat(stat("a", "0", bad), kPlace), stat("a", "0", bad));
  }
  std::string whole = stat("a", "5", "1");
  whole.resize(whole.find(" 17 1"));
  EXPECT_EQ(localize_stat(whole, kPlace), whole);
}

TEST(TaskStat, TheProcessorMayBeTheLastField) {
  std::string text = stat("a", "5", "1");
  text.resize(text.find(" 17 1") + 5);
  std::string expected = stat("a", "105", "11");
  expected.resize(expected.find(" 17 11") + 6);
  EXPECT_EQ(localize_stat(text, kPlace), expected);
}

TEST(TaskStatus, NamesTheClustersCpusAndNodes) {
  EXPECT_EQ(localize_status("Name:\tcat\nThreads:\t1\nCpus_allowed:\t3\nCpus_allowed_list:\t0-1\n"
                            "Mems_allowed:\t00000000,00000001\nMems_allowed_list:\t0\n"
                            "voluntary_ctxt_switches:\t0\n",
                            kPlace),
            "Name:\tcat\nThreads:\t1\nCpus_allowed:\tc00\nCpus_allowed_list:\t10-11\n"
            "Mems_allowed:\t00000000,00000080\nMems_allowed_list:\t7\n"
            "voluntary_ctxt_switches:\t0\n");
  // A container on a host with 16 CPUs.
  EXPECT_EQ(localize_status("Cpus_allowed:\tffff\nCpus_allowed_list:\t0-15\n", kPlace),
            "Cpus_allowed:\t3c00\nCpus_allowed_list:\t10-13\n");
  EXPECT_EQ(localize_status("Cpus_allowed_list:\t2", kPlace), "Cpus_allowed_list:\t12");
}

TEST(TaskStatus, AMaskWithoutSenseIsTheWholeNode) {
  EXPECT_EQ(localize_status("Cpus_allowed:\tzz\nCpus_allowed_list:\t\n", kPlace),
            "Cpus_allowed:\t3c00\nCpus_allowed_list:\t10-13\n");
  EXPECT_EQ(localize_status("Cpus_allowed_list:\t0-99999999999999999999\n", kPlace),
            "Cpus_allowed_list:\t10-13\n");
}

TEST(TaskStatus, AllElseStays) {
  for (const std::string& bytes : test::garbage()) EXPECT_EQ(localize_status(bytes, kPlace), bytes);
  for (auto text :
       {"Cpus_", "Cpus_allowed", "Cpus_allowed: 1", "Cpus_allowed_lists:\t1", "\n\nMems_"})
    EXPECT_EQ(localize_status(text, kPlace), text);
}

TEST(TaskCgroup, NamesTheNode) {
  EXPECT_EQ(node_cgroup("0::/gestalt/job-7\n", "node7"), "0::/lxc/node7/gestalt/job-7\n");
  EXPECT_EQ(node_cgroup("9:name=systemd:/lxc/other\n1:cpu:/\n0::/\n", "node7"), "0::/lxc/node7/\n");
  EXPECT_EQ(node_cgroup("0::/no/newline", "n"), "0::/lxc/n/no/newline\n");
  EXPECT_EQ(node_cgroup("0::/\x1b[2J\n", "n"), "0::/lxc/n/\n");
  EXPECT_EQ(node_cgroup("", "n"), "0::/lxc/n/\n");
  for (const std::string& bytes : test::garbage())
    EXPECT_EQ(node_cgroup(bytes, "node7"), "0::/lxc/node7/\n");
}

}  // namespace
}  // namespace gestalt
