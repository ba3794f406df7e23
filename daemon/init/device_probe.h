// When RDMA devices are to be tried (migrate/zero_copy_probe.h): when there are others than at the
// last time, by one child at once.
#pragma once

#include <sys/types.h>

#include <functional>
#include <string>
#include <utility>
#include <vector>

#include "common/log.h"
#include "common/result.h"

namespace gestalt {

class DeviceProbe {
 public:
  using Devices = std::vector<std::string>;
  // Starts the child that tries those of which nothing is known.
  explicit DeviceProbe(std::function<Result<pid_t>()> start) : start_(std::move(start)) {}

  // A child that does it, too, was started when there were these.
  void started(pid_t pid, Devices devices) {
    child_ = pid;
    tried_ = std::move(devices);
  }
  // There are these now. While a child is at work, it is the next look that counts.
  void look(Devices devices) {
    if (child_ != 0 || devices == tried_) return;
    auto pid = start_();
    if (!pid) log::warning("RDMA devices are not tried", log::field("error", pid.error().text()));
    // One that cannot be started is not tried again and again.
    started(pid.value_or(0), std::move(devices));
  }
  // Of any child.
  void ended(pid_t pid) {
    if (pid == child_) child_ = 0;
  }

 private:
  std::function<Result<pid_t>()> start_;
  pid_t child_ = 0;
  Devices tried_;
};

}  // namespace gestalt
