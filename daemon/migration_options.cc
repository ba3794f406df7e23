#include "daemon/migration_options.h"

#include "common/format.h"
#include "common/migration_modes.h"

namespace gestalt {
namespace {

constexpr double kMaxTimeoutSeconds = 3600;
constexpr std::uint32_t kPrecopyRounds = 5;
constexpr std::uint32_t kHybridRounds = 3;

Unexpected meaningless(std::string_view what, const std::string& mode, std::string_view modes) {
  return fail(ErrorCode::kInvalidArgument, formatted("{} has no meaning in mode {}", what, mode),
              formatted("leave it out, or use mode {}", modes));
}

Unexpected out_of_range(const std::string& what, std::string remedy) {
  return fail(ErrorCode::kInvalidArgument, what, std::move(remedy));
}

Result<void> complete_rounds(wire::MigrationOptions& options, const MigrationConfig& config) {
  const std::string& mode = options.mode();
  if (!has_rounds(mode)) {
    if (options.max_rounds() != 0)
      return meaningless("a limit of rounds", mode, "pre-copy or hybrid");
    if (options.downtime_goal_seconds() != 0)
      return meaningless("a downtime goal", mode, "pre-copy or hybrid");
    return {};
  }
  if (options.max_rounds() == 0) options.set_max_rounds(config.max_rounds);
  if (options.max_rounds() == 0)
    options.set_max_rounds(mode == "hybrid" ? kHybridRounds : kPrecopyRounds);
  if (options.max_rounds() > kMaxPrecopyRounds)
    return out_of_range(formatted("{} rounds make no sense", options.max_rounds()),
                        formatted("give 1 to {}", kMaxPrecopyRounds));
  if (options.downtime_goal_seconds() == 0)
    options.set_downtime_goal_seconds(config.downtime_goal_seconds);
  double goal = options.downtime_goal_seconds();
  if (!(goal > 0 && goal <= kMaxDowntimeGoalSeconds))
    return out_of_range(formatted("a downtime goal of {} s makes no sense", goal),
                        formatted("give more than 0 and at most {} s", kMaxDowntimeGoalSeconds));
  return {};
}

}  // namespace

Result<void> complete_options(wire::MigrationOptions& options, const MigrationConfig& config) {
  if (options.mode().empty()) options.set_mode(config.mode);
  if (!is_migration_mode(options.mode()))
    return fail(ErrorCode::kInvalidArgument,
                formatted("there is no migration mode '{}'", options.mode()),
                "modes: " + migration_mode_names());
  double timeout = options.timeout_seconds();
  if (!(timeout >= 0 && timeout <= kMaxTimeoutSeconds))
    return out_of_range(formatted("a timeout of {} s makes no sense", timeout),
                        formatted("give it at most {} s", kMaxTimeoutSeconds));
  if (timeout == 0) options.set_timeout_seconds(config.timeout_seconds);
  GESTALT_TRY(complete_rounds(options, config));
  if (options.bandwidth_bytes_per_second() == 0)
    options.set_bandwidth_bytes_per_second(config.bandwidth_bytes_per_second);
  if (options.bandwidth_bytes_per_second() == kUnlimitedBandwidth)
    options.set_bandwidth_bytes_per_second(0);
  auto bandwidth = options.bandwidth_bytes_per_second();
  if (bandwidth != 0 && bandwidth < kMinBandwidthBytesPerSecond)
    return out_of_range(formatted("a bandwidth of {} bytes/s is too little", bandwidth),
                        formatted("give at least {} bytes/s", kMinBandwidthBytesPerSecond));
  if (options.transport().empty()) options.set_transport(config.transport);
  if (!is_transport(options.transport()))
    return fail(ErrorCode::kInvalidArgument,
                formatted("there is no transport '{}'", options.transport()),
                "give auto, tcp or rdma");
  if (options.streams() == 0) options.set_streams(config.streams);
  if (options.streams() > kMaxMigrationStreams)
    return out_of_range(formatted("{} streams are too many", options.streams()),
                        formatted("give 1 to {}", kMaxMigrationStreams));
  if (!options.has_prefetch_pages()) return {};
  if (!pages_follow(options.mode()))
    return meaningless("prefetching", options.mode(), "lazy, post-copy or hybrid");
  if (options.prefetch_pages() > kMaxPrefetchPages)
    return out_of_range(formatted("{} pages of prefetch are too many", options.prefetch_pages()),
                        formatted("give 0 to {}", kMaxPrefetchPages));
  return {};
}

}  // namespace gestalt
