#include "daemon/pid_slices.h"

#include <gtest/gtest.h>

#include <vector>

namespace gestalt {
namespace {

TEST(PidSlices, SizesAreChecked) {
  for (std::uint32_t size : {0U, 1U, 2048U, 4095U, 4097U, 16383U, 524'288U, 1U << 31})
    EXPECT_FALSE(PidSlices::with_size(size)) << size;
  for (std::uint32_t size = kMinPidSliceSize; size <= kMaxPidSliceSize; size *= 2)
    EXPECT_TRUE(PidSlices::with_size(size)) << size;
}

TEST(PidSlices, RangesTileThePids) {
  for (std::uint32_t size = kMinPidSliceSize; size <= kMaxPidSliceSize; size *= 2) {
    auto slices = *PidSlices::with_size(size);
    std::uint32_t expected = size;
    for (std::uint32_t i = slices.first_index(); i <= slices.last_index(); ++i) {
      auto range = *slices.range(i);
      EXPECT_EQ(range.first, expected);
      EXPECT_EQ(slices.index_of(range.first), i);
      EXPECT_EQ(slices.index_of(range.last), i);
      expected = range.last + 1;
    }
    EXPECT_EQ(expected, kPidLimit);
  }
}

TEST(PidSlices, Edges) {
  auto slices = *PidSlices::with_size(16384);
  EXPECT_EQ(slices.last_index(), 255U);
  EXPECT_FALSE(slices.range(0));
  EXPECT_FALSE(slices.range(256));
  EXPECT_FALSE(slices.index_of(0));
  EXPECT_FALSE(slices.index_of(16383));
  EXPECT_EQ(slices.index_of(16384), 1U);
  EXPECT_EQ(slices.index_of(kPidLimit - 1), 255U);
  EXPECT_FALSE(slices.index_of(kPidLimit));
  EXPECT_TRUE((PidRange{5, 7}).contains(7));
  EXPECT_FALSE((PidRange{5, 7}).contains(8));
}

TEST(PidSlices, AllocatesTheLowestFree) {
  auto slices = *PidSlices::with_size(262'144);  // 15 slices
  EXPECT_EQ(*slices.allocate({}), 1U);
  EXPECT_EQ(*slices.allocate(std::vector<std::uint32_t>{2, 1, 4, 1, 99999}), 3U);
  std::vector<std::uint32_t> used;
  for (std::uint32_t i = 1; i <= 15; ++i) {
    EXPECT_EQ(*slices.allocate(used), i);
    used.push_back(i);
  }
  auto none = slices.allocate(used);
  ASSERT_FALSE(none);
  EXPECT_EQ(none.error().code, ErrorCode::kNoSpace);
  EXPECT_NE(none.error().remedy.find("pid_slice_size"), std::string::npos);
}

TEST(PidSlices, ABootBeginsWhereNoJobIs) {
  PidRange slice{16384, 32767};
  auto first = [&](std::vector<std::uint32_t> in_use) {
    auto range = PidSlices::after_boot(slice, std::move(in_use));
    EXPECT_EQ(range.last, slice.last);
    return range.first;
  };
  EXPECT_EQ(first({}), 16384U);
  EXPECT_EQ(first({7, 40000}), 16384U) << "born elsewhere";
  EXPECT_EQ(first({16390}), 16902U);
  EXPECT_EQ(first({16391, 16390, 16400}), 16912U);
  EXPECT_EQ(first({16390, 30000}), 16902U);
  EXPECT_EQ(first({16390, 18000}), 18512U);
  EXPECT_EQ(first({32000}), 16384U) << "no room behind it";
  EXPECT_EQ(first({28000, 16390}), 16902U);
}

}  // namespace
}  // namespace gestalt
