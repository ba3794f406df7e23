#include "migrate/remote_memory.h"

#include <gtest/gtest.h>

namespace gestalt {
namespace {

constexpr std::uint64_t kPage = kPageBytes;

std::vector<RemoteRange> some_ranges() {
  return {{7, 10 * kPage, 20 * kPage, 0x1000, 1},
          {7, 20 * kPage, 25 * kPage, 0x9000, 2},
          {7, 40 * kPage, 41 * kPage, 40 * kPage, 3},
          {9, 10 * kPage, 12 * kPage, 10 * kPage, 4}};
}

PageRun pages(std::uint32_t pid, std::uint64_t first, std::uint32_t count) {
  return {pid, first * kPage, count};
}

TEST(RemoteMemory, StagingComesBackUnlessImpossible) {
  for (std::uint64_t link : {kDemandLink, kFirstBulkLink}) {
    Staging staging = staging_shape(link);
    staging.address = 0x7f0000001000;
    staging.rkey = 0xdeadbeef;
    auto again = decode_staging(encode_staging(staging));
    ASSERT_TRUE(again) << again.error().text();
    EXPECT_EQ(*again, staging);
    EXPECT_EQ(staging.bytes(), 1U << 20);
  }
  for (Staging bad : {Staging{0, 1, 0, 4096}, Staging{0, 1, 33, 4096}, Staging{0, 1, 1, 0},
                      Staging{0, 1, 1, 4097}, Staging{0, 1, 1, kMaxPieceBytes + 4096},
                      Staging{~0ULL - 4095, 1, 2, 4096}})
    EXPECT_EQ(decode_staging(encode_staging(bad)).error().code, ErrorCode::kProtocol);
  EXPECT_FALSE(decode_staging(std::vector<std::byte>(19)));
}

TEST(RemoteMemory, RangesComeBackUnlessImpossible) {
  std::vector<RemoteRange> many;
  for (std::uint32_t i = 0; i < 40'000; ++i)
    many.push_back({1 + i % 3, i * 2 * kPage, (i * 2 + 1) * kPage, i, i});
  auto frames = encode_remote_ranges(many);
  EXPECT_EQ(frames.size(), 2U);
  std::vector<RemoteRange> again;
  for (const auto& frame : frames) {
    EXPECT_LE(frame.size(), kMaxPieceBytes);
    ASSERT_TRUE(decode_remote_ranges(frame, again));
  }
  EXPECT_EQ(again, many);
  EXPECT_TRUE(encode_remote_ranges({}).empty());

  for (RemoteRange bad :
       {RemoteRange{0, kPage, 2 * kPage, 0, 0}, RemoteRange{1, 1, kPage, 0, 0},
        RemoteRange{1, kPage, kPage, 0, 0}, RemoteRange{1, 2 * kPage, kPage, 0, 0},
        RemoteRange{1, kPage, kAddressLimit + kPage, 0, 0},
        RemoteRange{1, kPage, 3 * kPage, ~0ULL - kPage, 0},
        RemoteRange{(1U << 22) + 1, kPage, 2 * kPage, 0, 0}}) {
    std::vector<RemoteRange> out;
    EXPECT_FALSE(decode_remote_ranges(encode_remote_ranges({&bad, 1})[0], out));
  }
  std::vector<RemoteRange> full(kMaxRemoteRanges);
  EXPECT_FALSE(decode_remote_ranges(frames[0], full));
  EXPECT_FALSE(decode_remote_ranges(std::vector<std::byte>(31), again));
}

TEST(RemoteMemory, ATableFindsWhatLiesInOneRange) {
  auto made = RemoteRangeTable::make(some_ranges());
  ASSERT_TRUE(made);
  const auto& table = *made;
  ASSERT_NE(table.find(pages(7, 10, 10)), nullptr);
  EXPECT_EQ(table.find(pages(7, 19, 1))->rkey, 1U);
  EXPECT_EQ(table.find(pages(7, 20, 5))->rkey, 2U);
  EXPECT_EQ(table.find(pages(9, 11, 1))->rkey, 4U);
  for (PageRun none :
       {pages(7, 9, 1), pages(7, 9, 2), pages(7, 19, 2), pages(7, 24, 2), pages(7, 25, 1),
        pages(7, 41, 1), pages(8, 10, 1), pages(9, 9, 4), pages(10, 10, 1)})
    EXPECT_EQ(table.find(none), nullptr) << none.pid << " " << none.address / kPage;
}

TEST(RemoteMemory, ATableCutsWhereAnswersChange) {
  auto table = RemoteRangeTable::make(some_ranges());
  ASSERT_TRUE(table);
  auto uniform = [&](std::uint32_t pid, std::uint64_t first, std::uint64_t count) {
    return table->uniform_bytes(pid, first * kPage, count * kPage) / kPage;
  };
  EXPECT_EQ(uniform(7, 0, 64), 10U);
  EXPECT_EQ(uniform(7, 10, 64), 10U);
  EXPECT_EQ(uniform(7, 18, 64), 2U);
  EXPECT_EQ(uniform(7, 20, 3), 3U);
  EXPECT_EQ(uniform(7, 25, 64), 15U);
  EXPECT_EQ(uniform(7, 41, 64), 64U);
  EXPECT_EQ(uniform(8, 0, 64), 64U);
  EXPECT_EQ(uniform(9, 0, 64), 10U);
  EXPECT_EQ(RemoteRangeTable().uniform_bytes(1, 0, kPage), kPage);
}

TEST(RemoteMemory, OverlappingRangesAreRefused) {
  auto ranges = some_ranges();
  ranges.push_back({9, 11 * kPage, 13 * kPage, 0, 0});
  EXPECT_EQ(RemoteRangeTable::make(ranges).error().code, ErrorCode::kProtocol);
  EXPECT_TRUE(RemoteRangeTable::make({})->empty());
}

TEST(RemoteMemory, StagedRequestsComeBackUnlessImpossible) {
  auto again = [](PageRun run, std::uint32_t slot) {
    return decode_staged_request({FrameType::kStagedRequest, 12, run.address},
                                 encode_staged_request({run, slot}));
  };
  auto good = again(pages(7, 10, 8), 31);
  ASSERT_TRUE(good);
  EXPECT_EQ(good->slot, 31U);
  EXPECT_EQ(good->run.count, 8U);
  EXPECT_FALSE(again(pages(7, 10, 8), 32));
  EXPECT_FALSE(again(pages(7, 10, 0), 0));
  EXPECT_FALSE(again(pages(7, 10, kMaxPagesPerChunk + 1), 0));
}

}  // namespace
}  // namespace gestalt
