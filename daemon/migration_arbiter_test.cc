#include "daemon/migration_arbiter.h"

#include <gmock/gmock.h>

#include "daemon/migration_arbiter_fixture.h"

namespace gestalt {
namespace {

TEST_F(Arbiter, GoesThroughToTheEnd) {
  auto id = begin();
  EXPECT_TRUE(has(Kind::kPrepare, "b"));
  EXPECT_EQ(on_disk(id), Verdict::kUndecided);
  ready(id);
  EXPECT_TRUE(has(Kind::kStartOutgoing, "a"));
  ask(id);
  EXPECT_EQ(on_disk(id), Verdict::kGranted);
  EXPECT_TRUE(told("a", Verdict::kGranted) && told("b", Verdict::kGranted));
  outcome(id, Outcome::DESTINATION, Outcome::RESUMED);
  EXPECT_EQ(on_disk(id), Verdict::kCompleted);
  EXPECT_TRUE(told("a", Verdict::kCompleted) && told("b", Verdict::kCompleted));
  ASSERT_TRUE(has(Kind::kJobMoved, "b"));
  EXPECT_EQ((*store_->find_job(7))->node, "b");
  EXPECT_FALSE(has(Kind::kReply));
  EXPECT_NE(arbiter_->of_job(7), nullptr);
  outcome(id, Outcome::SOURCE, Outcome::DONE);
  ASSERT_TRUE(has(Kind::kReply));
  EXPECT_FALSE(find(Kind::kReply)->error);
  EXPECT_EQ(arbiter_->active(), 0U);
}

TEST_F(Arbiter, RefusesASecondMigrationOfAJobAndTooMany) {
  begin();
  ArbiterActions ignored;
  auto again = arbiter_->begin({.job_id = 7, .source = "a", .destination = "c"}, now_, ignored);
  ASSERT_FALSE(again);
  EXPECT_EQ(again.error().code, ErrorCode::kBusy);
  begin(8);
  auto third = arbiter_->begin({.job_id = 9, .source = "a", .destination = "c"}, now_, ignored);
  ASSERT_FALSE(third);
  EXPECT_THAT(third.error().remedy, testing::HasSubstr("max_concurrent"));
}

TEST_F(Arbiter, AFailedPreparationEndsItAtOnce) {
  auto id = begin();
  actions_ = arbiter_->incoming_ready(id, fail(ErrorCode::kTimeout, "no answer"), now_);
  EXPECT_EQ(on_disk(id), Verdict::kDenied);
  EXPECT_TRUE(has(Kind::kCancel, "b"));
  EXPECT_FALSE(has(Kind::kVerdict, "a"));  // the source knows of nothing
  EXPECT_TRUE(find(Kind::kReply)->error);
  EXPECT_EQ(arbiter_->active(), 0U);
}

TEST_F(Arbiter, AFailureOfEitherEndBeforeTheGrantDenies) {
  for (auto role : {Outcome::SOURCE, Outcome::DESTINATION}) {
    auto id = begin();
    ready(id);
    outcome(id, role, Outcome::FAILED);
    EXPECT_EQ(on_disk(id), Verdict::kDenied);
    EXPECT_TRUE(has(Kind::kCancel, "b"));
    if (role == Outcome::DESTINATION) {
      EXPECT_FALSE(has(Kind::kReply));
      outcome(id, Outcome::SOURCE, Outcome::FAILED, wire::ERROR_GONE,
              "cancelled");  // it has thawed
    }
    ASSERT_TRUE(has(Kind::kReply));
    EXPECT_EQ(find(Kind::kReply)->error->message, "broke");
    EXPECT_EQ(arbiter_->active(), 0U);
    ask(id);  // too late
    EXPECT_TRUE(told("a", Verdict::kDenied));
    EXPECT_EQ(on_disk(id), Verdict::kDenied);
  }
}

TEST_F(Arbiter, TheReasonIsReportedNotTheSymptom) {
  auto id = begin();
  ready(id);
  outcome(id, Outcome::DESTINATION, Outcome::FAILED, wire::ERROR_UNAVAILABLE, "the peer is gone");
  EXPECT_EQ(on_disk(id), Verdict::kDenied);
  EXPECT_FALSE(has(Kind::kReply));
  outcome(id, Outcome::SOURCE, Outcome::FAILED, wire::ERROR_BLOCKED, "it holds a lock");
  ASSERT_TRUE(has(Kind::kReply));
  EXPECT_EQ(find(Kind::kReply)->error->code, ErrorCode::kBlocked);
  EXPECT_EQ(arbiter_->active(), 0U);

  id = begin();
  ready(id);
  outcome(id, Outcome::SOURCE, Outcome::FAILED, wire::ERROR_UNAVAILABLE, "the peer is gone");
  EXPECT_FALSE(has(Kind::kReply));
  actions_ = arbiter_->tick(now_ + seconds(1));
  ASSERT_TRUE(has(Kind::kReply));
  EXPECT_EQ(find(Kind::kReply)->error->message, "the peer is gone");
}

TEST_F(Arbiter, ADestinationThatIsNotOnlineIsDenied) {
  auto id = begin();
  ready(id);
  ask(id, false);
  EXPECT_EQ(on_disk(id), Verdict::kDenied);
  EXPECT_TRUE(told("a", Verdict::kDenied));
}

TEST_F(Arbiter, OnlyTheSourceMayAsk) {
  auto id = begin();
  ready(id);
  actions_ = arbiter_->ask(id, "b", true, now_);
  EXPECT_EQ(on_disk(id), Verdict::kUndecided);
  EXPECT_TRUE(actions_.empty());
}

TEST_F(Arbiter, ATimeoutDeniesBeforeTheGrantOnly) {
  auto id = begin();
  ready(id);
  actions_ = arbiter_->tick(now_ + seconds(61));
  EXPECT_EQ(on_disk(id), Verdict::kDenied);
  EXPECT_TRUE(has(Kind::kCancel, "a"));
  actions_ = arbiter_->tick(now_ + seconds(67));  // the source never says that it has thawed
  ASSERT_TRUE(has(Kind::kReply));
  EXPECT_EQ(find(Kind::kReply)->error->code, ErrorCode::kTimeout);
  auto other = granted();
  actions_ = arbiter_->tick(now_ + seconds(3600));
  EXPECT_EQ(on_disk(other), Verdict::kGranted);
}

TEST_F(Arbiter, AfterTheGrantADestinationThatFailsIsRolledBack) {
  auto id = granted();
  outcome(id, Outcome::DESTINATION, Outcome::FAILED);
  EXPECT_EQ(on_disk(id), Verdict::kRolledBack);
  EXPECT_TRUE(told("a", Verdict::kRolledBack) && told("b", Verdict::kRolledBack));
  EXPECT_FALSE(has(Kind::kSourceExited));
  EXPECT_FALSE(has(Kind::kReply));
  outcome(id, Outcome::SOURCE, Outcome::FAILED, wire::ERROR_GONE, "rolled back");  // it has thawed
  ASSERT_TRUE(has(Kind::kReply));
  EXPECT_EQ(find(Kind::kReply)->error->message, "broke");
}

TEST_F(Arbiter, ADestinationNodeThatFailedComesBackTooLate) {
  auto id = granted();
  actions_ = arbiter_->node_failed("b", now_);
  EXPECT_EQ(on_disk(id), Verdict::kRolledBack);
  EXPECT_TRUE(told("a", Verdict::kRolledBack));
  Outcome pending;
  pending.set_migration_id(id);
  pending.set_job_id(7);
  pending.set_role(Outcome::DESTINATION);
  pending.set_state(Outcome::RESUMED);
  actions_ = arbiter_->node_connected("b", {pending}, now_);
  EXPECT_TRUE(told("b", Verdict::kRolledBack));
  EXPECT_EQ((*store_->find_job(7))->node, "a");
}

TEST_F(Arbiter, TheSourceMayDieAfterTheGrant) {
  auto id = granted();
  actions_ = arbiter_->node_failed("a", now_);
  EXPECT_EQ(on_disk(id), Verdict::kGranted);
  outcome(id, Outcome::DESTINATION, Outcome::RESUMED);
  EXPECT_EQ(on_disk(id), Verdict::kCompleted);
  EXPECT_TRUE(has(Kind::kJobMoved, "b"));
  EXPECT_FALSE(find(Kind::kReply)->error);
  EXPECT_EQ(arbiter_->active(), 0U);
}

TEST_F(Arbiter, BothEndsGoneIsTheEndOfTheJob) {
  granted();
  actions_ = arbiter_->node_failed("a", now_);
  actions_ = arbiter_->node_failed("b", now_);
  EXPECT_TRUE(has(Kind::kSourceExited, "a"));
}

TEST_F(Arbiter, TheSourceNodeFailingBeforeTheGrantDenies) {
  auto id = begin();
  ready(id);
  actions_ = arbiter_->node_failed("a", now_);
  EXPECT_EQ(on_disk(id), Verdict::kDenied);
  EXPECT_TRUE(has(Kind::kCancel, "b"));
  EXPECT_EQ(arbiter_->of_job(7), nullptr);
}

TEST_F(Arbiter, TheEndOfAFrozenCopyIsNotTheEndOfTheJob) {
  auto id = begin();
  ready(id);
  bool moved_on = true;
  actions_ = arbiter_->copy_ended(7, "a", now_, moved_on);
  EXPECT_FALSE(moved_on);
  EXPECT_EQ(on_disk(id), Verdict::kDenied);
  granted();
  actions_ = arbiter_->copy_ended(7, "a", now_, moved_on);
  EXPECT_TRUE(moved_on);
  actions_ = arbiter_->copy_ended(7, "b", now_, moved_on);
  EXPECT_TRUE(moved_on);  // not resumed yet: an outcome will follow
}

TEST_F(Arbiter, ALeaderThatRestartsDeniesTheUndecided) {
  auto id = begin();
  ready(id);
  restart();
  EXPECT_EQ(on_disk(id), Verdict::kDenied);
  Outcome pending;
  pending.set_migration_id(id);
  pending.set_role(Outcome::SOURCE);
  actions_ = arbiter_->node_connected("a", {pending}, now_);
  EXPECT_TRUE(told("a", Verdict::kDenied));
  ask(id);
  EXPECT_TRUE(told("a", Verdict::kDenied));
}

TEST_F(Arbiter, ALeaderThatRestartsHearsHowAGrantedOneEnded) {
  auto id = granted();
  restart();
  EXPECT_NE(arbiter_->of_job(7), nullptr);
  Outcome resumed;
  resumed.set_migration_id(id);
  resumed.set_job_id(7);
  resumed.set_role(Outcome::DESTINATION);
  resumed.set_state(Outcome::RESUMED);
  resumed.set_pid(100);
  actions_ = arbiter_->node_connected("b", {resumed}, now_);
  EXPECT_EQ(on_disk(id), Verdict::kCompleted);
  EXPECT_TRUE(has(Kind::kJobMoved, "b"));
  actions_ = arbiter_->node_connected("a", {}, now_);
  EXPECT_TRUE(told("a", Verdict::kCompleted));
}

TEST_F(Arbiter, ADestinationThatHasLostAGrantedOneIsRolledBack) {
  auto id = granted();
  restart();
  actions_ = arbiter_->node_connected("b", {}, now_);
  EXPECT_EQ(on_disk(id), Verdict::kRolledBack);
}

TEST_F(Arbiter, ANodeThatBelongsToNoEndLearnsNothing) {
  auto id = granted();
  Outcome pending;
  pending.set_migration_id(id);
  pending.set_role(Outcome::DESTINATION);
  pending.set_state(Outcome::RESUMED);
  actions_ = arbiter_->outcome(pending, "c", now_);
  EXPECT_TRUE(actions_.empty());
  EXPECT_EQ(on_disk(id), Verdict::kGranted);
}

TEST_F(Arbiter, LateSignalsGoToTheNewNode) {
  auto id = granted();
  outcome(id, Outcome::DESTINATION, Outcome::RESUMED);
  Outcome done;
  done.set_migration_id(id);
  done.set_role(Outcome::SOURCE);
  done.set_state(Outcome::DONE);
  done.add_late_signals()->set_signal(15);
  actions_ = arbiter_->outcome(done, "a", now_);
  ASSERT_TRUE(has(Kind::kLateSignals, "b"));
  EXPECT_EQ(find(Kind::kLateSignals)->late_signals.at(0).signal(), 15U);
}

TEST_F(Arbiter, ASourceThatDiesAfterTheCommitDelaysNothing) {
  auto id = granted();
  outcome(id, Outcome::DESTINATION, Outcome::RESUMED);
  bool moved_on = false;
  actions_ = arbiter_->copy_ended(7, "a", now_, moved_on);
  EXPECT_TRUE(moved_on);
  ASSERT_TRUE(has(Kind::kReply));
  EXPECT_FALSE(find(Kind::kReply)->error);
  EXPECT_EQ(arbiter_->active(), 0U);
}

TEST_F(Arbiter, ACompletedOneIsReportedEvenIfTheSourceNeverCleansUp) {
  auto id = granted();
  outcome(id, Outcome::DESTINATION, Outcome::RESUMED);
  actions_ = arbiter_->tick(now_ + seconds(31));
  ASSERT_TRUE(has(Kind::kReply));
  EXPECT_FALSE(find(Kind::kReply)->error);
}

}  // namespace
}  // namespace gestalt
