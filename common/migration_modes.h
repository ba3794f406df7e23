// The modes of migration by name: a mode is a choice of when pages move. docs/migration.md.
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>
#include <string>
#include <string_view>

namespace gestalt {

inline constexpr std::array<std::string_view, 5> kMigrationModes{"eager", "lazy", "pre-copy",
                                                                 "post-copy", "hybrid"};
inline constexpr std::string_view kDefaultMigrationMode = "hybrid";

// For messages.
[[nodiscard]] inline std::string migration_mode_names() {
  std::string out;
  for (auto mode : kMigrationModes) out += (out.empty() ? "" : ", ") + std::string(mode);
  return out;
}

[[nodiscard]] inline bool is_migration_mode(std::string_view mode) {
  return std::ranges::find(kMigrationModes, mode) != kMigrationModes.end();
}

// What pages go by. auto: RDMA if both ends have it, else TCP.
inline constexpr std::array<std::string_view, 3> kTransports{"auto", "tcp", "rdma"};
inline constexpr std::string_view kDefaultTransport = "auto";

[[nodiscard]] inline bool is_transport(std::string_view transport) {
  return std::ranges::find(kTransports, transport) != kTransports.end();
}

// Pages move in rounds while the process still runs at the source.
[[nodiscard]] inline bool has_rounds(std::string_view mode) {
  return mode == "pre-copy" || mode == "hybrid";
}

// Pages are still at the source when the process runs at the destination.
[[nodiscard]] inline bool pages_follow(std::string_view mode) {
  return mode == "lazy" || mode == "post-copy" || mode == "hybrid";
}

// What a MigrationOptions may hold; common to the command line and the leader.
inline constexpr unsigned kMaxPrecopyRounds = 64;
inline constexpr double kMaxDowntimeGoalSeconds = 60;
inline constexpr unsigned kMinBandwidthBytesPerSecond = 64U << 10;
// What the wire says for "no limit, whatever is configured"; nodes get 0.
inline constexpr std::uint64_t kUnlimitedBandwidth = ~std::uint64_t{0};
inline constexpr unsigned kMaxMigrationStreams = 16;
inline constexpr unsigned kMaxPrefetchPages = 4096;

}  // namespace gestalt
