// When the agent looks at its processes next: once a period, and soon after they have done
// something. Pure: the time is told.
#pragma once

#include <optional>

#include "common/clock.h"

namespace gestalt {

// What happens in one go is in one round.
inline constexpr auto kRoundDelay = std::chrono::milliseconds(20);
// Between the end of a round and the begin of an early one: rounds are at most one part in eleven
// of the time.
inline constexpr auto kRoundRest = std::chrono::milliseconds(100);
inline constexpr int kRoundRestFactor = 10;

class RoundPacer {
 public:
  RoundPacer() = default;
  explicit RoundPacer(Clock::duration period) : period_(period) {}

  // Something has happened. True: it brings the next round forward. During a round, too: who was
  // looked at already may be who it happened to.
  bool note(Clock::time_point now);
  void begin(Clock::time_point now);
  void end(Clock::time_point now);
  // Of the last round that has ended.
  [[nodiscard]] Clock::time_point next() const;

 private:
  Clock::duration period_{};
  Clock::time_point begun_{};
  Clock::time_point ended_{};
  std::optional<Clock::time_point> happened_;  // first, since the last round began
};

}  // namespace gestalt
