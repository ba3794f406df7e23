// One FUSE connection, served on an EventLoop: libfuse's low-level interface without its own
// loop. The file system is mounted by somebody else (session_mounts.h), who made the device.
#pragma once

#define FUSE_USE_VERSION 317
#include <fuse_lowlevel.h>

#include <memory>
#include <string>

#include "common/clock.h"
#include "common/event_loop.h"
#include "common/fd.h"

namespace gestalt {

class FuseChannel {
 public:
  // `device`: an open /dev/fuse that is mounted, or will be. `operations` get `owner` as
  // their request's user data. `on_end`: it was unmounted or its connection aborted.
  [[nodiscard]] static Result<std::unique_ptr<FuseChannel>> open(
      EventLoop& loop, Fd device, const fuse_lowlevel_ops& operations, void* owner,
      std::function<void()> on_end);
  ~FuseChannel();
  FuseChannel(const FuseChannel&) = delete;
  FuseChannel& operator=(const FuseChannel&) = delete;

  // For notifications, which must come from another thread than the loop's: they wait for
  // requests that only the loop can answer.
  [[nodiscard]] fuse_session* session() const { return session_; }

 private:
  FuseChannel(EventLoop& loop, Fd device, std::function<void()> on_end)
      : loop_(loop), device_(std::move(device)), on_end_(std::move(on_end)) {}
  void read_requests();

  EventLoop& loop_;
  Fd device_;
  std::function<void()> on_end_;
  fuse_session* session_ = nullptr;
  fuse_buf buffer_{};
  Clock::time_point answered_;  // the last request
  int soon_ones_ = 0;           // that came right after the last answer, in a row
};

}  // namespace gestalt
