#include "migrate/page_ranges.h"

#include <gtest/gtest.h>

#include <random>
#include <set>

namespace gestalt {
namespace {

constexpr std::uint64_t kPage = 4096;

TEST(PageRanges, MergesNeighboursAndOverlaps) {
  PageRanges ranges;
  ranges.add(0x1000, 0x2000);
  ranges.add(0x3000, 0x4000);
  ranges.add(0x2000, 0x3000);
  EXPECT_EQ(ranges.ranges().size(), 1U);
  EXPECT_EQ(ranges.bytes(), 3 * kPage);
  ranges.add(0x0, 0x10000);
  EXPECT_EQ(ranges.bytes(), 0x10000U);
}

TEST(PageRanges, RemovingSplits) {
  PageRanges ranges;
  ranges.add(0x1000, 0x9000);
  ranges.remove(0x3000, 0x4000);
  EXPECT_TRUE(ranges.contains(0x1000, 0x3000));
  EXPECT_FALSE(ranges.contains(0x3000));
  EXPECT_FALSE(ranges.contains(0x2000, 0x5000));
  EXPECT_TRUE(ranges.contains(0x8fff));
  EXPECT_FALSE(ranges.contains(0x9000));
}

TEST(PageRanges, MovesWhatLiesInside) {
  PageRanges ranges;
  ranges.add(0x1000, 0x3000);
  ranges.add(0x5000, 0x6000);
  ranges.move(0x2000, 0x6000, 0x102000);
  EXPECT_TRUE(ranges.contains(0x1000, 0x2000));
  EXPECT_TRUE(ranges.contains(0x102000, 0x103000));
  EXPECT_TRUE(ranges.contains(0x105000, 0x106000));
  EXPECT_EQ(ranges.bytes(), 3 * kPage);
}

TEST(PageRanges, EmptyRangesChangeNothing) {
  PageRanges ranges;
  ranges.add(0x2000, 0x2000);
  ranges.add(0x3000, 0x2000);
  ranges.remove(0x1000, 0x1000);
  EXPECT_TRUE(ranges.empty());
}

// Against a plain set of page numbers.
TEST(PageRanges, AgreesWithASetUnderRandomOperations) {
  std::mt19937 random(7);
  PageRanges ranges;
  std::set<std::uint64_t> pages;
  for (int i = 0; i < 4000; ++i) {
    std::uint64_t start = random() % 200;
    std::uint64_t end = start + random() % 20;
    if (random() % 2 == 0) {
      ranges.add(start * kPage, end * kPage);
      for (auto page = start; page < end; ++page) pages.insert(page);
    } else {
      ranges.remove(start * kPage, end * kPage);
      for (auto page = start; page < end; ++page) pages.erase(page);
    }
    ASSERT_EQ(ranges.bytes(), pages.size() * kPage) << "step " << i;
    std::uint64_t probe = random() % 220;
    ASSERT_EQ(ranges.contains(probe * kPage), pages.contains(probe));
  }
}

}  // namespace
}  // namespace gestalt
