#include "common/message_channel.h"

#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <utility>

namespace gestalt {

MessageChannel::MessageChannel(EventLoop& loop, Fd socket, OnMessage on_message, OnClosed on_closed,
                               std::uint32_t limit_bytes)
    : loop_(loop),
      socket_(std::move(socket)),
      on_message_(std::make_shared<OnMessage>(std::move(on_message))),
      on_closed_(std::move(on_closed)),
      decoder_(limit_bytes) {
  (void)set_nonblocking(socket_.get(), true);
  loop_.watch(socket_.get(), EPOLLIN, [this](std::uint32_t events) { on_events(events); });
}

MessageChannel::~MessageChannel() {
  *alive_ = false;
  if (socket_) loop_.unwatch(socket_.get());
  for (auto& [id, request] : requests_) loop_.cancel(request.timer);
}

Result<void> MessageChannel::send(const wire::Message& message) {
  if (!socket_) return fail(ErrorCode::kUnavailable, "the connection is closed");
  GESTALT_ASSIGN(auto frame, encode_frame(message));
  out_ += frame;
  flush();
  return {};
}

void MessageChannel::request(wire::Message message, Clock::duration timeout, OnReply on_reply) {
  std::uint64_t id = next_request_++;
  message.set_request_id(id);
  auto timer = loop_.after(timeout, [this, id] {
    auto node = requests_.extract(id);
    if (node)
      node.mapped().on_reply(fail(ErrorCode::kTimeout, "the daemon did not answer in time"));
  });
  requests_[id] = Request{std::move(on_reply), timer};
  if (auto sent = send(message); !sent) {
    auto node = requests_.extract(id);
    if (!node) return;  // closing answered it
    loop_.cancel(node.mapped().timer);
    loop_.defer([reply = std::move(node.mapped().on_reply), error = sent.error()] {
      reply(std::unexpected(error));
    });
  }
}

void MessageChannel::on_events(std::uint32_t events) {
  auto alive = alive_;
  if ((events & EPOLLOUT) != 0) flush();
  if (*alive && socket_ && (events & (EPOLLIN | EPOLLHUP | EPOLLERR)) != 0) read_some();
}

void MessageChannel::read_some() {
  auto alive = alive_;
  std::array<std::byte, 65536> buffer;
  ssize_t count = ::read(socket_.get(), buffer.data(), buffer.size());
  if (count < 0 && (errno == EAGAIN || errno == EINTR)) return;
  if (count <= 0) {
    close(Error{ErrorCode::kUnavailable, "the peer closed the connection", {}});
    return;
  }
  decoder_.append(std::span(buffer).first(static_cast<std::size_t>(count)));
  while (*alive && socket_) {
    auto message = decoder_.next();
    if (!message) {
      close(message.error());
      return;
    }
    if (!*message) return;
    dispatch(std::move(**message));
  }
}

void MessageChannel::dispatch(wire::Message message) {
  if (!message.is_reply()) {
    auto on_message = on_message_;
    (*on_message)(std::move(message));
    return;
  }
  auto node = requests_.extract(message.request_id());
  if (!node) return;  // too late: it timed out
  loop_.cancel(node.mapped().timer);
  if (message.has_error()) {
    node.mapped().on_reply(std::unexpected(from_wire(message.error())));
  } else {
    node.mapped().on_reply(std::move(message));
  }
}

void MessageChannel::flush() {
  while (socket_ && !out_.empty()) {
    ssize_t count = ::send(socket_.get(), out_.data(), out_.size(), MSG_NOSIGNAL);
    if (count < 0) {
      if (errno == EINTR) continue;
      if (errno == EAGAIN) break;
      // The reading side sees the end and closes; it may still find messages to read.
      out_.clear();
      break;
    }
    out_.erase(0, static_cast<std::size_t>(count));
  }
  if (socket_) loop_.change(socket_.get(), out_.empty() ? EPOLLIN : EPOLLIN | EPOLLOUT);
}

void MessageChannel::close(Error error) {
  if (!socket_) return;
  auto alive = alive_;
  loop_.unwatch(socket_.get());
  socket_.reset();
  auto requests = std::exchange(requests_, {});
  for (auto& [id, request] : requests) {
    loop_.cancel(request.timer);
    request.on_reply(std::unexpected(error));
    if (!*alive) return;
  }
  // Out of the channel first, which it may destroy.
  auto on_closed = std::move(on_closed_);
  on_closed(error);
}

}  // namespace gestalt
