// Pre-copy rounds of a real process whose memory is written meanwhile, from outside.
#include "migrate/precopy.h"

#include <gtest/gtest.h>
#include <sys/uio.h>

#include <cmath>
#include <random>

#include "migrate/paging_rig.h"

namespace gestalt {
namespace {

using namespace testing_rig;

// ------------------------------------------------------------- the decision

struct Decision {
  const char* what;
  std::uint32_t max_rounds;
  std::vector<RoundResult> rounds;
  std::optional<RoundsEnd> end;
};

TEST(RoundsEnd, IsDecidedByTheLastRound) {
  constexpr std::uint64_t kMegabyte = 1 << 20;
  auto round = [](std::uint64_t sent, std::uint64_t dirty, double seconds) {
    return RoundResult{sent * kMegabyte, dirty * kMegabyte, seconds, 0};
  };
  const Decision table[] = {
      {"nothing is dirty", 5, {round(100, 0, 1)}, RoundsEnd::kDowntimeGoal},
      {"nothing was there", 5, {round(0, 0, 0)}, RoundsEnd::kDowntimeGoal},
      {"little is dirty", 5, {round(100, 5, 1)}, RoundsEnd::kDowntimeGoal},
      {"a little too much is", 5, {round(100, 6, 1)}, std::nullopt},
      {"the goal comes before the limit", 1, {round(100, 5, 1)}, RoundsEnd::kDowntimeGoal},
      {"one round only", 1, {round(100, 50, 1)}, RoundsEnd::kRoundLimit},
      {"no rounds at all", 0, {round(100, 50, 1)}, RoundsEnd::kRoundLimit},
      {"the first leaves all dirty", 5, {round(100, 100, 1)}, std::nullopt},
      {"the second too", 5, {round(100, 100, 1), round(100, 100, 1)}, RoundsEnd::kNoConvergence},
      {"71 of 100", 5, {round(200, 100, 1), round(100, 71, 1)}, RoundsEnd::kNoConvergence},
      {"69 of 100", 5, {round(200, 100, 1), round(100, 69, 1)}, std::nullopt},
      {"the limit comes before the convergence",
       2,
       {round(100, 100, 1), round(100, 100, 1)},
       RoundsEnd::kRoundLimit},
      {"first bad, then good",
       5,
       {round(100, 100, 1), round(100, 60, 1), round(60, 3, 0.6)},
       RoundsEnd::kDowntimeGoal},
      {"little, in a few pieces", 5, {{100 << 20, 1 << 20, 1, 3000}}, RoundsEnd::kDowntimeGoal},
      {"little, in too many pieces", 5, {{100 << 20, 1 << 20, 1, 5000}}, std::nullopt},
      {"no time at all", 5, {round(1, 1, 0)}, RoundsEnd::kDowntimeGoal},
  };
  for (const auto& each : table) {
    PrecopyLimits limits{.max_rounds = each.max_rounds, .downtime_goal_seconds = 0.05};
    EXPECT_EQ(rounds_end(limits, each.rounds), each.end) << each.what;
  }
}

TEST(RoundsEnd, EveryReasonHasAName) {
  EXPECT_EQ(name_of(RoundsEnd::kDowntimeGoal), "downtime-goal");
  EXPECT_EQ(name_of(RoundsEnd::kNoConvergence), "no-convergence");
  EXPECT_EQ(name_of(RoundsEnd::kRoundLimit), "round-limit");
  EXPECT_EQ(name_of(RoundsEnd::kTimeout), "timeout");
}

// ------------------------------------------------------------- rounds

// Knows what was written because it writes itself, into one process.
class WritingTracker final : public DirtyTracker {
 public:
  WritingTracker(pid_t pid, PageSet present) : pid_(pid), present_(std::move(present)) {}
  [[nodiscard]] std::string_view name() const override { return "writing"; }
  Result<PageSet> harvest(pid_t pid) override {
    std::lock_guard lock(mutex_);
    ++harvests_;
    if (pid != pid_ || gone_) return fail(ErrorCode::kGone, "it has ended");
    if (on_harvest_) on_harvest_(harvests_);
    if (std::exchange(seen_, true)) return std::exchange(dirty_, {});
    dirty_.clear();
    return present_;
  }
  Result<PageSet> harvest_frozen(pid_t pid) override {
    std::lock_guard lock(mutex_);
    if (pid != pid_ || gone_) return fail(ErrorCode::kGone, "it has ended");
    return seen_ ? std::exchange(dirty_, {}) : present_;
  }

  // As one with its tracking: like a task that runs between two harvests.
  void write(std::uint64_t address, std::byte value) {
    std::lock_guard lock(mutex_);
    write_locked(address, value);
  }
  void write_locked(std::uint64_t address, std::byte value) {
    std::vector<std::byte> page(kPageBytes, value);
    iovec local{page.data(), page.size()};
    iovec remote{reinterpret_cast<void*>(address), page.size()};
    if (::process_vm_writev(pid_, &local, 1, &remote, 1, 0) < 0) return;
    dirty_.add(address, address + kPageBytes);
    present_.add(address, address + kPageBytes);
  }
  void end_process() {
    std::lock_guard lock(mutex_);
    gone_ = true;
  }
  void on_harvest(std::function<void(int)> act) { on_harvest_ = std::move(act); }
  [[nodiscard]] int harvests() const { return harvests_; }
  [[nodiscard]] PageSet present() const { return present_; }

