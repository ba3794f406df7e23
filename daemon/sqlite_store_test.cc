#include "daemon/sqlite_store.h"

#include <gtest/gtest.h>
#include <sqlite3.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <filesystem>

#include "common/fd.h"
#include "common/format.h"

namespace gestalt {
namespace {

NodeRecord node(const std::string& name, std::uint32_t slice) {
  return {name, slice, "10.0.0.1", true, 1'700'000'000, std::string(64, 'f'), true};
}

JobRecord job(std::uint64_t id, const std::string& on, wire::JobState state = wire::JOB_RUNNING) {
  return {id, on, 20000, 20001, 1000, ~0U, std::string("a\0b\xff 'x'", 8), state, 0x8f, 1};
}

class SqliteStore : public testing::Test {
 protected:
  void SetUp() override {
    std::string name = testing::TempDir() + "/gestalt-store-XXXXXX";
    ASSERT_NE(::mkdtemp(name.data()), nullptr);
    directory_ = name;
    reopen();
  }
  void TearDown() override {
    store_.reset();
    std::filesystem::remove_all(directory_);
  }
  void reopen() {
    store_.reset();
    auto opened = open_sqlite_store(path());
    ASSERT_TRUE(opened) << opened.error().text();
    store_ = std::move(*opened);
  }
  [[nodiscard]] std::string path() const { return directory_ + "/cluster.db"; }

  std::string directory_;
  std::unique_ptr<Store> store_;
};

TEST_F(SqliteStore, NodesSurviveAReopen) {
  ASSERT_TRUE(store_->upsert_node(node("b", 2)));
  ASSERT_TRUE(store_->upsert_node(node("a", 1)));
  auto changed = node("b", 3);
  changed.draining = changed.left_cleanly = false;
  ASSERT_TRUE(store_->upsert_node(changed));
  reopen();
  EXPECT_EQ(*store_->nodes(), (std::vector{node("a", 1), changed}));
  EXPECT_EQ(**store_->find_node("b"), changed);
  EXPECT_FALSE(store_->find_node("c")->has_value());
  ASSERT_TRUE(store_->remove_node("a"));
  ASSERT_TRUE(store_->remove_node("a"));
  EXPECT_EQ(store_->nodes()->size(), 1U);
}

TEST_F(SqliteStore, ASliceHasOneNode) {
  ASSERT_TRUE(store_->upsert_node(node("a", 1)));
  auto taken = store_->upsert_node(node("b", 1));
  ASSERT_FALSE(taken);
  EXPECT_EQ(taken.error().code, ErrorCode::kBusy);
  EXPECT_EQ(*store_->nodes(), std::vector{node("a", 1)});
}

TEST_F(SqliteStore, Jobs) {
  ASSERT_TRUE(store_->upsert_job(job(1, "a")));
  ASSERT_TRUE(store_->upsert_job(job(2, "b")));
  ASSERT_TRUE(store_->upsert_job(job(3, "a")));
  ASSERT_TRUE(store_->upsert_job(job(3, "b", wire::JOB_EXITED)));
  reopen();
  EXPECT_EQ(*store_->jobs(),
            (std::vector{job(1, "a"), job(2, "b"), job(3, "b", wire::JOB_EXITED)}));
  EXPECT_EQ(store_->jobs_on("b")->size(), 2U);
  EXPECT_EQ(**store_->find_job(1), job(1, "a"));
  EXPECT_FALSE(store_->find_job(99)->has_value());
  ASSERT_TRUE(store_->remove_job(1));
  EXPECT_EQ(store_->jobs()->size(), 2U);
}

TEST_F(SqliteStore, PrunesOnlyEndedJobs) {
  ASSERT_TRUE(store_->transaction([&]() -> Result<void> {
    for (std::uint64_t id = 1; id <= 20; ++id)
      GESTALT_TRY(store_->upsert_job(job(id, "a",
                                         id % 2 == 0   ? wire::JOB_EXITED
                                         : id % 5 == 0 ? wire::JOB_LOST
                                                       : wire::JOB_RUNNING)));
    return {};
  }));
  EXPECT_EQ(*store_->prune_ended_jobs(3), 9U);  // 12 ended
  auto jobs = *store_->jobs();
  EXPECT_EQ(jobs.size(), 11U);
  EXPECT_FALSE(store_->find_job(15)->has_value());
  EXPECT_TRUE(store_->find_job(16)->has_value());
  EXPECT_TRUE(store_->find_job(1)->has_value());
  EXPECT_EQ(*store_->prune_ended_jobs(), 0U);
}

TEST_F(SqliteStore, CountersNeverRepeat) {
  EXPECT_EQ(*store_->next_id(kJobCounter), 1U);
  EXPECT_EQ(*store_->next_id(kJobCounter), 2U);
  EXPECT_EQ(*store_->next_id(kMigrationCounter), 1U);
  reopen();
  EXPECT_EQ(*store_->next_id(kJobCounter), 3U);
  EXPECT_EQ(*store_->next_id(kMigrationCounter), 2U);
}

TEST_F(SqliteStore, VerdictIsDecidedOnce) {
  MigrationRecord migration{7, 3, "a", "b", "eager", Verdict::kUndecided, "", 5};
  ASSERT_TRUE(store_->insert_migration(migration));
  EXPECT_EQ(store_->insert_migration(migration).error().code, ErrorCode::kBusy);
  auto set = [&](Verdict expected, Verdict wanted) {
    return store_->compare_and_set_verdict(7, expected, wanted, std::string(to_string(wanted)));
  };
  EXPECT_FALSE(*set(Verdict::kGranted, Verdict::kCompleted));
  EXPECT_TRUE(*set(Verdict::kUndecided, Verdict::kGranted));
  EXPECT_FALSE(*set(Verdict::kUndecided, Verdict::kDenied));
  EXPECT_FALSE(*set(Verdict::kUndecided, Verdict::kGranted));
  reopen();
  EXPECT_EQ((*store_->find_migration(7))->verdict, Verdict::kGranted);
  EXPECT_EQ((*store_->find_migration(7))->reason, "granted");
  EXPECT_TRUE(*set(Verdict::kGranted, Verdict::kCompleted));
  EXPECT_FALSE(*set(Verdict::kGranted, Verdict::kRolledBack));
  EXPECT_EQ((*store_->migrations())[0].verdict, Verdict::kCompleted);
  // Steps that would take a decision back.
  for (auto [from, to] : {std::pair(Verdict::kCompleted, Verdict::kUndecided),
                          std::pair(Verdict::kDenied, Verdict::kGranted),
                          std::pair(Verdict::kGranted, Verdict::kDenied),
                          std::pair(Verdict::kUndecided, Verdict::kCompleted)})
    EXPECT_EQ(set(from, to).error().code, ErrorCode::kInvalidArgument);
  EXPECT_EQ(
      store_->compare_and_set_verdict(8, Verdict::kUndecided, Verdict::kGranted, "").error().code,
      ErrorCode::kNotFound);
  migration.migration_id = 9;
  migration.verdict = Verdict::kGranted;
  EXPECT_FALSE(store_->insert_migration(migration));
}

TEST_F(SqliteStore, PrunesOnlyDecidedMigrations) {
  for (std::uint64_t id = 1; id <= 6; ++id)
    ASSERT_TRUE(store_->insert_migration(
        {id, 1, "a", "b", "eager", id % 2 == 0 ? Verdict::kDenied : Verdict::kUndecided, "", 0}));
  EXPECT_EQ(*store_->prune_migrations(1), 2U);
  EXPECT_EQ(store_->migrations()->size(), 4U);
  EXPECT_FALSE(store_->find_migration(6)->value().reason.size());
}

TEST_F(SqliteStore, TransactionIsAllOrNothing) {
  auto failed = store_->transaction([&]() -> Result<void> {
    GESTALT_TRY(store_->upsert_node(node("a", 1)));
    GESTALT_TRY(store_->next_id(kJobCounter));
    GESTALT_TRY(store_->upsert_node(node("b", 1)));  // the slice is taken
    return {};
  });
  ASSERT_FALSE(failed);
  EXPECT_EQ(failed.error().code, ErrorCode::kBusy);
  EXPECT_TRUE(store_->nodes()->empty());
  EXPECT_EQ(*store_->next_id(kJobCounter), 1U);
  auto nested =
      store_->transaction([&] { return store_->transaction([] { return Result<void>(); }); });
  EXPECT_FALSE(nested);
  EXPECT_TRUE(store_->transaction([&] { return store_->upsert_node(node("c", 4)); }));
  reopen();
  EXPECT_EQ(store_->nodes()->size(), 1U);
}

TEST_F(SqliteStore, SurvivesACrash) {
  store_.reset();
  pid_t child = ::fork();
  if (child == 0) {
    auto store = open_sqlite_store(path());
    bool done = store && (*store)->upsert_node(node("a", 1)) && (*store)->next_id(kJobCounter);
    // Amid a transaction that must not be seen.
    if (done)
      (void)(*store)->transaction([&]() -> Result<void> {
        GESTALT_TRY((*store)->upsert_node(node("b", 2)));
        ::_exit(0);
      });
    ::_exit(1);
  }
  int status = 0;
  ASSERT_EQ(::waitpid(child, &status, 0), child);
  ASSERT_EQ(status, 0);
  reopen();
  EXPECT_EQ(*store_->nodes(), std::vector{node("a", 1)});
  EXPECT_EQ(*store_->next_id(kJobCounter), 2U);
}

TEST_F(SqliteStore, SecondDaemonIsRefused) {
  auto second = open_sqlite_store(path());
  ASSERT_FALSE(second);
  EXPECT_EQ(second.error().code, ErrorCode::kBusy) << second.error().text();
}

TEST_F(SqliteStore, DamageIsReported) {
  for (std::uint32_t i = 1; i < 200; ++i)
    ASSERT_TRUE(store_->upsert_node(node(formatted("n{}", i), i)));
  store_.reset();
  auto good = *read_file(path());
  struct stat info{};
  ASSERT_EQ(::stat(path().c_str(), &info), 0);
  EXPECT_EQ(info.st_mode & 0777, 0600U);
  auto garbled = good;
  for (std::size_t i = 4096; i < garbled.size(); ++i) garbled[i] = 'x';
  for (const auto& bad : {std::string(4096, 'x'), good.substr(0, 6000), garbled}) {
    ASSERT_TRUE(replace_file(path(), bad, 0600));
    auto opened = open_sqlite_store(path());
    ASSERT_FALSE(opened);
    EXPECT_EQ(opened.error().code, ErrorCode::kSystem) << opened.error().text();
    EXPECT_NE(opened.error().message.find("damaged"), std::string::npos) << opened.error().text();
    EXPECT_NE(opened.error().remedy.find("backup"), std::string::npos);
  }
}

TEST_F(SqliteStore, NewerSchemaIsRefused) {
  store_.reset();
  sqlite3* raw = nullptr;
  ASSERT_EQ(sqlite3_open(path().c_str(), &raw), SQLITE_OK);
  ASSERT_EQ(sqlite3_exec(raw, "PRAGMA user_version = 99", nullptr, nullptr, nullptr), SQLITE_OK);
  sqlite3_close(raw);
  auto opened = open_sqlite_store(path());
  ASSERT_FALSE(opened);
  EXPECT_NE(opened.error().message.find("99"), std::string::npos);
}

TEST(OpenSqliteStore, NoDirectory) {
  EXPECT_FALSE(open_sqlite_store("/nonexistent/dir/cluster.db"));
}

}  // namespace
}  // namespace gestalt
