// What people read of migrations: how far one is, how it went, what is in its way.
#pragma once

#include <cstddef>
#include <string>

#include "common/proto/control.pb.h"

namespace gestalt::cli {

// One line, at most `width` columns: phase, round, a bar, bytes and rates.
[[nodiscard]] std::string progress_text(const wire::MigrationProgress& progress, std::size_t width);

// All below end in a newline, and are fit for a terminal.
[[nodiscard]] std::string migration_summary(const wire::MigrationStats& stats);
[[nodiscard]] std::string preflight_text(const wire::PreflightReport& report, unsigned pid);
[[nodiscard]] std::string migrations_table(const wire::MigrationListReply& reply,
                                           std::size_t width);
[[nodiscard]] std::string migration_sheet(const wire::MigrationStats& stats);

}  // namespace gestalt::cli