 private:
  std::mutex mutex_;
  pid_t pid_;
  PageSet present_;
  PageSet dirty_;
  std::function<void(int)> on_harvest_;
  bool seen_ = false;
  bool gone_ = false;
  int harvests_ = 0;
};

// The restored memory against the source's, which is paused.
int compare_with_source(const Task& task) {
  std::vector<std::byte> right(kPageBytes);
  for (std::size_t i = 0; i < task.pages; ++i) {
    iovec local{right.data(), right.size()};
    iovec remote{task.page(i), right.size()};
    if (::process_vm_readv(task.source, &local, 1, &remote, 1, 0) < 0) return 8;
    if (std::memcmp(right.data(), task.page(i), kPageBytes) == 0) continue;
    std::fprintf(stderr, "page %zu is not the source's\n", i);
    return 1;
  }
  return 0;
}

class PrecopyTest : public ::testing::Test {
 protected:
  void SetUp() override {
    auto probe = make_uffd();
    if (!probe) GTEST_SKIP() << "no userfaultfd here: " << probe.error().text();
  }
  void begin(RigOptions options, TaskCode task = compare_with_source) {
    rig_.emplace(options, std::move(task));
    tracker_.emplace(rig_->source(), rig_->present());
    ASSERT_TRUE(rig_->server().connect(options.bulk_links, soon()));
  }
  Precopy make_precopy(PrecopyLimits limits = {}) {
    return {rig_->server(), *tracker_, limits,
            [this]() -> Result<std::vector<pid_t>> { return std::vector{rig_->source()}; },
            [](const wire::MigrationProgress&) {}};
  }
  // Freeze, restore, and compare.
  void finish(Precopy& precopy) {
    auto fresh = precopy.fresh();
    ASSERT_TRUE(fresh) << fresh.error().text();
    rig_->present() = tracker_->present();
    for (auto& [pid, set] : *fresh) fresh_pages_ += set.pages();
    for (auto& [pid, set] : *fresh) set.intersect(rig_->present());
    std::uint64_t before = rig_->kernel().reads();
    rig_->announce(*fresh);
    rig_->restore();
    rig_->resume(true);
    EXPECT_EQ(rig_->await_exit(), 0);
    EXPECT_TRUE(rig_->await_complete());
    EXPECT_EQ(rig_->kernel().reads() - before, rig_->present().pages() - fresh_pages_)
        << "what is fresh is not sent again";
  }

