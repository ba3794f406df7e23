// A framed wire::Message connection on Asio: over TLS between nodes, over a local
// socket on a node. Runs on the io_context's one thread. docs/wire-format.md.
#pragma once

#include "daemon/asio.h"

namespace gestalt {

// What a slow peer may leave unread before it is given up, if nothing else is set.
inline constexpr std::size_t kMaxQueuedBytes = 16U << 20;
inline constexpr std::size_t kMaxOpenRequests = 4096;

// Lives as long as somebody holds it or its loops run; close() ends the loops.
class Connection : public std::enable_shared_from_this<Connection> {
 public:
  using OnMessage = std::function<void(wire::Message)>;
  using OnClosed = std::function<void(const Error&)>;
  using OnReply = std::function<void(Result<wire::Message>)>;

  virtual ~Connection() = default;
  Connection(const Connection&) = delete;
  Connection& operator=(const Connection&) = delete;

  // Begins to read. `on_message` gets everything but replies to our requests, in order;
  // `on_closed` runs once, never from within another call of this class. Handlers that
  // hold the connection's owner are dropped after that.
  void start(OnMessage on_message, OnClosed on_closed);

  // Queues; nothing happens once it is closed. A message beyond the frame limit is an
  // error, logged and not sent.
  Result<void> send(const wire::Message& message);
  // Sends with a request id; exactly one call of `on_reply`: the reply, the error it
  // carries, kTimeout, or kUnavailable when the connection closes.
  void request(wire::Message message, Clock::duration timeout, OnReply on_reply);
  [[nodiscard]] Awaitable<Result<wire::Message>> request(wire::Message message,
                                                         Clock::duration timeout);
  // Answers a request: `message` gets its id, or the error is sent. No id: nothing.
  void reply(std::uint64_t request_id, Result<wire::Message> message);

  void close(Error reason);
  // Closes when all that is queued is sent and the peer had a second to read it.
  void finish(Error reason);
  // Closes when nothing was received for so long; zero ends the watch.
  void set_idle_timeout(Clock::duration timeout);
  void set_limit_bytes(std::uint32_t limit_bytes) { decoder_.set_limit_bytes(limit_bytes); }

  void set_max_queued_bytes(std::size_t bytes) { max_queued_bytes_ = bytes; }

  [[nodiscard]] bool open() const { return !closed_; }
  // Not read by the peer's kernel yet. Who sends much should wait while this is much.
  [[nodiscard]] std::size_t queued_bytes() const { return queued_.size() + writing_bytes_; }
  // For logs: the address, later the node.
  [[nodiscard]] const std::string& name() const { return name_; }
  void set_name(std::string name) { name_ = std::move(name); }
  [[nodiscard]] virtual int native_handle() = 0;
  [[nodiscard]] const asio::any_io_executor& executor() const { return executor_; }

 protected:
  Connection(asio::any_io_executor executor, std::string name)
      : executor_(std::move(executor)), name_(std::move(name)), idle_timer_(executor_) {}
  using Transferred = std::tuple<boost::system::error_code, std::size_t>;
  virtual Awaitable<Transferred> read_some(asio::mutable_buffer into) = 0;
  virtual Awaitable<Transferred> write_all(asio::const_buffer from) = 0;
  virtual void shut_down_sending() = 0;
  virtual void close_socket() = 0;

 private:
  struct Request {
    OnReply on_reply;
    std::unique_ptr<Watchdog> watchdog;
  };
  static Awaitable<> read_loop(std::shared_ptr<Connection> self);
  static Awaitable<> write_loop(std::shared_ptr<Connection> self);
  Result<void> take(std::span<const std::byte> bytes);
  void dispatch(wire::Message message);
  void watch_idle();

  asio::any_io_executor executor_;
  std::string name_;
  FrameDecoder decoder_;
  OnMessage on_message_;
  OnClosed on_closed_;
  std::string queued_;  // not yet given to the write loop
  std::size_t writing_bytes_ = 0;
  std::size_t max_queued_bytes_ = kMaxQueuedBytes;
  bool write_loop_runs_ = false;
  bool closed_ = false;
  std::optional<Error> finish_reason_;
  std::unique_ptr<Watchdog> finish_watchdog_;
  std::map<std::uint64_t, Request> requests_;
  std::uint64_t next_request_ = 1;
  asio::steady_timer idle_timer_;
  Clock::duration idle_timeout_{};
  Clock::time_point last_received_ = Clock::now();
};

using TlsStream = asio::ssl::stream<asio::ip::tcp::socket>;
using LocalSocket = asio::local::stream_protocol::socket;

// Take over a connected stream, TLS after its handshake.
[[nodiscard]] std::shared_ptr<Connection> make_connection(TlsStream stream, std::string name);
[[nodiscard]] std::shared_ptr<Connection> make_connection(LocalSocket socket, std::string name);

// No delay, and no waiting for acknowledgements beyond five seconds.
void tune(asio::ip::tcp::socket& socket);

// The reply that says no more than "done".
[[nodiscard]] wire::Message empty_message();

}  // namespace gestalt
