#include "daemon/placement.h"

#include <gtest/gtest.h>

namespace gestalt {
namespace {

using std::chrono::seconds;

std::string chosen(const std::vector<PlacementCandidate>& candidates) {
  auto node = choose_node(candidates);
  return node ? *node : "none";
}

TEST(ChooseNode, NobodyThere) {
  EXPECT_EQ(choose_node({}).error().code, ErrorCode::kUnavailable);
  EXPECT_EQ(chosen({{.name = "a", .usable = false, .cpus = 64}}), "none");
}

TEST(ChooseNode, LoadForEachCpu) {
  EXPECT_EQ(chosen({{.name = "a", .usable = true, .cpus = 1, .load = 1},
                    {.name = "b", .usable = true, .cpus = 4, .load = 3}}),
            "b");
  EXPECT_EQ(chosen({{.name = "a", .usable = true, .cpus = 0.4, .load = 1},
                    {.name = "b", .usable = true, .cpus = 0.8, .load = 1.5}}),
            "b");
  EXPECT_EQ(chosen({{.name = "a", .usable = false, .cpus = 4},
                    {.name = "b", .usable = true, .cpus = 1, .load = 100}}),
            "b");
}

TEST(ChooseNode, RecentPlacementsCount) {
  EXPECT_EQ(chosen({{.name = "a", .usable = true, .cpus = 1, .recent_placements = 2},
                    {.name = "b", .usable = true, .cpus = 1, .load = 1.5}}),
            "b");
}

TEST(ChooseNode, Ties) {
  EXPECT_EQ(chosen({{.name = "a", .usable = true, .cpus = 1, .memory_available_bytes = 1},
                    {.name = "b", .usable = true, .cpus = 1, .memory_available_bytes = 2}}),
            "b");
  EXPECT_EQ(
      chosen({{.name = "b", .usable = true, .cpus = 1}, {.name = "a", .usable = true, .cpus = 1}}),
      "a");
}

TEST(ChooseNode, NodesWithoutCpusDoNotBreakIt) {
  EXPECT_EQ(chosen({{.name = "a", .usable = true, .cpus = 0, .load = 1},
                    {.name = "b", .usable = true, .cpus = -3, .load = -1}}),
            "b");
}

TEST(Placement, SpreadsAndForgets) {
  Membership membership(seconds(3), seconds(5));
  Clock::time_point now{seconds(1000)};
  for (const char* name : {"a", "b"}) {
    auto admission = membership.hello(name, "boot", now);
    ASSERT_TRUE(admission);
    (void)membership.heartbeat(name, admission->connection, {.cpus = 2}, now);
  }
  Placement placement(seconds(2));
  EXPECT_EQ(*placement.place(membership, now), "a");
  EXPECT_EQ(*placement.place(membership, now), "b");
  EXPECT_EQ(*placement.place(membership, now), "a");
  placement.note("b", now);
  placement.note("b", now);
  EXPECT_EQ(placement.recent("b", now), 3U);
  EXPECT_EQ(*placement.place(membership, now), "a");
  now += seconds(2);
  EXPECT_EQ(placement.recent("a", now), 0U);
  (void)membership.set_draining("a", true);
  EXPECT_EQ(*placement.place(membership, now), "b");
  (void)membership.set_draining("b", true);
  EXPECT_FALSE(placement.place(membership, now));
}

}  // namespace
}  // namespace gestalt
