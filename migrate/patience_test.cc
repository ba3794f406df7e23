#include "migrate/patience.h"

#include <gtest/gtest.h>

#include <thread>

namespace gestalt {
namespace {

constexpr auto kPause = milliseconds(400);

TEST(Patience, TimeInWhichWeDidNotRunDoesNotCount) {
  Patience patience(milliseconds(300));
  std::this_thread::sleep_for(kPause);
  EXPECT_FALSE(patience.is_over());
  auto wait = patience.next_wait(milliseconds(5));
  EXPECT_LE(wait, milliseconds(5));
  EXPECT_GT(wait, Clock::duration::zero());
  std::this_thread::sleep_for(kPause);
  EXPECT_FALSE(patience.is_over());
}

TEST(Patience, IsOver) {
  Patience patience(milliseconds(30));
  Deadline last = deadline_in(std::chrono::seconds(20));
  while (!patience.is_over() && Clock::now() < last)
    std::this_thread::sleep_for(patience.next_wait(milliseconds(5)));
  EXPECT_LT(Clock::now(), last);
}

TEST(Patience, ADeadlineIsOne) {
  EXPECT_FALSE(Patience(deadline_in(std::chrono::hours(1))).is_over());
  Patience patience(Clock::now());
  std::this_thread::sleep_for(kPause);
  EXPECT_TRUE(patience.is_over());
  EXPECT_GT(patience.next_wait(milliseconds(5)), Clock::duration::zero());
}

}  // namespace
}  // namespace gestalt
