// For tests of the migration arbiter: one with a real store, nodes a and b, jobs 7, 8 and 9.
#pragma once

#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>

#include "common/format.h"
#include "daemon/migration_arbiter.h"
#include "daemon/sqlite_store.h"

namespace gestalt {

using Kind = ArbiterAction::Kind;
using Outcome = wire::MigrationOutcome;
using std::chrono::seconds;

class Arbiter : public testing::Test {
 protected:
  void SetUp() override {
    path_ = std::filesystem::temp_directory_path() / formatted("arbiter-{}", ::getpid());
    std::filesystem::remove_all(path_);
    std::filesystem::create_directory(path_);
    open();
    for (std::uint64_t job_id : {7U, 8U, 9U})
      ASSERT_TRUE(
          store_->upsert_job({.job_id = job_id, .node = "a", .root_pid = 100, .uid = 1000}));
  }
  void TearDown() override {
    arbiter_.reset();
    store_.reset();
    std::filesystem::remove_all(path_);
  }
  void open() {
    arbiter_.reset();
    store_.reset();
    auto store = open_sqlite_store((path_ / "db").string());
    ASSERT_TRUE(store) << store.error().text();
    store_ = std::move(*store);
    arbiter_ = std::make_unique<MigrationArbiter>(*store_, 2);
  }
  // As after a crash of the leader.
  void restart() {
    open();
    ASSERT_TRUE(arbiter_->restore(now_));
  }

  static MigrationArbiter::Plan plan_of(std::uint64_t job_id, const std::string& mode) {
    MigrationArbiter::Plan plan{.job_id = job_id,
                                .pid = 100,
                                .stand_in_pid = 99,
                                .source = "a",
                                .destination = "b",
                                .secret = std::string(32, 's'),
                                .uid = 1000,
                                .command = "sleep 9"};
    plan.options.set_mode(mode);
    plan.options.set_timeout_seconds(60);
    return plan;
  }
  std::uint64_t begin(std::uint64_t job_id = 7, const std::string& mode = "eager",
                      bool answer_when_resumed = false) {
    auto plan = plan_of(job_id, mode);
    plan.answer_when_resumed = answer_when_resumed;
    actions_.clear();
    auto id = arbiter_->begin(plan, now_, actions_);
    EXPECT_TRUE(id) << id.error().text();
    return id.value_or(0);
  }
  void ready(std::uint64_t id) {
    wire::IncomingReady message;
    message.set_migration_id(id);
    message.set_address("10.0.0.2");
    message.set_port(4000);
    actions_ = arbiter_->incoming_ready(id, message, now_);
  }
  void ask(std::uint64_t id, bool online = true) {
    actions_ = arbiter_->ask(id, "a", online, now_);
  }
  void outcome(std::uint64_t id, Outcome::Role role, Outcome::State state,
               wire::ErrorCode code = wire::ERROR_INTERNAL, const std::string& text = "broke") {
    Outcome message;
    message.set_migration_id(id);
    message.set_job_id(7);
    message.set_role(role);
    message.set_state(state);
    if (state == Outcome::FAILED) {
      message.mutable_error()->set_code(code);
      message.mutable_error()->set_message(text);
    }
    actions_ = arbiter_->outcome(message, role == Outcome::SOURCE ? "a" : "b", now_);
  }
  std::uint64_t granted() {
    auto id = begin();
    ready(id);
    ask(id);
    return id;
  }
  [[nodiscard]] Verdict on_disk(std::uint64_t id) const {
    return (*store_->find_migration(id))->verdict;
  }
  // Which of these actions there are, to whom.
  [[nodiscard]] bool has(Kind kind, const std::string& node = {}) const {
    return find(kind, node) != nullptr;
  }
  [[nodiscard]] const ArbiterAction* find(Kind kind, const std::string& node = {}) const {
    auto found = std::ranges::find_if(actions_, [&](const auto& action) {
      return action.kind == kind && (node.empty() || action.node == node);
    });
    return found == actions_.end() ? nullptr : &*found;
  }
  [[nodiscard]] bool told(const std::string& node, Verdict verdict) const {
    const auto* action = find(Kind::kVerdict, node);
    return action != nullptr && action->verdict == verdict;
  }

  std::filesystem::path path_;
  std::unique_ptr<Store> store_;
  std::unique_ptr<MigrationArbiter> arbiter_;
  ArbiterActions actions_;
  Clock::time_point now_ = Clock::now();
};

}  // namespace gestalt
