#include "migrate/fault_around.h"

#include <gtest/gtest.h>

#include <random>
#include <set>
#include <vector>

namespace gestalt {
namespace {

constexpr std::uint64_t kBase = 0x7f0000000;  // in pages
// No page number of a plan may be beyond it: it would not be an address.
constexpr std::uint64_t kLastPage = 1ULL << 51;

// A task whose pages come as planned, at once.
class Reader {
 public:
  explicit Reader(std::uint32_t max_pages) : max_pages_(max_pages), around_(max_pages) {}

  void touch(std::uint64_t page) {
    if (!here_.insert(page).second) return;
    ++faults_;
    auto plan = around_.on_fault(page);
    EXPECT_LE(plan.count, max_pages_);
    largest_ = std::max(largest_, plan.count);
    newest_ = plan.count;
    for (std::uint32_t k = 0; k < plan.count; ++k) {
      std::uint64_t planned = plan.first + static_cast<std::uint64_t>(plan.stride) * k;
      EXPECT_LT(planned, kLastPage) << "wrapped";
      if (here_.insert(planned).second) ++prefetched_;
    }
  }
  std::uint64_t faults_ = 0;
  std::uint64_t prefetched_ = 0;
  std::uint32_t largest_ = 0;
  std::uint32_t newest_ = 0;

 private:
  std::uint32_t max_pages_;
  FaultAround around_;
  std::set<std::uint64_t> here_;
};

TEST(FaultAround, ReadsASequentialStreamAheadInGrowingWindows) {
  Reader reader(512);
  std::uint32_t before = 0;
  for (std::uint64_t i = 0; i < 50'000; ++i) {
    reader.touch(kBase + i);
    if (i > 100 && reader.newest_ > 0) {
      EXPECT_GE(reader.newest_, before);
      before = reader.newest_;
    }
  }
  EXPECT_EQ(reader.largest_, 512U);
  EXPECT_LT(reader.faults_, 50'000 / 100);
}

TEST(FaultAround, ReadsABackwardStreamAhead) {
  Reader reader(256);
  for (std::uint64_t i = 0; i < 10'000; ++i) reader.touch(kBase - i);
  EXPECT_LT(reader.faults_, 10'000 / 40);
}

TEST(FaultAround, RecognisesStrides) {
  for (std::int64_t stride : {2, 7, 64, -3, -100, 4096}) {
    Reader reader(64);
    auto step = static_cast<std::uint64_t>(stride);
    for (std::uint64_t i = 0; i < 2000; ++i) reader.touch(kBase + i * step);
    EXPECT_LT(reader.faults_, 200U) << stride;
    // A stride inside the first window looks like a sequential stream: what it skips comes
    // along.
    EXPECT_LT(reader.prefetched_, stride == 2 ? 4500U : 2500U)
        << stride << ": little that nobody reads";
  }
}

// Several threads, each with a stream of its own, in any order.
TEST(FaultAround, KeepsInterleavedStreamsApart) {
  Reader reader(128);
  std::mt19937 random(2);
  std::vector<std::uint64_t> at(8, 0);
  for (int i = 0; i < 40'000; ++i) {
    auto thread = random() % at.size();
    reader.touch(kBase + thread * 1'000'000 + at[thread]++);
  }
  EXPECT_LT(reader.faults_, 40'000 / 20);
}

TEST(FaultAround, FaultsAtRandomShrinkTheWindowToThePage) {
  Reader reader(512);
  std::mt19937_64 random(4);
  for (int i = 0; i < 2000; ++i) reader.touch(kBase + random() % (1ULL << 33));
  EXPECT_EQ(reader.newest_, 0U);
  EXPECT_LT(reader.prefetched_, 30U);
  // And a stream is found again after that.
  std::uint64_t faults = reader.faults_;
  for (std::uint64_t i = 0; i < 10'000; ++i) reader.touch(kBase * 2 + i);
  EXPECT_LT(reader.faults_ - faults, 10'000U / 50);
}

TEST(FaultAround, NeverPlansMoreThanItMay) {
  std::mt19937_64 random(6);
  for (std::uint32_t max_pages : {0U, 1U, 2U, 3U, 15U, 17U, 4096U}) {
    Reader reader(max_pages);
    for (std::uint64_t i = 0; i < 3000; ++i) {
      reader.touch(kBase + i);
      reader.touch(kBase * 3 - i);
      if (i % 7 == 0) reader.touch(random() % kLastPage / 2);
    }
    EXPECT_LE(reader.largest_, max_pages);
    if (max_pages == 0) {
      EXPECT_EQ(reader.prefetched_, 0U);
    }
  }
}

TEST(FaultAround, DoesNotWrapAtTheEndsOfTheAddressSpace) {
  for (std::uint64_t stride : {1U, 5U, 1000U}) {
    Reader down(512);
    for (std::uint64_t i = 50; i > 0; --i) down.touch((i - 1) * stride);
    Reader up(512);
    std::uint64_t end = 1ULL << 35;  // pages of 47 bits
    for (std::uint64_t i = 50; i > 0; --i) up.touch(end - i * stride);
  }
}

TEST(FaultAround, TheSameFaultAgainIsHarmless) {
  FaultAround around(64);
  for (int i = 0; i < 100; ++i) EXPECT_LE(around.on_fault(kBase).count, 64U);
  for (int i = 0; i < 100; ++i) EXPECT_LE(around.on_fault(kBase + i % 2).count, 64U);
}

}  // namespace
}  // namespace gestalt
