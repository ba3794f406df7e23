#include "daemon/job_table.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>

#include "common/format.h"
#include "daemon/sqlite_store.h"

namespace gestalt {
namespace {

using std::chrono::seconds;

class Jobs : public testing::Test {
 protected:
  void SetUp() override {
    path_ = std::filesystem::temp_directory_path() / formatted("jobs-{}", ::getpid());
    std::filesystem::remove_all(path_);
    std::filesystem::create_directory(path_);
    auto store = open_sqlite_store((path_ / "db").string());
    ASSERT_TRUE(store) << store.error().text();
    store_ = std::move(*store);
  }
  void TearDown() override {
    store_.reset();
    std::filesystem::remove_all(path_);
  }
  std::filesystem::path path_;
  std::unique_ptr<Store> store_;
  Clock::time_point now_ = Clock::now();
};

TEST_F(Jobs, RoutesByOwnerAndNode) {
  JobTable jobs(*store_, seconds(10));
  auto job = jobs.create({.node = "a", .uid = 5}, 3);
  ASSERT_TRUE(job);
  auto id = (*job)->record.job_id;
  EXPECT_EQ(jobs.find(id), *job);
  EXPECT_EQ(jobs.owned_by(3), *job);
  EXPECT_EQ(jobs.owned_by(0), nullptr);
  EXPECT_EQ(jobs.running_on("a").size(), 1U);
  ASSERT_TRUE(jobs.started(**job, 100, 99));
  jobs.moved(**job, "b", 100, Clock::now());
  EXPECT_TRUE(jobs.running_on("a").empty());
  EXPECT_EQ(jobs.running_on("b").size(), 1U);
  ASSERT_TRUE(jobs.exited(**job, 256, now_));
  EXPECT_TRUE(jobs.running_on("b").empty());
  EXPECT_EQ(jobs.find(id)->info().wait_status(), 256U);
}

TEST_F(Jobs, WhatIsToHaveADeputyWaitsForItOnceItHasMoved) {
  {
    JobTable jobs(*store_, seconds(10));
    auto job = jobs.create({.node = "leader", .root_pid = 100, .has_deputy = true}, 0);
    ASSERT_TRUE(job);
    (*job)->record.session_pid = 7;
    (*job)->record.group_pid = 8;
    ASSERT_TRUE(jobs.started(**job, 100, 99));
    EXPECT_EQ(jobs.with_deputy(100), *job);
    EXPECT_EQ(jobs.with_deputy(99), nullptr);
    EXPECT_TRUE(jobs.tick(now_ + std::chrono::hours(1)).empty());  // it may take its time
    jobs.moved(**job, "a", 100, now_);
    EXPECT_TRUE(jobs.tick(now_ + seconds(9)).empty());
    EXPECT_EQ(jobs.tick(now_ + seconds(11)).size(), 1U);
    // Given up while its record was being read again, but it has moved after all.
    jobs.moved(**job, "b", 100, now_ + seconds(20));
    EXPECT_FALSE((*job)->abandoned);
    EXPECT_TRUE(jobs.tick(now_ + seconds(29)).empty());
  }
  JobTable jobs(*store_, seconds(10));
  ASSERT_TRUE(jobs.load(now_));
  ASSERT_NE(jobs.with_deputy(100), nullptr);
  EXPECT_EQ(jobs.with_deputy(100)->info().session_pid(), 7U);
  EXPECT_EQ(jobs.with_deputy(100)->info().group_pid(), 8U);
  ASSERT_TRUE(jobs.exited(*jobs.with_deputy(100), 0, now_));
  EXPECT_EQ(jobs.with_deputy(100), nullptr);
}

TEST_F(Jobs, SurviveARestartAndWaitForTheirClient) {
  std::uint64_t id = 0;
  {
    JobTable jobs(*store_, seconds(10));
    auto job = jobs.create({.node = "a"}, 3);
    ASSERT_TRUE(job && jobs.started(**job, 100, 99));
    id = (*job)->record.job_id;
  }
  JobTable jobs(*store_, seconds(10));
  ASSERT_TRUE(jobs.load(now_));
  Job* job = jobs.find(id);
  ASSERT_NE(job, nullptr);
  EXPECT_EQ(job->owner, 0U);
  EXPECT_EQ(job->record.root_pid, 100U);
  EXPECT_TRUE(jobs.tick(now_ + seconds(9)).empty());
  auto abandoned = jobs.tick(now_ + seconds(10));
  ASSERT_EQ(abandoned.size(), 1U);
  EXPECT_TRUE(abandoned[0]->abandoned);
  EXPECT_TRUE(jobs.tick(now_ + seconds(11)).empty());  // once
}

TEST_F(Jobs, AnAttachedJobIsNotAbandoned) {
  JobTable jobs(*store_, seconds(10));
  auto job = jobs.create({.node = "a"}, 3);
  jobs.detach(**job, now_);
  jobs.attach(**job, 4);
  EXPECT_TRUE(jobs.tick(now_ + seconds(60)).empty());
}

TEST_F(Jobs, AnEndedJobIsForgottenWhenNobodyFetchesIt) {
  JobTable jobs(*store_, seconds(10));
  auto job = jobs.create({.node = "a"}, 3);
  auto id = (*job)->record.job_id;
  jobs.detach(**job, now_);
  ASSERT_TRUE(jobs.exited(**job, 0, now_));
  EXPECT_TRUE(jobs.tick(now_ + seconds(9)).empty());
  EXPECT_NE(jobs.find(id), nullptr);
  EXPECT_TRUE(jobs.tick(now_ + seconds(10)).empty());
  EXPECT_EQ(jobs.find(id), nullptr);
  EXPECT_FALSE(*store_->find_job(id));
}

}  // namespace
}  // namespace gestalt
