// A token bucket: --bandwidth. Thread-safe.
#pragma once

#include <algorithm>
#include <cstdint>
#include <mutex>
#include <thread>

#include "common/clock.h"

namespace gestalt {

class RateLimiter {
 public:
  explicit RateLimiter(std::uint64_t bytes_per_second) : bytes_per_second_(bytes_per_second) {}

  // Returns when so many bytes may be sent. 0 bytes per second: no limit.
  void take(std::uint64_t bytes) {
    if (bytes_per_second_ == 0) return;
    Clock::time_point when;
    {
      std::lock_guard lock(mutex_);
      auto now = Clock::now();
      // What was not used in the last tenth of a second may be made up for.
      next_ = std::max(next_, now - std::chrono::milliseconds(100));
      when = next_;
      double seconds = static_cast<double>(bytes) / static_cast<double>(bytes_per_second_);
      next_ += std::chrono::duration_cast<Clock::duration>(std::chrono::duration<double>(seconds));
    }
    std::this_thread::sleep_until(when);
  }

 private:
  std::uint64_t bytes_per_second_;
  std::mutex mutex_;
  Clock::time_point next_;
};

}  // namespace gestalt
