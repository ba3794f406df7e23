// The stand-in's connection to the node's gestaltd, made again when that restarts.
// Runs on the event loop's thread.
#pragma once

#include <functional>
#include <memory>
#include <vector>

#include "common/event_loop.h"
#include "common/message_channel.h"

namespace gestalt {

class AgentLink {
 public:
  using OnMessage = std::function<void(wire::Message)>;
  // Gives the hello that opens each connection.
  using MakeHello = std::function<wire::Message()>;

  AgentLink(EventLoop& loop, OnMessage on_message, MakeHello make_hello);

  void connect();
  // Lost where there is no connection: what matters is in the hello, or sent again at
  // the resync that follows it.
  void send(const wire::Message& message);
  // Kept until there is a connection: for what nobody would ask for again.
  void send_surely(wire::Message message);
  [[nodiscard]] bool connected() const { return channel_ != nullptr && channel_->open(); }
  [[nodiscard]] bool flushed() const {
    return connected() ? channel_->queued_bytes() == 0 : kept_.empty();
  }

 private:
  EventLoop& loop_;
  OnMessage on_message_;
  MakeHello make_hello_;
  std::unique_ptr<MessageChannel> channel_;
  std::vector<wire::Message> kept_;
};

}  // namespace gestalt
