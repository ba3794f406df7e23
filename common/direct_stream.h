// Bytes of a pipe over a connection of their own, without passing through a program's memory:
// pipe -> splice(2) -> socket -> splice(2) -> pipe. What the other end has not acknowledged is kept
// by tee(2), so that whatever ends the connection, nothing is lost or doubled: both ends know their
// offset, and the stream goes on by messages (common/stdio_window.h).
//
//   sender -> receiver: u64 offset of the first byte, then the bytes
//   receiver -> sender: u64 offsets up to which the bytes are in the pipe
//
// Both in network order. Run on the loop's thread. The sockets and pipes are non-blocking.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>

#include "common/event_loop.h"
#include "common/fd.h"

namespace gestalt {

// What a sender keeps at most.
inline constexpr std::size_t kDirectWindowBytes = 256U << 10;

class DirectSender {
 public:
  // What was taken from the pipe and is not acknowledged, and whether the pipe is at its end.
  struct Rest {
    std::uint64_t base_offset = 0;
    std::string pending;
    bool eof = false;
  };

  // Sends what comes out of `source`, whose first byte has that offset. `on_end` runs at most
  // once, from the loop: the connection is gone, or the pipe has ended and everything is
  // acknowledged.
  [[nodiscard]] static Result<std::unique_ptr<DirectSender>> create(EventLoop& loop, Fd socket,
                                                                    int source,
                                                                    std::uint64_t offset,
                                                                    std::function<void()> on_end);
  ~DirectSender();
  DirectSender(const DirectSender&) = delete;
  DirectSender& operator=(const DirectSender&) = delete;

  // Whether to take more from the pipe.
  void set_reading(bool reading);
  // Where the pipe is.
  [[nodiscard]] std::uint64_t taken_offset() const { return base_ + kept_bytes_ + to_keep_bytes_; }
  // Ends the connection. Once, and nothing after it.
  [[nodiscard]] Rest stop();

 private:
  DirectSender(EventLoop& loop, Fd socket, int source, std::uint64_t offset,
               std::function<void()> on_end);
  void on_socket(std::uint32_t events);
  [[nodiscard]] bool take_acknowledgements();
  [[nodiscard]] bool release(std::uint64_t offset);
  void send_some();
  [[nodiscard]] bool pass_on();
  [[nodiscard]] bool keep_some();
  [[nodiscard]] bool take_some();
  void update_watches();
  void end();

  EventLoop& loop_;
  Fd socket_;
  int source_;
  Fd null_;
  Pipe passing_;        // taken, and not sent
  Pipe kept_;           // not acknowledged
  std::uint64_t base_;  // everything below is acknowledged
  std::size_t kept_bytes_ = 0;
  std::size_t to_send_bytes_ = 0;  // of passing_, from its front: in kept_, too
  std::size_t to_keep_bytes_ = 0;  // of passing_, behind those
  std::array<unsigned char, 8> acknowledgement_{};
  std::size_t acknowledgement_bytes_ = 0;
  bool reading_ = true;
  bool eof_ = false;
  bool full_ = false;  // no room to keep more
  std::function<void()> on_end_;
  EventLoop::TimerId end_timer_ = 0;
};

class DirectReceiver {
 public:
  struct Handlers {
    // Where the stream is, if all of it that came is in the pipe.
    std::function<bool(std::uint64_t offset)> starts_at;
    // At most once, from the loop: the connection is gone; `closed`: nobody reads the pipe any
    // more.
    std::function<void(bool closed)> on_end;
  };

  DirectReceiver(EventLoop& loop, Fd socket, int sink, Handlers handlers);
  ~DirectReceiver();
  DirectReceiver(const DirectReceiver&) = delete;
  DirectReceiver& operator=(const DirectReceiver&) = delete;

  // Whether anything has come by this way: then the stream is at offset().
  [[nodiscard]] bool started() const { return started_; }
  [[nodiscard]] std::uint64_t offset() const { return offset_; }

 private:
  void receive_some();
  [[nodiscard]] bool read_start();
  void acknowledge();
  void acknowledge_soon();
  void await_sink();
  void end(bool closed);

  EventLoop& loop_;
  Fd socket_;
  int sink_;
  Handlers handlers_;
  std::array<unsigned char, 8> start_{};
  std::size_t start_bytes_ = 0;
  bool started_ = false;
  std::uint64_t offset_ = 0;
  std::uint64_t acknowledged_ = 0;
  EventLoop::TimerId timer_ = 0;
  EventLoop::TimerId end_timer_ = 0;
};

}  // namespace gestalt
