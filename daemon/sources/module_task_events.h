// Events of processes by the kernel module's multicast group, as kmod/uapi/gestalt.h has it.
#pragma once

#include "daemon/sources/kernel_messages.h"
#include "daemon/sources/module_client.h"
#include "daemon/sources/task_events.h"

namespace gestalt {

// Makes news of the group's messages. Not thread-safe.
class ModuleEventDecoder {
 public:
  explicit ModuleEventDecoder(int family) : family_(family) {}
  void decode(Bytes datagram, TaskNews& news);

 private:
  void decode_event(Bytes event, TaskNews& news);
  int family_;
  std::uint64_t last_sequence_ = 0;  // 0: none yet
};

class ModuleTaskEvents final : public TaskEvents {
 public:
  // kUnavailable: the module is not loaded, or its events do not come here: they are told in the
  // initial network namespace only. Takes up to kTrial to find that out.
  static constexpr std::chrono::seconds kTrial{1};
  [[nodiscard]] static Result<std::unique_ptr<TaskEvents>> open();

  [[nodiscard]] const char* name() const override { return "kmod"; }
  [[nodiscard]] int descriptor() const override;
  [[nodiscard]] Result<TaskNews> take() override;

 private:
  explicit ModuleTaskEvents(NetlinkGroup group)
      : group_(std::move(group)), decoder_(group_.family) {}
  [[nodiscard]] Result<void> try_out();

  NetlinkGroup group_;
  ModuleEventDecoder decoder_;
};

}  // namespace gestalt
