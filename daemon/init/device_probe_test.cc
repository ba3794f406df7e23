#include "daemon/init/device_probe.h"

#include <gtest/gtest.h>

namespace gestalt {
namespace {

class DeviceProbeTest : public ::testing::Test {
 protected:
  Result<pid_t> start() {
    ++starts_;
    if (fail_) return fail(ErrorCode::kSystem, "no processes left");
    return 100 + starts_;
  }
  pid_t child() const { return 100 + starts_; }

  int starts_ = 0;
  bool fail_ = false;
  bool work_ = true;
  DeviceProbe probe_{
      [this] { return start(); },
      [this](const DeviceProbe::Devices& devices) { return work_ || devices.empty(); }};
};

TEST_F(DeviceProbeTest, NothingIsTriedWhereThereIsNothing) {
  probe_.look({});
  EXPECT_EQ(starts_, 0);
}

TEST_F(DeviceProbeTest, OnceForEachChange) {
  probe_.look({"rxe0"});
  EXPECT_EQ(starts_, 1);
  probe_.ended(child());
  probe_.look({"rxe0"});
  EXPECT_EQ(starts_, 1);
  probe_.look({"rxe0", "rxe1"});
  EXPECT_EQ(starts_, 2);
  probe_.ended(child());
  probe_.look({"rxe1"});  // what is known of the other is to be forgotten
  EXPECT_EQ(starts_, 3);
}

TEST_F(DeviceProbeTest, OneAtATime) {
  probe_.look({"rxe0"});
  probe_.ended(1);  // another child
  probe_.look({"rxe1"});
  EXPECT_EQ(starts_, 1);
  probe_.ended(child());
  probe_.look({"rxe1"});
  EXPECT_EQ(starts_, 2);
}

TEST_F(DeviceProbeTest, TheOneOfTheStartCounts) {
  probe_.started(7, {"rxe0"});
  probe_.look({"rxe0", "rxe1"});
  EXPECT_EQ(starts_, 0);
  probe_.ended(7);
  probe_.look({"rxe0"});
  EXPECT_EQ(starts_, 0);
  probe_.look({"rxe0", "rxe1"});
  EXPECT_EQ(starts_, 1);
}

TEST_F(DeviceProbeTest, WhatDoesNotWorkIsTriedAgainEverMoreRarely) {
  using std::chrono::seconds;
  work_ = false;
  auto now = Clock::now();
  probe_.look({"rxe0"}, now);
  probe_.ended(child());
  // A look each five seconds: how long after it began was each?
  std::vector<long> at;
  for (seconds after{5}; after <= seconds(12'000); after += seconds(5)) {
    const int before = starts_;
    probe_.look({"rxe0"}, now + after);
    if (starts_ == before) continue;
    at.push_back(after.count());
    probe_.ended(child());
  }
  EXPECT_EQ(at, (std::vector<long>{60, 180, 420, 900, 1860, 3780, 7380, 10980}));
  work_ = true;
  const int before = starts_;
  probe_.look({"rxe0"}, now + seconds(20'000));
  EXPECT_EQ(starts_, before);
  work_ = false;
  probe_.look({"rxe0", "rxe1"}, now + seconds(20'001));
  EXPECT_EQ(starts_, before + 1);
  probe_.ended(child());
  probe_.look({"rxe0", "rxe1"}, now + seconds(20'062));
  EXPECT_EQ(starts_, before + 2) << "others: from the beginning";
}

TEST_F(DeviceProbeTest, AChildThatCannotBeStartedIsNotTriedForEver) {
  fail_ = true;
  probe_.look({"rxe0"});
  probe_.look({"rxe0"});
  EXPECT_EQ(starts_, 1);
  fail_ = false;
  probe_.look({"rxe0", "rxe1"});
  EXPECT_EQ(starts_, 2);
}

}  // namespace
}  // namespace gestalt
