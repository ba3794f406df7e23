// Monotonic time for deadlines and measurements; never the wall clock.
#pragma once

#include <chrono>

namespace gestalt {

using Clock = std::chrono::steady_clock;
using Deadline = Clock::time_point;
using std::chrono::milliseconds;

[[nodiscard]] inline Deadline deadline_in(Clock::duration duration) {
  return Clock::now() + duration;
}

// For poll(2) and epoll_wait(2): never negative, rounded up.
[[nodiscard]] inline int remaining_milliseconds(Deadline deadline) {
  auto left = std::chrono::ceil<milliseconds>(deadline - Clock::now()).count();
  if (left < 0) return 0;
  return left > 1'000'000'000 ? 1'000'000'000 : static_cast<int>(left);
}

[[nodiscard]] inline double seconds_between(Clock::time_point from, Clock::time_point to) {
  return std::chrono::duration<double>(to - from).count();
}

}  // namespace gestalt
