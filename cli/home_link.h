// A deputy's connection to the stand-in that brings its process home. From the stand-in's word on
// the deputy relays nothing; if the connection ends and the deputy still lives, the process has not
// come home, and the deputy goes on.
#pragma once

#include <functional>
#include <memory>
#include <string>

#include "common/message_channel.h"

namespace gestalt::cli {

class HomeLink {
 public:
  struct Handlers {
    std::function<wire::DeputyState()> pause;
    std::function<void()> resume;  // only after a pause
  };

  HomeLink(EventLoop& loop, Handlers handlers) : loop_(loop), handlers_(std::move(handlers)) {}

  // A second time: what there was is over. Only root's sockets are connected to.
  void connect(const std::string& path);
  [[nodiscard]] bool paused() const { return paused_; }

 private:
  void on_message(const wire::Message& message);
  void on_closed();

  EventLoop& loop_;
  Handlers handlers_;
  std::unique_ptr<MessageChannel> channel_;
  bool paused_ = false;
};

}  // namespace gestalt::cli
