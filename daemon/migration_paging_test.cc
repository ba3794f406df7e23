// The arbiter after the commit: pages are still at the source.
#include <gmock/gmock.h>

#include "daemon/migration_arbiter_fixture.h"

namespace gestalt {
namespace {

using testing::HasSubstr;

class Paging : public Arbiter {
 protected:
  std::uint64_t completed(std::uint64_t job_id = 7, const std::string& mode = "hybrid",
                          bool answer_when_resumed = false) {
    auto id = begin(job_id, mode, answer_when_resumed);
    ready(id);
    ask(id);
    outcome(id, Outcome::DESTINATION, Outcome::RESUMED);
    EXPECT_EQ(on_disk(id), Verdict::kCompleted);
    return id;
  }
  static Outcome from_source(std::uint64_t id, Outcome::State state) {
    Outcome message;
    message.set_migration_id(id);
    message.set_job_id(7);
    message.set_role(Outcome::SOURCE);
    message.set_state(state);
    return message;
  }
  static Outcome served(std::uint64_t id, bool with_signal = false) {
    auto message = from_source(id, Outcome::SERVING);
    message.mutable_stats()->set_freeze_seconds(0.25);
    if (with_signal) message.add_late_signals()->set_signal(15);
    return message;
  }
  std::uint64_t paging(std::uint64_t job_id = 7, bool answer_when_resumed = false) {
    auto id = completed(job_id, "hybrid", answer_when_resumed);
    actions_ = arbiter_->outcome(served(id), "a", now_);
    return id;
  }
  void done(std::uint64_t id) {
    auto message = from_source(id, Outcome::DONE);
    message.mutable_stats()->set_total_seconds(3);
    actions_ = arbiter_->outcome(message, "a", now_);
  }
  void copy_ended(const std::string& node, bool expect_moved_on) {
    bool moved_on = !expect_moved_on;
    actions_ = arbiter_->copy_ended(7, node, now_, moved_on);
    EXPECT_EQ(moved_on, expect_moved_on);
  }
  [[nodiscard]] wire::MigrationStats listed(std::uint64_t id) const {
    for (const auto& each : arbiter_->listing())
      if (each.stats.migration_id() == id) return each.stats;
    return {};
  }
};

TEST_F(Paging, RepliesWhenTheSourceIsFree) {
  auto id = completed();
  EXPECT_EQ(listed(id).state(), "migrating");
  actions_ = arbiter_->outcome(served(id), "a", now_);
  EXPECT_FALSE(has(Kind::kReply));
  EXPECT_EQ(listed(id).state(), "paging");
  EXPECT_EQ(listed(id).freeze_seconds(), 0.25);
  actions_ = arbiter_->tick(now_ + std::chrono::hours(24));  // it may take its time
  EXPECT_TRUE(actions_.empty());
  done(id);
  ASSERT_TRUE(has(Kind::kReply));
  const auto& reply = *find(Kind::kReply);
  EXPECT_FALSE(reply.error);
  EXPECT_EQ(reply.stats.total_seconds(), 3);
  EXPECT_EQ(reply.stats.state(), "done");
  EXPECT_EQ(reply.stats.mode(), "hybrid");
  EXPECT_EQ(reply.stats.command(), "sleep 9");
  EXPECT_EQ(arbiter_->active(), 0U);
  EXPECT_EQ(listed(id).state(), "done");
  EXPECT_EQ(arbiter_->listing().at(0).uid, 1000U);
}

TEST_F(Paging, RepliesWhenResumedIfAsked) {
  auto id = paging(7, true);
  ASSERT_TRUE(has(Kind::kReply));
  EXPECT_EQ(find(Kind::kReply)->stats.state(), "paging");
  EXPECT_EQ(find(Kind::kReply)->stats.freeze_seconds(), 0.25);
  done(id);
  EXPECT_FALSE(has(Kind::kReply));
  EXPECT_EQ(listed(id).state(), "done");
  id = begin(7, "eager", true);  // one that never serves answers at DONE
  ready(id);
  ask(id);
  outcome(id, Outcome::DESTINATION, Outcome::RESUMED);
  EXPECT_FALSE(has(Kind::kReply));
  done(id);
  EXPECT_TRUE(has(Kind::kReply));
}

TEST_F(Paging, LateSignalsAreSentOnce) {
  auto id = completed();
  actions_ = arbiter_->outcome(served(id, true), "a", now_);
  ASSERT_TRUE(has(Kind::kLateSignals, "b"));
  actions_ = arbiter_->node_connected("a", {served(id, true)}, now_);
  EXPECT_FALSE(has(Kind::kLateSignals));
  auto end = served(id, true);
  end.set_state(Outcome::DONE);
  actions_ = arbiter_->outcome(end, "a", now_);
  EXPECT_FALSE(has(Kind::kLateSignals));
}

TEST_F(Paging, DoesNotCountAgainstTheLimit) {
  paging(7);
  completed(8);  // this does, until its source serves
  begin(9);
  EXPECT_EQ(arbiter_->under_way(), 2U);
  EXPECT_EQ(arbiter_->active(), 3U);
  ArbiterActions ignored;
  auto again = arbiter_->begin(plan_of(10, "eager"), now_, ignored);
  ASSERT_FALSE(again);
  EXPECT_EQ(again.error().code, ErrorCode::kBusy);
}

TEST_F(Paging, TheSourceNodeFailingLosesThePages) {
  auto id = paging();
  actions_ = arbiter_->node_failed("a", now_);
  ASSERT_TRUE(has(Kind::kPagesLost, "b"));
  EXPECT_EQ(find(Kind::kPagesLost)->job_id, 7U);
  EXPECT_EQ(find(Kind::kPagesLost)->reason, "node a failed");
  ASSERT_TRUE(has(Kind::kReply));
  EXPECT_THAT(find(Kind::kReply)->error->message, HasSubstr("node a failed"));
  EXPECT_EQ(arbiter_->active(), 0U);
  EXPECT_EQ(listed(id).state(), "failed");
  EXPECT_THAT(listed(id).error(), HasSubstr("node a failed"));
  EXPECT_EQ(on_disk(id), Verdict::kCompleted);         // it did move
  actions_ = arbiter_->node_connected("b", {}, now_);  // it was away meanwhile
  EXPECT_TRUE(has(Kind::kPagesLost, "b"));
  actions_ = arbiter_->node_connected("a", {served(id)}, now_);  // too late
  EXPECT_TRUE(has(Kind::kCancel, "a"));
  EXPECT_EQ(arbiter_->active(), 0U);
}

TEST_F(Paging, TheSourcesCopyEndingLosesThePages) {
  paging();
  copy_ended("a", true);
  EXPECT_TRUE(has(Kind::kPagesLost, "b"));
  paging();
  outcome(listed(2).migration_id(), Outcome::SOURCE, Outcome::FAILED);
  EXPECT_TRUE(has(Kind::kPagesLost, "b"));
  EXPECT_THAT(find(Kind::kReply)->error->message, HasSubstr("broke"));
  paging();
  actions_ = arbiter_->node_connected("a", {}, now_);  // and knows nothing of it
  EXPECT_TRUE(has(Kind::kPagesLost, "b"));
  EXPECT_EQ(arbiter_->active(), 0U);
}

TEST_F(Paging, ASourceThatNeverServedLosesPagesOnlyWhereTheyFollow) {
  for (const char* mode : {"lazy", "post-copy", "hybrid"}) {
    completed(7, mode);
    actions_ = arbiter_->node_failed("a", now_);
    EXPECT_TRUE(has(Kind::kPagesLost, "b")) << mode;
  }
  for (const char* mode : {"eager", "pre-copy"}) {
    completed(7, mode);
    actions_ = arbiter_->node_failed("a", now_);
    EXPECT_FALSE(has(Kind::kPagesLost)) << mode;
    EXPECT_FALSE(find(Kind::kReply)->error) << mode;
  }
}

TEST_F(Paging, ASourceThatWasGoneAtTheCommitLosesThePages) {
  auto id = begin(7, "lazy");
  ready(id);
  ask(id);
  actions_ = arbiter_->node_failed("a", now_);
  EXPECT_TRUE(actions_.empty());
  outcome(id, Outcome::DESTINATION, Outcome::RESUMED);
  EXPECT_TRUE(has(Kind::kJobMoved, "b"));
  EXPECT_TRUE(has(Kind::kPagesLost, "b"));
  EXPECT_TRUE(find(Kind::kReply)->error);
}

TEST_F(Paging, NobodyWantsThePagesOfAJobThatEnded) {
  auto id = paging();
  copy_ended("b", false);
  ASSERT_TRUE(has(Kind::kCancel, "a"));
  EXPECT_THAT(find(Kind::kCancel)->reason, HasSubstr("nobody wants"));
  EXPECT_FALSE(has(Kind::kReply));
  copy_ended("b", false);  // said again
  EXPECT_FALSE(has(Kind::kCancel));
  done(id);
  EXPECT_FALSE(find(Kind::kReply)->error);
  EXPECT_EQ(listed(id).state(), "done");
}

TEST_F(Paging, TheDestinationNodeFailingFreesTheSource) {
  auto id = paging();
  actions_ = arbiter_->node_failed("b", now_);
  EXPECT_TRUE(has(Kind::kCancel, "a"));
  actions_ = arbiter_->tick(now_ + seconds(6));  // the source never says anything
  ASSERT_TRUE(has(Kind::kReply));
  EXPECT_THAT(find(Kind::kReply)->error->message, HasSubstr("node b failed"));
  EXPECT_EQ(listed(id).state(), "failed");
  EXPECT_EQ(arbiter_->active(), 0U);
}

TEST_F(Paging, AJobThatEndedBeforeTheSourceServed) {
  auto id = completed();
  copy_ended("b", false);
  EXPECT_TRUE(actions_.empty());
  actions_ = arbiter_->outcome(served(id), "a", now_);
  EXPECT_TRUE(has(Kind::kCancel, "a"));
  actions_ = arbiter_->node_failed("a", now_);  // no loss: nobody needed them
  EXPECT_FALSE(has(Kind::kPagesLost));
  EXPECT_FALSE(find(Kind::kReply)->error);
}

TEST_F(Paging, MovingAgainHurriesThePages) {
  actions_.clear();
  EXPECT_EQ(arbiter_->hurry(7, actions_), std::nullopt);
  auto id = paging();
  ArbiterActions ignored;
  EXPECT_FALSE(arbiter_->begin(plan_of(7, "eager"), now_, ignored));
  actions_.clear();
  EXPECT_EQ(arbiter_->hurry(7, actions_), id);
  EXPECT_TRUE(has(Kind::kHurry, "b"));
  actions_ = arbiter_->node_connected("b", {}, now_);
  EXPECT_TRUE(has(Kind::kHurry, "b"));
  done(id);
  ASSERT_TRUE(has(Kind::kOver));
  EXPECT_EQ(find(Kind::kOver)->migration_id, id);
  EXPECT_FALSE(find(Kind::kOver)->error);
  EXPECT_TRUE(arbiter_->begin(plan_of(7, "eager"), now_, ignored));
}

TEST_F(Paging, MovingAgainFailsWithThePages) {
  paging();
  actions_.clear();
  ASSERT_TRUE(arbiter_->hurry(7, actions_));
  actions_ = arbiter_->node_failed("a", now_);
  ASSERT_TRUE(has(Kind::kOver));
  EXPECT_THAT(find(Kind::kOver)->error->message, HasSubstr("node a failed"));
}

TEST_F(Paging, ALeaderThatRestartsTakesItUpAgain) {
  auto id = paging();
  restart();
  EXPECT_EQ(arbiter_->active(), 0U);
  arbiter_->adopt_completed({served(id)}, "a", now_);
  ASSERT_NE(arbiter_->of_job(7), nullptr);  // so the copy is not taken for a stray job
  actions_ = arbiter_->node_connected("a", {served(id, true)}, now_);
  EXPECT_TRUE(has(Kind::kLateSignals, "b"));
  EXPECT_EQ(listed(id).state(), "paging");
  EXPECT_EQ(arbiter_->under_way(), 0U);
  actions_ = arbiter_->tick(now_ + seconds(3600));
  EXPECT_TRUE(actions_.empty());
  actions_ = arbiter_->node_failed("a", now_);
  EXPECT_TRUE(has(Kind::kPagesLost, "b"));
  EXPECT_FALSE(has(Kind::kReply));  // none is owed
}

TEST_F(Paging, ALeaderThatRestartsHearsOfOneThatDoesNotServeYet) {
  auto id = completed();
  restart();
  actions_ = arbiter_->node_connected("a", {from_source(id, Outcome::PENDING)}, now_);
  EXPECT_TRUE(told("a", Verdict::kCompleted));
  EXPECT_EQ(arbiter_->active(), 1U);
  actions_ = arbiter_->outcome(served(id), "a", now_);
  EXPECT_EQ(listed(id).state(), "paging");
  done(id);
  EXPECT_EQ(arbiter_->active(), 0U);
  id = completed();
  restart();
  auto end = from_source(id, Outcome::DONE);
  end.add_late_signals()->set_signal(15);
  actions_ = arbiter_->node_connected("a", {end}, now_);
  EXPECT_TRUE(has(Kind::kLateSignals, "b"));
  EXPECT_EQ(listed(id).state(), "done");
}

TEST_F(Paging, ALeaderThatRestartsFreesASourceWhoseJobIsOver) {
  auto id = paging();
  ASSERT_TRUE(store_->upsert_job({.job_id = 7, .node = "b", .state = wire::JOB_EXITED}));
  restart();
  actions_ = arbiter_->node_connected("a", {served(id)}, now_);
  EXPECT_TRUE(has(Kind::kCancel, "a"));
  EXPECT_EQ(arbiter_->active(), 0U);
  actions_ = arbiter_->outcome(served(id), "c", now_);  // not its business, but harmless
  EXPECT_EQ(arbiter_->active(), 0U);
}

TEST_F(Paging, ALeaderThatRestartsTellsOfASourceThatDoesNotComeBack) {
  paging();
  restart();
  actions_ = arbiter_->node_connected("b", {}, now_);
  EXPECT_TRUE(actions_.empty());
  actions_ = arbiter_->node_failed("a", now_);
  EXPECT_TRUE(has(Kind::kPagesLost, "b"));
  actions_ = arbiter_->node_connected("b", {}, now_);  // it may have been away
  EXPECT_TRUE(has(Kind::kPagesLost, "b"));
  EXPECT_TRUE(arbiter_->listing().empty());  // it may well have had them all
  restart();
  actions_ = arbiter_->node_connected("a", {}, now_);  // it came back without them
  EXPECT_TRUE(has(Kind::kPagesLost, "b"));
  ASSERT_TRUE(store_->upsert_job({.job_id = 7, .node = "c"}));  // moved on since
  restart();
  actions_ = arbiter_->node_failed("a", now_);
  EXPECT_TRUE(actions_.empty());
}

TEST_F(Paging, AnEagerSourceThatNeverCleansUpIsForgotten) {
  completed(7, "eager");
  actions_ = arbiter_->tick(now_ + seconds(31));
  EXPECT_FALSE(find(Kind::kReply)->error);
  EXPECT_EQ(arbiter_->active(), 0U);
}

TEST_F(Paging, TheListingHasFailuresAndIsBounded) {
  auto id = begin();
  ready(id);
  EXPECT_EQ(listed(id).state(), "migrating");
  outcome(id, Outcome::SOURCE, Outcome::FAILED);
  EXPECT_EQ(listed(id).state(), "failed");
  EXPECT_EQ(listed(id).error(), "broke");
  MigrationHistory history;
  for (std::uint64_t each = 1; each <= MigrationHistory::kKept + 1; ++each) {
    MigrationEntry entry;
    entry.stats.set_migration_id(each);
    history.put(entry);
  }
  EXPECT_EQ(history.entries().size(), MigrationHistory::kKept);
  EXPECT_EQ(history.find(1), nullptr);
}

}  // namespace
}  // namespace gestalt
