#include "daemon/membership.h"

#include <gtest/gtest.h>

#include "common/format.h"

namespace gestalt {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;

// Transitions as text: "n1 joining->online".
std::string text(const Transitions& transitions) {
  std::string out;
  for (const auto& t : transitions) {
    EXPECT_FALSE(t.why.empty());
    out += formatted("{}{} {}->{}", out.empty() ? "" : ", ", t.node, to_string(t.from),
                     to_string(t.to));
  }
  return out;
}

class MembershipTest : public testing::Test {
 protected:
  Admission hello(const std::string& boot = "boot1", const std::string& name = "n1") {
    auto admission = membership_.hello(name, boot, now_);
    EXPECT_TRUE(admission) << admission.error().text();
    return admission.value_or(Admission{});
  }
  std::string beat(const Admission& admission) {
    return text(membership_.heartbeat("n1", admission.connection, {.cpus = 2}, now_));
  }
  // Time passes in ticks of half a second, as the leader's timer makes them.
  std::string wait(Clock::duration duration) {
    Transitions out;
    for (auto end = now_ + duration; now_ < end;) {
      now_ += milliseconds(500);
      for (auto& t : membership_.tick(now_)) out.push_back(t);
    }
    return text(out);
  }
  [[nodiscard]] NodeState state() const { return membership_.find("n1")->state; }

  Clock::time_point now_{seconds(1000)};
  Membership membership_{seconds(3), seconds(5)};
};

TEST_F(MembershipTest, JoinsWithItsFirstHeartbeat) {
  auto admission = hello();
  EXPECT_EQ(text(admission.transitions), "n1 offline->joining");
  EXPECT_FALSE(membership_.find("n1")->usable());
  EXPECT_EQ(beat(admission), "n1 joining->online");
  EXPECT_TRUE(membership_.find("n1")->usable());
  EXPECT_EQ(membership_.find("n1")->load.cpus, 2);
  EXPECT_EQ(beat(admission), "");
  EXPECT_EQ(membership_.find("n2"), nullptr);
}

TEST_F(MembershipTest, SilenceSuspectsThenFails) {
  auto admission = hello();
  beat(admission);
  EXPECT_EQ(wait(milliseconds(2500)), "");
  EXPECT_EQ(wait(milliseconds(500)), "n1 online->suspect");
  EXPECT_EQ(wait(milliseconds(1500)), "");
  EXPECT_EQ(wait(milliseconds(500)), "n1 suspect->failed");
  EXPECT_EQ(wait(seconds(60)), "");
  // A failed node's heartbeat does not bring it back: it must say hello.
  EXPECT_EQ(beat(admission), "");
  EXPECT_EQ(state(), NodeState::kFailed);
  EXPECT_FALSE(membership_.find("n1")->connected);
  auto again = hello();
  EXPECT_EQ(text(again.transitions), "n1 failed->joining");
  EXPECT_EQ(beat(again), "n1 joining->online");
}

TEST_F(MembershipTest, HeardAgainInTime) {
  auto admission = hello();
  beat(admission);
  EXPECT_EQ(wait(seconds(4)), "n1 online->suspect");
  EXPECT_EQ(beat(admission), "n1 suspect->online");
  EXPECT_EQ(wait(milliseconds(2500)), "");
}

TEST_F(MembershipTest, AJoiningNodeMayFailToo) {
  (void)hello();
  EXPECT_EQ(wait(seconds(6)), "n1 joining->suspect, n1 suspect->failed");
}

TEST_F(MembershipTest, DisconnectAloneFailsNobody) {
  auto admission = hello();
  beat(admission);
  membership_.disconnect("n1", admission.connection);
  EXPECT_EQ(state(), NodeState::kOnline);
  EXPECT_FALSE(membership_.find("n1")->usable());
  EXPECT_EQ(wait(milliseconds(2500)), "");
  auto again = hello();
  EXPECT_EQ(text(again.transitions), "");
  EXPECT_TRUE(membership_.find("n1")->usable());
}

TEST_F(MembershipTest, SameBootReplacesTheConnectionAtOnce) {
  auto old = hello();
  beat(old);
  auto fresh = hello();
  EXPECT_NE(fresh.connection, old.connection);
  EXPECT_EQ(text(fresh.transitions), "");
  // The old connection's end, late heartbeats and goodbye do no harm.
  membership_.disconnect("n1", old.connection);
  EXPECT_TRUE(membership_.find("n1")->connected);
  EXPECT_EQ(text(membership_.goodbye("n1", old.connection)), "");
  now_ += seconds(1);
  EXPECT_EQ(beat(old), "");
  EXPECT_EQ(membership_.find("n1")->last_heard, now_ - seconds(1));
}

TEST_F(MembershipTest, AnotherMachineOfTheSameNameIsRefused) {
  auto admission = hello("boot1");
  beat(admission);
  wait(seconds(2));
  auto refused = membership_.hello("n1", "boot2", now_);
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().code, ErrorCode::kBusy);
  EXPECT_NE(refused.error().remedy.find("another name"), std::string::npos);
  EXPECT_EQ(membership_.find("n1")->boot_id, "boot1");
  // Trying does not prolong the wait.
  wait(seconds(1));
  auto rebooted = hello("boot2");
  EXPECT_EQ(text(rebooted.transitions), "n1 suspect->failed, n1 failed->joining");
  EXPECT_EQ(beat(rebooted), "n1 joining->online");
}

