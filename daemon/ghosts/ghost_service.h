// gestalt-ghosts: the ghost keeper as gestaltd's helper. Keeps its ghosts while gestaltd
// restarts. Takes GhostUpdate, answers GhostReport, sends GhostSignals.
#pragma once

#include <map>
#include <memory>
#include <string>

#include "common/event_loop.h"
#include "common/message_channel.h"
#include "daemon/ghosts/ghost_keeper.h"

namespace gestalt {

class GhostService {
 public:
  explicit GhostService(std::string socket_path);

  [[nodiscard]] Result<void> start();
  // Until SIGTERM or SIGINT.
  void run() { loop_.run(); }

 private:
  void connect();
  void on_message(const wire::Message& message);
  void on_update(const wire::Message& message);
  void on_done(const wire::GhostSignalsDone& done);
  // The signals that wait, as far as gestaltd takes them.
  void send_signals();
  void send(const wire::Message& message);
  [[nodiscard]] bool connected() const { return channel_ != nullptr && channel_->open(); }

  std::string socket_path_;
  EventLoop loop_;
  std::uint64_t id_ = 0;
  std::uint64_t next_sequence_ = 1;
  // By their sequence. Those on their way are sent again to the next gestaltd.
  std::map<std::uint64_t, GhostSignal> waiting_;
  std::uint64_t next_to_send_ = 1;
  bool sending_soon_ = false;
  bool sending_later_ = false;
  Fd signals_;
  std::unique_ptr<MessageChannel> channel_;
  GhostKeeper keeper_;
};

}  // namespace gestalt