  std::optional<Rig> rig_;
  std::optional<WritingTracker> tracker_;
  std::uint64_t fresh_pages_ = 0;
};

TEST_F(PrecopyTest, AnIdleProcessTakesOneRound) {
  begin({});
  auto precopy = make_precopy();
  auto end = precopy.run(soon());
  ASSERT_TRUE(end) << end.error().text();
  EXPECT_EQ(*end, RoundsEnd::kDowntimeGoal);
  ASSERT_EQ(precopy.rounds().size(), 1U);
  EXPECT_EQ(precopy.rounds()[0].sent_bytes, rig_->present().pages() * kPageBytes);
  EXPECT_EQ(precopy.rounds()[0].dirty_bytes, 0U);
  EXPECT_EQ(precopy.pages_sent() + precopy.pages_zero(), rig_->present().pages());
  EXPECT_GT(precopy.pages_zero(), 0U);
  EXPECT_EQ(precopy.pages_again(), 0U);
  finish(precopy);
  EXPECT_EQ(fresh_pages_, rig_->present().pages()) << "nothing was left to be fetched";
}

TEST_F(PrecopyTest, WhatIsWrittenBetweenRoundsIsSentAgainInOrder) {
  for (std::uint64_t links : {1U, 2U, 4U}) {
    begin({.bulk_links = links});
    tracker_->on_harvest([this](int harvest) {
      static constexpr std::size_t kWritten[] = {1000, 600, 360, 216};
      if (harvest > 4) return;
      // The same pages, fewer each time: the newest version must win, whatever link it takes.
      for (std::size_t page = 0; page < kWritten[harvest - 1]; ++page)
        tracker_->write_locked(rig_->address(page), static_cast<std::byte>(harvest));
    });
    auto precopy = make_precopy({.max_rounds = 5, .downtime_goal_seconds = 0});
    auto end = precopy.run(soon());
    ASSERT_TRUE(end) << end.error().text();
    EXPECT_EQ(precopy.rounds().size(), 4U);
    EXPECT_EQ(precopy.pages_again(), 600U + 360U + 216U);
    finish(precopy);
    fresh_pages_ = 0;
  }
}

TEST_F(PrecopyTest, AProcessThatWritesAllTheTimeArrivesAsItIs) {
  begin({.pages = 8192, .bulk_links = 3, .chunks = {.compress = true, .checksum = true}});
  std::jthread writer([this](std::stop_token stop) {
    std::mt19937_64 random(5);
    while (!stop.stop_requested())
      tracker_->write(rig_->address(random() % 8192), static_cast<std::byte>(random() % 4));
  });
  auto precopy = make_precopy({.max_rounds = 6, .downtime_goal_seconds = 0});
  auto end = precopy.run(soon());
  writer.request_stop();
  writer.join();
  ASSERT_TRUE(end) << end.error().text();
  finish(precopy);
  EXPECT_LT(fresh_pages_, rig_->present().pages());
  EXPECT_GT(fresh_pages_, 0U);
}

TEST_F(PrecopyTest, TheRoundLimitAndTheDeadlineEndTheRounds) {
  for (bool limit : {true, false}) {
    begin({.pages = 512});
    // Fewer each time, so that it converges, but too slowly.
    tracker_->on_harvest([this](int harvest) {
      if (harvest > 100) return;
      auto pages = static_cast<std::size_t>(512 * std::pow(0.65, harvest)) + 1;
      for (std::size_t page = 0; page < pages; ++page)
        tracker_->write_locked(rig_->address(page), std::byte{1});
      if (harvest > 1) std::this_thread::sleep_for(milliseconds(60));
    });
    auto precopy = make_precopy({.max_rounds = limit ? 3U : 100U, .downtime_goal_seconds = 0});
    auto end = precopy.run(limit ? soon() : deadline_in(milliseconds(200)));
    ASSERT_TRUE(end) << end.error().text();
    EXPECT_EQ(*end, limit ? RoundsEnd::kRoundLimit : RoundsEnd::kTimeout);
    finish(precopy);
    fresh_pages_ = 0;
  }
}

// The tracker saw them, but they are gone when they are read. Those beside them in the
// chunk may lose their freshness with them; what is claimed must be right.
TEST_F(PrecopyTest, PagesThatWereUnmappedMeanwhileAreNotFresh) {
  begin({});
  PageSet seen = rig_->present();
  std::uint64_t nowhere = 0x20000;
  seen.add(nowhere, nowhere + 4 * kPageBytes);
  tracker_.emplace(rig_->source(), seen);
  auto precopy = make_precopy();
  ASSERT_TRUE(precopy.run(soon()));
  auto fresh = precopy.fresh();
  ASSERT_TRUE(fresh);
  EXPECT_EQ((*fresh)[rig_->wire_pid()].blocks(), rig_->present().blocks());
}

TEST_F(PrecopyTest, AProcessMayEndInARound) {
  begin({});
  tracker_->on_harvest([this](int harvest) {
    // Between the harvest and the sending.
    if (harvest == 1) ::kill(rig_->source(), SIGKILL);
    if (harvest == 1) (void)::waitpid(rig_->source(), nullptr, 0);
  });
  auto precopy = make_precopy();
  auto end = precopy.run(soon());
  ASSERT_TRUE(end) << end.error().text();
  EXPECT_EQ(precopy.pages_sent(), 0U);
  tracker_->end_process();
  auto fresh = precopy.fresh();
  ASSERT_TRUE(fresh);
  EXPECT_TRUE(fresh->empty());
}

TEST_F(PrecopyTest, AProcessThatIsNotTrackedAnyMoreIsLeftForTheFreeze) {
  begin({});
  tracker_->on_harvest([this](int harvest) {
    if (harvest == 1) tracker_->write_locked(rig_->address(), std::byte{9});
  });
  int asked = 0;
  Precopy precopy(
      rig_->server(), *tracker_, {},
      [&]() -> Result<std::vector<pid_t>> {
        if (++asked == 2) tracker_->end_process();
        return std::vector{rig_->source()};
      },
      [](const wire::MigrationProgress&) {});
  ASSERT_TRUE(precopy.run(soon()));
  auto fresh = precopy.fresh();
  ASSERT_TRUE(fresh);
  EXPECT_TRUE(fresh->empty());
}

TEST_F(PrecopyTest, ALostLinkOrACancellationEndsItWithAnError) {
  begin({});
  rig_->gate().close();
  std::jthread cutter([&] {
    rig_->await_reads(1);
    rig_->cut(kFirstBulkLink);
    rig_->gate().open();
  });
  auto precopy = make_precopy();
  EXPECT_FALSE(precopy.run(soon()));
  cutter.join();

  begin({});
  Precopy cancelled(
      rig_->server(), *tracker_, {},
      []() -> Result<std::vector<pid_t>> { return fail(ErrorCode::kUnavailable, "cancelled"); },
      [](const wire::MigrationProgress&) {});
  auto end = cancelled.run(soon());
  ASSERT_FALSE(end);
  EXPECT_EQ(end.error().code, ErrorCode::kUnavailable);
}

}  // namespace
}  // namespace gestalt
