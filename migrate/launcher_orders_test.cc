#include "migrate/launcher_orders.h"

#include <gtest/gtest.h>

namespace gestalt {
namespace {

TEST(LauncherOrders, AProgramComesAsItWasSent) {
  LaunchRequest sent{.argv = {"sh", "", "-c"}, .environment = {"A=1", "B="}};
  LaunchRequest got;
  ASSERT_TRUE(parse_launch_text(launch_text(sent), got));
  EXPECT_EQ(got.argv, sent.argv);
  EXPECT_EQ(got.environment, sent.environment);
}

TEST(LauncherOrders, NonsenseIsRefused) {
  for (std::string text : {std::string(), std::string("1"), std::string("x\0", 2),
                           std::string("2\0a\0", 4), std::string("1\0a\0b", 5)}) {
    LaunchRequest got;
    auto parsed = parse_launch_text(text, got);
    ASSERT_FALSE(parsed) << text;
    EXPECT_EQ(parsed.error().code, ErrorCode::kProtocol);
  }
}

TEST(LauncherOrders, TooMuchIsNotSent) {
  LaunchRequest request{.argv = {std::string(kMaxLaunchText, 'x')}};
  auto sent = order_launch(-1, request, deadline_in(std::chrono::seconds(1)));
  ASSERT_FALSE(sent);
  EXPECT_EQ(sent.error().code, ErrorCode::kInvalidArgument);
}

}  // namespace
}  // namespace gestalt
