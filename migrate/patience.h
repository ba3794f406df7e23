// How long to wait for another process to do something that takes next to no time, unless it
// cannot.
#pragma once

#include <algorithm>

#include "common/clock.h"

namespace gestalt {

// Where we did not run, neither did it: on a virtual machine that was paused, all time-outs are
// over at once. Such time does not count, unless there is a deadline. Not thread-safe.
class Patience {
 public:
  explicit Patience(Clock::duration duration)
      : forgives_(true), expected_(Clock::now()), deadline_(expected_ + duration) {}
  explicit Patience(Deadline deadline) : expected_(Clock::now()), deadline_(deadline) {}

  [[nodiscard]] bool is_over() {
    auto now = Clock::now();
    if (forgives_ && now - expected_ > kStall) deadline_ += now - expected_;
    expected_ = now;
    return now >= deadline_;
  }
  // At most as long; the caller waits next.
  [[nodiscard]] Clock::duration next_wait(Clock::duration most) {
    auto now = Clock::now();
    auto wait = std::clamp<Clock::duration>(deadline_ - now, std::chrono::microseconds(100), most);
    expected_ = now + wait;
    return wait;
  }

 private:
  static constexpr Clock::duration kStall = std::chrono::milliseconds(20);
  bool forgives_ = false;
  Clock::time_point expected_;  // when we look next
  Deadline deadline_;
};

}  // namespace gestalt
