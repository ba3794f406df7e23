// When RDMA devices are to be tried (migrate/zero_copy_probe.h), by one child at once: when there
// are others than at the last time; and again, ever more rarely, as long as one does not work. It
// may have had no address, or no link, yet.
#pragma once

#include <sys/types.h>

#include <algorithm>
#include <chrono>
#include <functional>
#include <string>
#include <utility>
#include <vector>

#include "common/clock.h"
#include "common/log.h"
#include "common/result.h"

namespace gestalt {

class DeviceProbe {
 public:
  using Devices = std::vector<std::string>;
  static constexpr std::chrono::seconds kFirstPause{60};
  static constexpr std::chrono::seconds kLongestPause{3600};

  // `start`: the child that tries those that are not known to work. `all_work`: it is known of
  // these.
  DeviceProbe(std::function<Result<pid_t>()> start, std::function<bool(const Devices&)> all_work)
      : start_(std::move(start)), all_work_(std::move(all_work)) {}

  // A child that does it, too, was started when there were these.
  void started(pid_t pid, Devices devices, Clock::time_point now = Clock::now()) {
    const bool again = devices == tried_;
    pause_ = again ? std::min(2 * pause_, kLongestPause) : kFirstPause;
    next_ = now + pause_;
    child_ = pid;
    tried_ = std::move(devices);
  }
  // There are these now. While a child is at work, it is the next look that counts.
  void look(Devices devices, Clock::time_point now = Clock::now()) {
    if (child_ != 0) return;
    if (devices == tried_ && (now < next_ || all_work_(devices))) return;
    auto pid = start_();
    if (!pid) log::warning("RDMA devices are not tried", log::field("error", pid.error().text()));
    // One that cannot be started has its pause, too.
    started(pid.value_or(0), std::move(devices), now);
  }
  // Of any child.
  void ended(pid_t pid) {
    if (pid == child_) child_ = 0;
  }

 private:
  std::function<Result<pid_t>()> start_;
  std::function<bool(const Devices&)> all_work_;
  pid_t child_ = 0;
  std::chrono::seconds pause_ = kFirstPause;
  Clock::time_point next_;
  Devices tried_;
};

}  // namespace gestalt
