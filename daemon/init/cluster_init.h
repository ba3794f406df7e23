// What gestalt-init does once it is pid 1.
#pragma once

#include <list>
#include <memory>
#include <string>

#include "common/event_loop.h"
#include "common/fd.h"
#include "common/message_channel.h"
#include "daemon/init/device_probe.h"
#include "daemon/init/pid_slice_keeper.h"

namespace gestalt {

class ClusterInit {
 public:
  ClusterInit();
  [[nodiscard]] Result<void> start(const std::string& socket_path);
  void run() { loop_.run(); }

 private:
  void accept_agent();
  void on_message(MessageChannel& agent, const wire::Message& message);
  void reap();
  void keep_slice();
  void watch_for_module();
  void start_probe();
  void watch_devices();
  [[nodiscard]] Result<pid_t> spawn_stand_in(const wire::SpawnStandIn& request);
  void spawn_ghosts();
  [[nodiscard]] Result<pid_t> spawn_view(const wire::SpawnView& request);

  EventLoop loop_;
  Fd listener_;
  Fd signals_;
  std::list<std::unique_ptr<MessageChannel>> agents_;
  std::unique_ptr<PidSliceKeeper> slice_;
  std::optional<ModuleWatch> module_watch_;
  DeviceProbe device_probe_;
  pid_t ghosts_ = 0;  // gestalt-ghosts
};

}  // namespace gestalt
