#include "migrate/page_set.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <random>
#include <set>
#include <vector>

namespace gestalt {
namespace {

constexpr std::uint64_t kBase = 0x7f0000000000;

std::uint64_t page(std::uint64_t number) { return kBase + number * kPageBytes; }

std::vector<std::pair<std::uint64_t, std::uint64_t>> runs(const PageSet& set) {
  std::vector<std::pair<std::uint64_t, std::uint64_t>> out;
  set.for_each([&](std::uint64_t start, std::uint64_t end) {
    out.emplace_back((start - kBase) / kPageBytes, (end - kBase) / kPageBytes);
  });
  return out;
}

using Runs = std::vector<std::pair<std::uint64_t, std::uint64_t>>;

TEST(PageSet, MergesNeighboursAcrossBlocks) {
  PageSet set;
  set.add(page(500), page(512));
  set.add(page(512), page(1600));
  set.add(page(1601), page(1602));
  EXPECT_EQ(runs(set), (Runs{{500, 1600}, {1601, 1602}}));
  EXPECT_EQ(set.pages(), 1101U);
  EXPECT_TRUE(set.contains(page(500), page(1600)));
  EXPECT_FALSE(set.contains(page(500), page(1601)));
  EXPECT_FALSE(set.contains(page(1600)));
}

TEST(PageSet, NextObeysItsLimit) {
  PageSet set;
  set.add(page(10), page(2000));
  EXPECT_EQ(set.next(0, 4 * kPageBytes), (PageSet::Range{page(10), page(14)}));
  EXPECT_EQ(set.next(page(510), 4 * kPageBytes), (PageSet::Range{page(510), page(514)}));
  EXPECT_TRUE(set.next(page(2000), kPageBytes).empty());
}

TEST(PageSet, MovesAsMremapDoes) {
  PageSet set;
  set.add(page(0), page(4));
  set.add(page(6), page(8));
  set.move(page(2), page(7), page(1000));
  EXPECT_EQ(runs(set), (Runs{{0, 2}, {7, 8}, {1000, 1002}, {1004, 1005}}));
}

// Against the obvious implementation.
TEST(PageSet, IsASet) {
  std::mt19937 random(1);
  auto number = [&](std::uint64_t limit) { return random() % limit; };
  PageSet set, other;
  std::set<std::uint64_t> model, other_model;
  for (int step = 0; step < 2000; ++step) {
    std::uint64_t first = number(2000), last = first + number(700);
    bool to_other = number(3) == 0;
    switch (number(6)) {
      case 0:
      case 1:
        (to_other ? other : set).add(page(first), page(last));
        for (auto p = first; p < last; ++p) (to_other ? other_model : model).insert(p);
        break;
      case 2:
      case 3:
        (to_other ? other : set).remove(page(first), page(last));
        for (auto p = first; p < last; ++p) (to_other ? other_model : model).erase(p);
        break;
      case 4:
        set.remove(other);
        for (auto p : other_model) model.erase(p);
        break;
      case 5:
        if (number(2) == 0) {
          set.add(other);
          model.insert(other_model.begin(), other_model.end());
        } else if (number(4) == 0) {
          set.intersect(other);
          std::erase_if(model, [&](auto p) { return !other_model.contains(p); });
        }
        break;
    }
    ASSERT_EQ(set.pages(), model.size());
    std::uint64_t probe = number(2700);
    ASSERT_EQ(set.contains(page(probe)), model.contains(probe));
    auto from = model.lower_bound(probe);
    auto range = set.next(page(probe), 1ULL << 40);
    ASSERT_EQ(range.empty(), from == model.end());
    if (!range.empty()) {
      ASSERT_EQ(range.start, page(*from));
    }
    auto in = std::distance(model.lower_bound(first), model.lower_bound(last));
    ASSERT_EQ(set.pages_in(page(first), page(last)), static_cast<std::uint64_t>(in));
  }
}

}  // namespace
}  // namespace gestalt
