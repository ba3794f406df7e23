#include "daemon/round_pacer.h"

#include <gtest/gtest.h>

namespace gestalt {
namespace {

using std::chrono::seconds;

// Milliseconds after some begin.
Clock::time_point at(int time) { return Clock::time_point(seconds(1000)) + milliseconds(time); }

RoundPacer after_round(int began, int ended, Clock::duration period = seconds(1)) {
  RoundPacer pacer(period);
  pacer.begin(at(began));
  pacer.end(at(ended));
  return pacer;
}

TEST(RoundPacer, RegularRoundsCountFromBeginToBegin) {
  EXPECT_EQ(after_round(0, 30).next(), at(1000));
  EXPECT_EQ(after_round(0, 2500).next(), at(2500));
}

TEST(RoundPacer, WhatHappensIsFollowedSoon) {
  auto pacer = after_round(0, 2);
  EXPECT_TRUE(pacer.note(at(400)));
  EXPECT_EQ(pacer.next(), at(420));
}

TEST(RoundPacer, TheFirstOfManyCounts) {
  auto pacer = after_round(0, 2);
  EXPECT_TRUE(pacer.note(at(400)));
  EXPECT_FALSE(pacer.note(at(410)));
  EXPECT_EQ(pacer.next(), at(420));
}

TEST(RoundPacer, RoundsRest) {
  auto quick = after_round(0, 2);
  EXPECT_TRUE(quick.note(at(3)));
  EXPECT_EQ(quick.next(), at(102));
  auto slow = after_round(0, 50);
  EXPECT_TRUE(slow.note(at(60)));
  EXPECT_EQ(slow.next(), at(550));
}

TEST(RoundPacer, NeverLaterThanThePeriod) {
  auto pacer = after_round(0, 300);
  EXPECT_FALSE(pacer.note(at(310)));
  EXPECT_EQ(pacer.next(), at(1000));
  auto short_period = after_round(0, 2, milliseconds(50));
  EXPECT_FALSE(short_period.note(at(3)));
  EXPECT_EQ(short_period.next(), at(50));
}

TEST(RoundPacer, WhatHappensDuringARoundIsForTheNext) {
  RoundPacer pacer(seconds(1));
  pacer.begin(at(0));
  (void)pacer.note(at(5));
  pacer.end(at(10));
  EXPECT_EQ(pacer.next(), at(110));
  pacer.begin(at(110));
  pacer.end(at(112));
  EXPECT_EQ(pacer.next(), at(1110));
}

// One after the other, as long as things happen.
TEST(RoundPacer, AStormLeavesTenElevenths) {
  RoundPacer pacer(seconds(60));
  int now = 0;
  int busy = 0;
  for (int round = 0; round < 100; ++round) {
    pacer.begin(at(now));
    (void)pacer.note(at(now + 1));
    now += 40;
    busy += 40;
    pacer.end(at(now));
    while (at(now) < pacer.next()) ++now;
  }
  EXPECT_LE(busy * 11, now);
}

}  // namespace
}  // namespace gestalt
