// The time of day, for what is shown to people. Deadlines and measurements: common/clock.h.
#pragma once

#include <chrono>
#include <cstdint>

namespace gestalt {

[[nodiscard]] inline std::uint64_t unix_seconds() {
  auto now = std::chrono::system_clock::now().time_since_epoch();
  return static_cast<std::uint64_t>(std::chrono::duration_cast<std::chrono::seconds>(now).count());
}

}  // namespace gestalt
