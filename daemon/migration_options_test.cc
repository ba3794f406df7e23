#include "daemon/migration_options.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <functional>
#include <limits>

namespace gestalt {
namespace {

using Options = wire::MigrationOptions;
using testing::HasSubstr;

Options completed(const std::string& mode, const MigrationConfig& config = {}) {
  Options options;
  options.set_mode(mode);
  auto done = complete_options(options, config);
  EXPECT_TRUE(done) << done.error().text();
  return options;
}

std::string failure(const std::string& mode, const std::function<void(Options&)>& set) {
  Options options;
  options.set_mode(mode);
  set(options);
  auto done = complete_options(options, {});
  if (done) return "no error";
  EXPECT_EQ(done.error().code, ErrorCode::kInvalidArgument);
  EXPECT_FALSE(done.error().remedy.empty()) << done.error().message;
  return done.error().text();
}

TEST(MigrationOptions, HaveDefaultsByMode) {
  auto hybrid = completed("");
  EXPECT_EQ(hybrid.mode(), "hybrid");
  EXPECT_EQ(hybrid.max_rounds(), 3U);
  EXPECT_EQ(hybrid.downtime_goal_seconds(), 0.005);
  EXPECT_EQ(hybrid.streams(), 2U);
  EXPECT_EQ(hybrid.transport(), "auto");
  EXPECT_EQ(hybrid.bandwidth_bytes_per_second(), 0U);
  EXPECT_EQ(hybrid.timeout_seconds(), 60);
  EXPECT_FALSE(hybrid.has_prefetch_pages());
  EXPECT_EQ(completed("pre-copy").max_rounds(), 5U);
  for (const char* mode : {"eager", "lazy", "post-copy"}) {
    EXPECT_EQ(completed(mode).max_rounds(), 0U) << mode;
    EXPECT_EQ(completed(mode).downtime_goal_seconds(), 0) << mode;
  }
}

TEST(MigrationOptions, TakeTheConfiguration) {
  MigrationConfig config{.timeout_seconds = 9,
                         .mode = "pre-copy",
                         .transport = "rdma",
                         .streams = 4,
                         .max_rounds = 7,
                         .downtime_goal_seconds = 0.2,
                         .bandwidth_bytes_per_second = 1U << 20};
  auto options = completed("", config);
  EXPECT_EQ(options.mode(), "pre-copy");
  EXPECT_EQ(options.timeout_seconds(), 9);
  EXPECT_EQ(options.streams(), 4U);
  EXPECT_EQ(options.transport(), "rdma");
  EXPECT_THAT(failure("eager", [](Options& wanted) { wanted.set_transport("pigeon"); }),
              HasSubstr("pigeon"));
  EXPECT_EQ(options.max_rounds(), 7U);
  EXPECT_EQ(options.downtime_goal_seconds(), 0.2);
  EXPECT_EQ(options.bandwidth_bytes_per_second(), 1U << 20);
  EXPECT_EQ(completed("eager", config).max_rounds(), 0U);  // no meaning there, no error either
}

TEST(MigrationOptions, NoLimitMayBeAskedFor) {
  Options options;
  options.set_bandwidth_bytes_per_second(~std::uint64_t{0});
  ASSERT_TRUE(complete_options(options, {.bandwidth_bytes_per_second = 1U << 20}));
  EXPECT_EQ(options.bandwidth_bytes_per_second(), 0U);
}

TEST(MigrationOptions, KeepWhatTheUserSaid) {
  Options options;
  options.set_mode("hybrid");
  options.set_max_rounds(1);
  options.set_downtime_goal_seconds(60);
  options.set_streams(16);
  options.set_prefetch_pages(0);
  options.set_bandwidth_bytes_per_second(64U << 10);
  ASSERT_TRUE(complete_options(options, {}));
  EXPECT_EQ(options.max_rounds(), 1U);
  EXPECT_EQ(options.streams(), 16U);
  EXPECT_TRUE(options.has_prefetch_pages());
}

TEST(MigrationOptions, AnUnknownModeListsAll) {
  EXPECT_THAT(failure("nonsense", [](Options&) {}),
              HasSubstr("eager, lazy, pre-copy, post-copy, hybrid"));
}

TEST(MigrationOptions, OutOfRange) {
  using O = Options&;
  auto nan = std::numeric_limits<double>::quiet_NaN();
  const std::function<void(O)> kBad[] = {
      [](O o) { o.set_max_rounds(65); },
      [](O o) { o.set_downtime_goal_seconds(60.5); },
      [](O o) { o.set_downtime_goal_seconds(-1); },
      [&](O o) { o.set_downtime_goal_seconds(nan); },
      [](O o) { o.set_bandwidth_bytes_per_second(65535); },
      [](O o) { o.set_streams(17); },
      [](O o) { o.set_prefetch_pages(4097); },
      [](O o) { o.set_timeout_seconds(3601); },
      [&](O o) { o.set_timeout_seconds(nan); },
  };
  for (const auto& set : kBad) EXPECT_NE(failure("hybrid", set), "no error");
}

TEST(MigrationOptions, WithoutMeaningInTheMode) {
  auto rounds = [](Options& o) { o.set_max_rounds(2); };
  auto goal = [](Options& o) { o.set_downtime_goal_seconds(1); };
  auto prefetch = [](Options& o) { o.set_prefetch_pages(0); };
  EXPECT_THAT(failure("eager", rounds), HasSubstr("no meaning in mode eager"));
  for (const char* mode : {"eager", "lazy", "post-copy"}) {
    EXPECT_NE(failure(mode, rounds), "no error");
    EXPECT_NE(failure(mode, goal), "no error");
  }
  for (const char* mode : {"eager", "pre-copy"}) EXPECT_NE(failure(mode, prefetch), "no error");
}

}  // namespace
}  // namespace gestalt
