// A framed wire::Message connection on an EventLoop (local sockets). The daemon has
// its own on Asio (daemon/connection.h).
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <string>

#include "common/event_loop.h"
#include "common/fd.h"
#include "common/frame.h"

namespace gestalt {

class MessageChannel {
 public:
  using OnMessage = std::function<void(wire::Message)>;
  using OnClosed = std::function<void(const Error&)>;
  using OnReply = std::function<void(Result<wire::Message>)>;

  // Takes over a connected socket. The handlers run on the loop; `on_closed` runs once,
  // when the peer is gone or sent nonsense, and may destroy the channel.
  MessageChannel(EventLoop& loop, Fd socket, OnMessage on_message, OnClosed on_closed,
                 std::uint32_t limit_bytes = kMaxFrameBytes);
  ~MessageChannel();
  MessageChannel(const MessageChannel&) = delete;
  MessageChannel& operator=(const MessageChannel&) = delete;

  // Queues a message. A message beyond the frame limit is an error and not sent.
  Result<void> send(const wire::Message& message);
  // Sends with a request id; `on_reply` runs exactly once: with the reply, with the
  // error it carries, with kTimeout, or with kUnavailable when the channel closes; not at
  // all when the channel is destroyed before. Never from within request() itself.
  void request(wire::Message message, Clock::duration timeout, OnReply on_reply);

  [[nodiscard]] int fd() const { return socket_.get(); }
  [[nodiscard]] bool open() const { return socket_.valid(); }
  [[nodiscard]] std::size_t queued_bytes() const { return out_.size(); }

 private:
  struct Request {
    OnReply on_reply;
    EventLoop::TimerId timer;
  };
  void on_events(std::uint32_t events);
  void read_some();
  void flush();
  void close(Error error);
  void dispatch(wire::Message message);

  EventLoop& loop_;
  Fd socket_;
  std::shared_ptr<OnMessage> on_message_;  // shared: it may destroy us while it runs
  OnClosed on_closed_;
  FrameDecoder decoder_;
  std::string out_;
  std::map<std::uint64_t, Request> requests_;
  std::uint64_t next_request_ = 1;
  std::shared_ptr<bool> alive_ = std::make_shared<bool>(true);
};

}  // namespace gestalt
