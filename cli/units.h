// Numbers with units, as users write them.
#pragma once

#include <cstdint>
#include <optional>
#include <string_view>

namespace gestalt::cli {

// "100M", "1.5G", "65536", also with "B", "/s" or both behind: bytes each second, powers
// of 1024.
[[nodiscard]] std::optional<std::uint64_t> parse_rate(std::string_view text);
// "50" and "50ms" are milliseconds, "0.2s" seconds, "800us" microseconds.
[[nodiscard]] std::optional<double> parse_duration_seconds(std::string_view text);

}  // namespace gestalt::cli