TEST_F(MembershipTest, RebootBeforeTheNextTick) {
  beat(hello("boot1"));
  now_ += seconds(4);
  EXPECT_EQ(text(hello("boot2").transitions), "n1 online->failed, n1 failed->joining");
}

TEST_F(MembershipTest, SuspectReconnects) {
  beat(hello());
  wait(seconds(4));
  EXPECT_EQ(text(hello().transitions), "n1 suspect->online");
}

TEST_F(MembershipTest, Goodbye) {
  auto admission = hello("boot1");
  beat(admission);
  EXPECT_EQ(text(membership_.goodbye("n1", admission.connection)), "n1 online->offline");
  EXPECT_EQ(wait(seconds(60)), "");
  EXPECT_EQ(beat(admission), "");
  EXPECT_EQ(text(hello("boot2").transitions), "n1 offline->joining");
  EXPECT_EQ(text(membership_.goodbye("nobody", 1)), "");
}

TEST_F(MembershipTest, DrainingPersists) {
  EXPECT_FALSE(membership_.set_draining("n1", true));
  auto admission = hello();
  EXPECT_EQ(text(*membership_.set_draining("n1", true)), "");
  EXPECT_EQ(beat(admission), "n1 joining->draining");
  EXPECT_FALSE(membership_.find("n1")->usable());
  EXPECT_EQ(wait(seconds(4)), "n1 draining->suspect");
  EXPECT_EQ(beat(admission), "n1 suspect->draining");
  EXPECT_EQ(wait(seconds(5)), "n1 draining->suspect, n1 suspect->failed");
  EXPECT_EQ(beat(hello()), "n1 joining->draining");
  EXPECT_EQ(text(*membership_.set_draining("n1", true)), "");
  EXPECT_EQ(text(*membership_.set_draining("n1", false)), "n1 draining->online");
}

TEST_F(MembershipTest, LeaderRestartGivesGrace) {
  membership_.restore("n1", true, false, now_);
  membership_.restore("n2", false, true, now_);
  EXPECT_EQ(state(), NodeState::kSuspect);
  EXPECT_EQ(membership_.find("n2")->state, NodeState::kOffline);
  EXPECT_EQ(wait(milliseconds(4500)), "");
  auto admission = hello("any boot");
  EXPECT_EQ(text(admission.transitions), "n1 suspect->joining");
  EXPECT_EQ(beat(admission), "n1 joining->draining");
  EXPECT_FALSE(membership_.hello("n1", "another boot", now_));
}

TEST_F(MembershipTest, LeaderRestartAndTheNodeIsGone) {
  membership_.restore("n1", false, false, now_);
  EXPECT_EQ(wait(milliseconds(4500)), "");
  EXPECT_EQ(wait(milliseconds(500)), "n1 suspect->failed");
}

TEST_F(MembershipTest, AStoppedLeaderBlamesNobody) {
  auto admission = hello();
  beat(admission);
  wait(seconds(1));
  now_ += seconds(100);
  EXPECT_EQ(text(membership_.tick(now_)), "");
  EXPECT_EQ(state(), NodeState::kOnline);
  EXPECT_EQ(beat(admission), "");
  EXPECT_EQ(wait(seconds(5)), "n1 online->suspect, n1 suspect->failed");
}

TEST_F(MembershipTest, NodesAreIndependent) {
  auto first = hello("boot", "n1");
  auto second = hello("boot", "n2");
  beat(first);
  EXPECT_EQ(text(membership_.heartbeat("n2", first.connection, {}, now_)), "");
  EXPECT_EQ(text(membership_.heartbeat("n2", second.connection, {}, now_)), "n2 joining->online");
  membership_.remove("n1");
  EXPECT_EQ(membership_.find("n1"), nullptr);
  EXPECT_EQ(beat(first), "");
  EXPECT_EQ(membership_.members().size(), 1U);
}

}  // namespace
}  // namespace gestalt
