// What a migration of a unit would meet, without stopping or changing anything.
#pragma once

#include <sys/types.h>

#include "common/cgroup.h"
#include "common/proto/control.pb.h"
#include "common/result.h"
#include "migrate/blockers.h"

namespace gestalt {

// `group` holds the unit and nothing else; null: it has none yet. `destination` may be empty.
[[nodiscard]] Result<wire::PreflightReport> preflight_report(
    pid_t root, const Cgroup* group, const UnitTies& ties,
    const wire::MigrationDestination& destination, bool any_cpu);

}  // namespace gestalt
