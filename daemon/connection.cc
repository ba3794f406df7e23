#include "daemon/connection.h"

#include <netinet/tcp.h>
#include <sys/socket.h>

#include <array>

#include "common/format.h"

namespace gestalt {
namespace {

constexpr auto kFinishTimeout = std::chrono::seconds(1);
constexpr unsigned kUserTimeoutMilliseconds = 5000;

asio::ip::tcp::socket& socket_of(TlsStream& stream) { return stream.next_layer(); }
LocalSocket& socket_of(LocalSocket& stream) { return stream; }

template <class Stream>
class StreamConnection final : public Connection {
 public:
  StreamConnection(Stream stream, std::string name)
      : Connection(stream.get_executor(), std::move(name)), stream_(std::move(stream)) {}
  int native_handle() override { return socket_of(stream_).native_handle(); }

 private:
  Awaitable<Transferred> read_some(asio::mutable_buffer into) override {
    co_return co_await stream_.async_read_some(into, kAsResult);
  }
  Awaitable<Transferred> write_all(asio::const_buffer from) override {
    co_return co_await asio::async_write(stream_, from, kAsResult);
  }
  void shut_down_sending() override {
    boost::system::error_code ignored;
    socket_of(stream_).shutdown(asio::socket_base::shutdown_send, ignored);
  }
  void close_socket() override {
    boost::system::error_code ignored;
    socket_of(stream_).close(ignored);
  }

