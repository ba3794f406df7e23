// What both ends of a migration are told, and what they report.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <string>

#include "common/clock.h"

namespace gestalt {

struct MigrationParameters {
  std::uint64_t migration_id = 0;
  std::string secret;           // 32 bytes, shared by the two ends only
  std::string image_directory;  // parent of the migration's own, on a node-local disk or tmpfs
  Deadline deadline;            // for everything before the leader's grant
};

struct MigrationReport {
  double freeze_seconds = 0;  // the source's clock: dump requested to "resumed" received
  double total_seconds = 0;   // connected to the source's copy ended
  std::uint64_t wire_bytes = 0;
  std::uint64_t pages_sent = 0;
  std::uint64_t pages_zero = 0;
  std::uint64_t state_bytes = 0;
  std::uint32_t processes = 0;
  std::uint32_t threads = 0;
};

}  // namespace gestalt
