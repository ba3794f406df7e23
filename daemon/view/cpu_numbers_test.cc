#include "daemon/view/cpu_numbers.h"

#include <gtest/gtest.h>

#include <random>

namespace gestalt {
namespace {

CpuSet set_of(std::initializer_list<std::uint32_t> numbers) {
  CpuSet set;
  for (auto number : numbers) set.add(number);
  return set;
}

TEST(CpuSet, HoldsNumbersBelowItsLimit) {
  CpuSet set = set_of({0, 63, 64, 8191, 8192, 4'294'967'295});
  EXPECT_EQ(set.size(), 4U);
  EXPECT_EQ(set.end(), 8192U);
  EXPECT_EQ(set.next(1), 63U);
  EXPECT_EQ(set.next(64), 64U);
  EXPECT_EQ(set.next(65), 8191U);
  EXPECT_EQ(set.next(8192), kMaxClusterCpus);
  EXPECT_FALSE(set.contains(8192));
  EXPECT_TRUE(CpuSet{}.empty());
  EXPECT_EQ(CpuSet{}.end(), 0U);
  CpuSet range;
  range.add_range(8190, 4'294'967'295);
  EXPECT_EQ(range.size(), 2U);
  range.add_range(4'294'967'295, 4'294'967'295);
  EXPECT_EQ(range.size(), 2U);
}

TEST(CpuNumbers, WritesListsAsTheKernelDoes) {
  EXPECT_EQ(cpu_list({}), "");
  EXPECT_EQ(cpu_list(set_of({0})), "0");
  EXPECT_EQ(cpu_list(set_of({0, 1, 2, 3, 7})), "0-3,7");
  EXPECT_EQ(cpu_list(set_of({5, 6, 8190, 8191})), "5-6,8190-8191");
}

TEST(CpuNumbers, WritesMasksAsTheKernelDoes) {
  EXPECT_EQ(cpu_mask({}), "0");
  EXPECT_EQ(cpu_mask(set_of({0, 1})), "3");
  EXPECT_EQ(cpu_mask(set_of({1}), 6), "02");
  EXPECT_EQ(cpu_mask(set_of({31}), 32), "80000000");
  EXPECT_EQ(cpu_mask(set_of({0, 32})), "1,00000001");
  EXPECT_EQ(cpu_mask(set_of({0}), 36), "0,00000001");
  EXPECT_EQ(cpu_mask(set_of({0}), 1024).size(), 32U * 8 + 31);
}

TEST(CpuNumbers, ReadsBoth) {
  EXPECT_EQ(parse_cpu_list("0-3,7\n").value(), set_of({0, 1, 2, 3, 7}));
  EXPECT_TRUE(parse_cpu_list("\n").value().empty());
  EXPECT_EQ(parse_cpu_mask("ff").value().size(), 8U);
  EXPECT_EQ(parse_cpu_mask("00000000,0000000f\n").value(), set_of({0, 1, 2, 3}));
  EXPECT_EQ(parse_cpu_mask("1,00000000").value(), set_of({32}));
}

TEST(CpuNumbers, RefusesGarbage) {
  for (std::string_view text : {"x", "1-", "-1", "1,", ",1", "1,,2", "3-1", "8192", "0-4294967295",
                                "0-8192", "1 2", "1\n\n", "0-3:2/4", "99999999999999999999"})
    EXPECT_FALSE(parse_cpu_list(text)) << text;
  EXPECT_FALSE(parse_cpu_list(std::string_view("1\0", 2)));
  for (std::string_view text :
       {"", "\n", "g", "1,1", "123456789", "1,", ",00000001", "-1", "0x1", "1,000000001", "f f"})
    EXPECT_FALSE(parse_cpu_mask(text)) << text;
}

TEST(CpuNumbers, ReadsAMaskOfAWiderKernel) {
  std::string zeros = "00000000";
  for (int i = 0; i < 300; ++i) zeros += ",00000000";
  EXPECT_TRUE(parse_cpu_mask(zeros).value().empty());
  zeros[7] = '1';
  EXPECT_FALSE(parse_cpu_mask(zeros));
}

TEST(CpuNumbers, RoundTrip) {
  std::mt19937 random(7);
  for (int i = 0; i < 300; ++i) {
    CpuSet set;
    for (auto count = random() % 50; count > 0; --count) {
      auto first = static_cast<std::uint32_t>(random() % (i < 150 ? 130 : kMaxClusterCpus));
      set.add_range(first, static_cast<std::uint32_t>(random() % 20));
    }
    EXPECT_EQ(parse_cpu_list(cpu_list(set)).value(), set);
    EXPECT_EQ(parse_cpu_mask(cpu_mask(set, 128)).value(), set);
  }
}

}  // namespace
}  // namespace gestalt
