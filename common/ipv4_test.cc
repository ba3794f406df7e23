#include "common/ipv4.h"

#include <gtest/gtest.h>

namespace gestalt {
namespace {

TEST(Ipv4, Text) {
  EXPECT_EQ(ipv4_text(0x0a4d0001), "10.77.0.1");
  EXPECT_EQ(ipv4_text(0xffffffff), "255.255.255.255");
}

TEST(Ipv4, Ranges) {
  auto range = parse_ipv4_range("10.77.0.128/25");
  ASSERT_TRUE(range);
  EXPECT_EQ(ipv4_text(range->first), "10.77.0.129");
  EXPECT_EQ(range->count, 126U);
  EXPECT_EQ(parse_ipv4_range("10.0.0.0/8")->count, (1U << 24) - 2);
  EXPECT_EQ(parse_ipv4_range("10.0.0.6/31")->count, 2U);
  EXPECT_EQ(parse_ipv4_range("10.0.0.7/32")->first, 0x0a000007U);
  EXPECT_EQ(parse_ipv4_range("")->count, 0U);
}

TEST(Ipv4, NotRanges) {
  for (const char* text : {"10.77.0.0", "10.77.0.0/", "10.77.0.0/7", "10.77.0.0/33", "10.77.0/24",
                           "/24", "10.77.0.1/24", "fe80::/64", "10.77.0.0/24x", "x", " "})
    EXPECT_FALSE(parse_ipv4_range(text)) << text;
}

}  // namespace
}  // namespace gestalt
