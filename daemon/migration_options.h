// What a user may ask of a migration, and what he gets where he asked for nothing.
#pragma once

#include "common/proto/migration.pb.h"
#include "common/result.h"
#include "daemon/config.h"

namespace gestalt {

// Fills in the defaults, of the configuration and of the mode. What is out of range or has
// no meaning in the mode is kInvalidArgument; then `options` is not to be used.
[[nodiscard]] Result<void> complete_options(wire::MigrationOptions& options,
                                            const MigrationConfig& config);

}  // namespace gestalt
