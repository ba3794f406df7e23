#include "migrate/page_store.h"

#include <gtest/gtest.h>

#include <cstring>
#include <map>
#include <random>
#include <thread>
#include <vector>

namespace gestalt {
namespace {

constexpr std::uint64_t kBase = 0x7f0000000000;

std::uint64_t page(std::uint64_t number) { return kBase + number * kPageBytes; }

std::vector<std::byte> filled(std::size_t pages, int value) {
  return std::vector<std::byte>(pages * kPageBytes, static_cast<std::byte>(value));
}

// The page's first and last byte; -1: not stored.
int content(const PageStore& store, std::uint64_t number) {
  auto run = store.find(page(number), kPageBytes);
  if (!run) return -1;
  EXPECT_EQ(run->bytes, kPageBytes);
  if (run->data == nullptr) return 0;
  EXPECT_EQ(run->data[0], run->data[kPageBytes - 1]);
  return static_cast<int>(run->data[0]);
}

TEST(PageStore, GivesBackWhatWasPut) {
  PageStore store;
  EXPECT_FALSE(store.find(page(0), kPageBytes));
  ASSERT_TRUE(store.put(page(3), filled(2, 7)));
  store.put_zero(page(5), 2 * kPageBytes);
  EXPECT_EQ(content(store, 2), -1);
  EXPECT_EQ(content(store, 3), 7);
  EXPECT_EQ(content(store, 4), 7);
  EXPECT_EQ(content(store, 5), 0);
  EXPECT_EQ(content(store, 7), -1);
  EXPECT_EQ(store.stored().pages(), 4U);
}

TEST(PageStore, ARunIsOfOneKindInsideOneBlockAndItsLimit) {
  PageStore store;
  ASSERT_TRUE(store.put(page(508), filled(8, 1)));
  store.put_zero(page(500), 8 * kPageBytes);
  auto zero = store.find(page(500), 100 * kPageBytes);
  ASSERT_TRUE(zero);
  EXPECT_EQ(zero->data, nullptr);
  EXPECT_EQ(zero->bytes, 8 * kPageBytes);
  auto data = store.find(page(508), 100 * kPageBytes);
  ASSERT_TRUE(data);
  EXPECT_EQ(data->bytes, 4 * kPageBytes) << "up to the block's end";
  EXPECT_EQ(store.find(page(512), 3 * kPageBytes)->bytes, 3 * kPageBytes);
  EXPECT_EQ(store.find(page(512), 100 * kPageBytes)->bytes, 4 * kPageBytes);
}

TEST(PageStore, TheNewestContentCounts) {
  PageStore store;
  ASSERT_TRUE(store.put(page(0), filled(3, 1)));
  store.put_zero(page(1), kPageBytes);
  EXPECT_EQ(content(store, 1), 0);
  ASSERT_TRUE(store.put(page(1), filled(1, 2)));
  EXPECT_EQ(content(store, 1), 2);
  EXPECT_EQ(content(store, 0), 1);
  EXPECT_EQ(store.stored().pages(), 3U);
}

TEST(PageStore, DroppedPagesAreGoneAndOthersStay) {
  PageStore store;
  ASSERT_TRUE(store.put(page(500), filled(1100, 1)));
  store.drop(page(501), page(1599));
  EXPECT_EQ(store.stored().pages(), 2U);
  EXPECT_EQ(content(store, 500), 1);
  EXPECT_EQ(content(store, 1599), 1);
  store.drop(0, page(5000));
  EXPECT_TRUE(store.stored().empty());
  ASSERT_TRUE(store.put(page(500), filled(1, 9)));
  EXPECT_EQ(content(store, 500), 9);
  store.clear();
  EXPECT_EQ(content(store, 500), -1);
}

TEST(PageStore, BehavesLikeAMap) {
  PageStore store;
  std::map<std::uint64_t, int> model;
  std::mt19937 random(3);
  for (int i = 0; i < 5000; ++i) {
    std::uint64_t first = random() % 1400;
    std::uint64_t count = 1 + random() % 40;
    int value = 1 + static_cast<int>(random() % 255);
    auto action = random() % 3;
    if (action == 0) {
      ASSERT_TRUE(store.put(page(first), filled(count, value)));
    }
    if (action == 1) store.put_zero(page(first), count * kPageBytes);
    if (action == 2) store.drop(page(first), page(first + count));
    for (std::uint64_t each = first; each < first + count; ++each) {
      if (action == 2)
        model.erase(each);
      else
        model[each] = action == 0 ? value : 0;
    }
  }
  for (std::uint64_t each = 0; each < 1500; ++each)
    EXPECT_EQ(content(store, each), model.contains(each) ? model[each] : -1) << each;
  EXPECT_EQ(store.stored().pages(), model.size());
}

// Two links bring neighbours, while what is placed already is dropped.
TEST(PageStore, ThreadsMayShareABlock) {
  PageStore store;
  constexpr std::uint64_t kPages = 512;
  std::vector<std::thread> threads;
  for (std::uint64_t offset = 0; offset < 4; ++offset)
    threads.emplace_back([&store, offset] {
      for (int round = 0; round < 20; ++round) {
        for (std::uint64_t each = offset; each < kPages; each += 4) {
          EXPECT_TRUE(store.put(page(each), filled(1, static_cast<int>(offset) + 1)));
          EXPECT_EQ(content(store, each), static_cast<int>(offset) + 1);
          if (round < 19) store.drop(page(each), page(each + 1));
        }
      }
    });
  for (auto& thread : threads) thread.join();
  for (std::uint64_t each = 0; each < kPages; ++each)
    EXPECT_EQ(content(store, each), static_cast<int>(each % 4) + 1);
}

}  // namespace
}  // namespace gestalt