  Stream stream_;
};

}  // namespace

void Connection::start(OnMessage on_message, OnClosed on_closed) {
  on_message_ = std::move(on_message);
  on_closed_ = std::move(on_closed);
  last_received_ = Clock::now();
  asio::co_spawn(executor_, read_loop(shared_from_this()), asio::detached);
}

Awaitable<> Connection::read_loop(std::shared_ptr<Connection> self) {
  std::vector<std::byte> buffer(64U << 10);
  while (!self->closed_) {
    auto [error, count] = co_await self->read_some(asio::buffer(buffer));
    if (self->closed_) break;
    if (error) {
      bool ended = error == asio::error::eof || error == asio::ssl::error::stream_truncated;
      // A TLS alert: our certificate was refused.
      bool refused = error.category() == asio::error::get_ssl_category();
      self->close(Error{refused ? ErrorCode::kPermission : ErrorCode::kUnavailable,
                        ended ? "the peer closed the connection" : error.message(),
                        {}});
      break;
    }
    self->last_received_ = Clock::now();
    if (auto taken = self->take(std::span(buffer).first(count)); !taken) self->close(taken.error());
  }
}

Result<void> Connection::take(std::span<const std::byte> bytes) {
  decoder_.append(bytes);
  while (!closed_) {
    GESTALT_ASSIGN(auto message, decoder_.next());
    if (!message) break;
    dispatch(std::move(*message));
  }
  return {};
}

void Connection::dispatch(wire::Message message) {
  if (!message.is_reply()) {
    if (!finish_reason_) on_message_(std::move(message));
    return;
  }
  auto node = requests_.extract(message.request_id());
  if (!node) return;  // too late: it timed out
  if (message.has_error()) {
    node.mapped().on_reply(std::unexpected(from_wire(message.error())));
  } else {
    node.mapped().on_reply(std::move(message));
  }
}

Result<void> Connection::send(const wire::Message& message) {
  if (closed_ || finish_reason_) return fail(ErrorCode::kUnavailable, "the connection is closed");
  auto frame = encode_frame(message);
  if (!frame) {
    log::error("message not sent", log::field("peer", name_),
               log::field("error", frame.error().text()));
    return std::unexpected(frame.error());
  }
  if (queued_.size() + writing_bytes_ + frame->size() > max_queued_bytes_) {
    Error reason{ErrorCode::kNoSpace,
                 formatted("the peer reads too slowly: {} bytes wait for it", max_queued_bytes_),
                 {}};
    log::error("connection given up", log::field("peer", name_),
               log::field("reason", reason.message));
    close(reason);
    return std::unexpected(reason);
  }
  queued_ += *frame;
  if (!write_loop_runs_) {
    write_loop_runs_ = true;
    asio::co_spawn(executor_, write_loop(shared_from_this()), asio::detached);
  }
  return {};
}

Awaitable<> Connection::write_loop(std::shared_ptr<Connection> self) {
  while (!self->closed_ && !self->queued_.empty()) {
    std::string writing = std::exchange(self->queued_, {});
    self->writing_bytes_ = writing.size();
    auto [error, count] = co_await self->write_all(asio::buffer(writing));
    self->writing_bytes_ = 0;
    if (error) self->close(Error{ErrorCode::kUnavailable, "send: " + error.message(), {}});
  }
  self->write_loop_runs_ = false;
  if (self->finish_reason_ && !self->closed_) self->shut_down_sending();
}

void Connection::request(wire::Message message, Clock::duration timeout, OnReply on_reply) {
  if (closed_ || requests_.size() >= kMaxOpenRequests) {
    Error error{closed_ ? ErrorCode::kUnavailable : ErrorCode::kBusy,
                closed_ ? formatted("the connection to {} is closed", name_)
                        : formatted("too many open requests to {}", name_),
                {}};
    asio::post(executor_, [run = std::move(on_reply), error] { run(std::unexpected(error)); });
    return;
  }
  std::uint64_t id = next_request_++;
  message.set_request_id(id);
  auto expired = [weak = weak_from_this(), id] {
    auto self = weak.lock();
    if (!self) return;
    auto node = self->requests_.extract(id);
    if (!node) return;
    node.mapped().on_reply(
        fail(ErrorCode::kTimeout, formatted("{} did not answer in time", self->name_)));
  };
  requests_[id] = Request{std::move(on_reply),
                          std::make_unique<Watchdog>(executor_, timeout, std::move(expired))};
  if (auto sent = send(message); !sent) {
    auto node = requests_.extract(id);
    if (!node) return;  // closing answers it
    asio::post(executor_, [run = std::move(node.mapped().on_reply), error = sent.error()] {
      run(std::unexpected(error));
    });
  }
}

Awaitable<Result<wire::Message>> Connection::request(wire::Message message,
                                                     Clock::duration timeout) {
  auto promise = std::make_shared<Promise<Result<wire::Message>>>(executor_);
  request(std::move(message), timeout,
          [promise](Result<wire::Message> answer) { promise->set(std::move(answer)); });
  // The request has its own timeout; the promise's only guards against a bug here.
  auto answer = co_await promise->wait(timeout + std::chrono::seconds(1));
  if (!answer) co_return fail(ErrorCode::kTimeout, "no answer");
  co_return std::move(*answer);
}

void Connection::reply(std::uint64_t request_id, Result<wire::Message> message) {
  if (request_id == 0) return;
  if (!message) {
    send(error_reply(request_id, message.error()));
    return;
  }
  message->set_request_id(request_id);
  message->set_is_reply(true);
  if (auto sent = send(*message); !sent) send(error_reply(request_id, sent.error()));
}

void Connection::close(Error reason) {
  if (closed_) return;
  closed_ = true;
  if (finish_reason_) reason = *finish_reason_;
  finish_watchdog_.reset();
  idle_timer_.cancel();
  close_socket();
  queued_.clear();
  auto finish = [self = shared_from_this(), reason = std::move(reason)] {
    auto requests = std::exchange(self->requests_, {});
    for (auto& [id, request] : requests) {
      request.watchdog.reset();
      request.on_reply(
          fail(ErrorCode::kUnavailable,
               formatted("the connection to {} was closed: {}", self->name_, reason.message)));
    }
    self->on_message_ = nullptr;
    if (auto closed = std::exchange(self->on_closed_, nullptr)) closed(reason);
  };
  asio::post(executor_, std::move(finish));
}

void Connection::finish(Error reason) {
  if (closed_ || finish_reason_) return;
  finish_reason_ = std::move(reason);
  if (!write_loop_runs_) shut_down_sending();
  finish_watchdog_ =
      std::make_unique<Watchdog>(executor_, kFinishTimeout, [weak = weak_from_this()] {
        if (auto self = weak.lock()) self->close(Error{});
      });
}

void Connection::set_idle_timeout(Clock::duration timeout) {
  idle_timeout_ = timeout;
  last_received_ = Clock::now();
  idle_timer_.cancel();
  if (timeout > Clock::duration::zero()) watch_idle();
}

void Connection::watch_idle() {
  if (closed_) return;
  idle_timer_.expires_at(last_received_ + idle_timeout_);
  idle_timer_.async_wait([weak = weak_from_this()](boost::system::error_code error) {
    auto self = weak.lock();
    if (error || !self || self->closed_) return;
    if (Clock::now() - self->last_received_ < self->idle_timeout_) {
      self->watch_idle();
      return;
    }
    self->close(Error{ErrorCode::kTimeout, "the peer is silent", {}});
  });
}

std::shared_ptr<Connection> make_connection(TlsStream stream, std::string name) {
  return std::make_shared<StreamConnection<TlsStream>>(std::move(stream), std::move(name));
}

std::shared_ptr<Connection> make_connection(LocalSocket socket, std::string name) {
  return std::make_shared<StreamConnection<LocalSocket>>(std::move(socket), std::move(name));
}

void tune(asio::ip::tcp::socket& socket) {
  boost::system::error_code ignored;
  socket.set_option(asio::ip::tcp::no_delay(true), ignored);
  ::setsockopt(socket.native_handle(), IPPROTO_TCP, TCP_USER_TIMEOUT, &kUserTimeoutMilliseconds,
               sizeof kUserTimeoutMilliseconds);
}

wire::Message empty_message() {
  wire::Message message;
  message.mutable_empty();
  return message;
}

}  // namespace gestalt
