// Keeps a pid namespace's allocation inside a slice of pids: by the kernel module where it is
// loaded, which no fork escapes; else by ns_last_pid.
//
// The kernel hands out pids in order from ns_last_pid on. A poller sends it back to
// the slice's start before the end is reached; how long before (the guard band) adapts
// to the observed fork rate, since forks between two polls cannot be seen.
#pragma once

#include <cstdint>
#include <optional>

#include "common/clock.h"
#include "common/fd.h"
#include "common/result.h"
#include "daemon/sources/module_client.h"

namespace gestalt {

class PidSliceKeeper {
 public:
  // Must be called from inside the pid namespace that is to be kept.
  [[nodiscard]] static Result<PidSliceKeeper> open();

  // Takes effect at once. Both ends are inclusive.
  [[nodiscard]] Result<void> set_slice(std::uint32_t first, std::uint32_t last);
  [[nodiscard]] bool has_slice() const { return last_ != 0; }

  // The module has come or gone, perhaps.
  void look_for_module();

  // To be called again after the returned time.
  [[nodiscard]] Clock::duration poll();

 private:
  explicit PidSliceKeeper(Fd last_pid) : last_pid_(std::move(last_pid)) {}
  [[nodiscard]] Result<std::uint32_t> read() const;
  [[nodiscard]] Result<void> rewind();

  std::optional<ModuleClient> module_;  // keeps the slice
  Fd last_pid_;
  std::uint32_t first_ = 0;
  std::uint32_t last_ = 0;
  std::uint32_t previous_ = 0;
  Clock::time_point polled_;
  double forks_per_second_ = 0;  // decaying maximum
};

}  // namespace gestalt
