// What both ends of a migration are told. What they report is wire::MigrationStats.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <string>
#include <string_view>

#include "common/clock.h"
#include "common/proto/migration.pb.h"
#include "common/result.h"

namespace gestalt {

struct MigrationParameters {
  std::uint64_t migration_id = 0;
  std::string secret;           // 32 bytes, shared by the two ends only
  std::string image_directory;  // parent of the migration's own, on a node-local disk or tmpfs
  Deadline deadline;            // for everything before the leader's grant
  wire::MigrationOptions options;
};

// A mode is a choice of when pages move.
struct Strategy {
  bool rounds = false;               // before the freeze: all, then what was written
  bool fetch_before_resume = false;  // in the freeze: all that is missing
  bool push_after_resume = false;    // else on demand only
  std::uint32_t default_rounds = 0;

  // Pages may still be at the source when the process runs at the destination.
  [[nodiscard]] bool pages_stay_behind() const { return !fetch_before_resume; }
};

inline constexpr char kDefaultMode[] = "hybrid";
inline constexpr std::uint32_t kDefaultStreams = 2;
inline constexpr double kDefaultDowntimeGoalSeconds = 0.005;

// eager, lazy, pre-copy, post-copy, hybrid; empty is hybrid. kInvalidArgument.
[[nodiscard]] Result<Strategy> strategy_of(std::string_view mode);

// CPU time of this process and its children, for the statistics.
[[nodiscard]] double cpu_seconds();

}  // namespace gestalt
