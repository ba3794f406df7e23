#include "common/direct_stream.h"

#include <endian.h>
#include <fcntl.h>
#include <poll.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/socket.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

namespace gestalt {
namespace {

constexpr std::size_t kAcknowledgeBytes = kDirectWindowBytes / 4;
constexpr int kMostAtOnce = 16;  // then others on the loop have their turn
constexpr auto kAcknowledgeDelay = milliseconds(2);
constexpr unsigned kSplice = SPLICE_F_NONBLOCK | SPLICE_F_MOVE;

bool would_block(ssize_t count) { return count < 0 && (errno == EAGAIN || errno == EINTR); }

Result<Pipe> make_window() {
  GESTALT_ASSIGN(auto pipe, make_pipe());
  // Refused beyond a user's share of pipe memory: a smaller window, then.
  (void)::fcntl(pipe.write.get(), F_SETPIPE_SZ, static_cast<int>(kDirectWindowBytes));
  GESTALT_TRY(set_nonblocking(pipe.read.get(), true));
  GESTALT_TRY(set_nonblocking(pipe.write.get(), true));
  return pipe;
}

void append_from(int pipe, std::size_t bytes, std::string& out) {
  auto before = out.size();
  out.resize(before + bytes);
  std::size_t done = 0;
  while (done < bytes) {
    ssize_t count = ::read(pipe, out.data() + before + done, bytes - done);
    if (count <= 0) break;
    done += static_cast<std::size_t>(count);
  }
  out.resize(before + done);
}

}  // namespace

// ------------------------------------------------------------------------- sender

Result<std::unique_ptr<DirectSender>> DirectSender::create(EventLoop& loop, Fd socket, int source,
                                                           std::uint64_t offset,
                                                           std::function<void()> on_end) {
  std::unique_ptr<DirectSender> sender(
      new DirectSender(loop, std::move(socket), source, offset, std::move(on_end)));
  GESTALT_ASSIGN(sender->passing_, make_window());
  GESTALT_ASSIGN(sender->kept_, make_window());
  GESTALT_ASSIGN(sender->null_, open_file("/dev/null", O_WRONLY));
  std::uint64_t start = htobe64(offset);
  // The first bytes of a new connection always fit.
  if (::send(sender->socket_.get(), &start, sizeof start, MSG_NOSIGNAL) != sizeof start)
    return fail_errno(errno, "begin a stream of its own");
  loop.watch(sender->socket_.get(), EPOLLIN,
             [self = sender.get()](std::uint32_t events) { self->on_socket(events); });
  loop.watch(source, EPOLLIN, [self = sender.get()](std::uint32_t) { self->send_some(); });
  return sender;
}

DirectSender::DirectSender(EventLoop& loop, Fd socket, int source, std::uint64_t offset,
                           std::function<void()> on_end)
    : loop_(loop),
      socket_(std::move(socket)),
      source_(source),
      base_(offset),
      on_end_(std::move(on_end)) {}

DirectSender::~DirectSender() {
  loop_.cancel(end_timer_);
  if (!socket_) return;
  loop_.unwatch(socket_.get());
  loop_.unwatch(source_);
}

DirectSender::Rest DirectSender::stop() {
  Rest rest{.base_offset = base_, .pending = {}, .eof = eof_};
  append_from(kept_.read.get(), kept_bytes_, rest.pending);
  // Its front is in there already.
  std::string passing;
  append_from(passing_.read.get(), to_send_bytes_ + to_keep_bytes_, passing);
  rest.pending += passing.substr(std::min(to_send_bytes_, passing.size()));
  loop_.cancel(end_timer_);
  loop_.unwatch(socket_.get());
  loop_.unwatch(source_);
  socket_.reset();
  return rest;
}

void DirectSender::set_reading(bool reading) {
  reading_ = reading;
  if (end_timer_ == 0) update_watches();
}

// Who hears of it destroys us.
void DirectSender::end() {
  loop_.unwatch(socket_.get());
  loop_.unwatch(source_);
  if (end_timer_ == 0) end_timer_ = loop_.after({}, [on_end = std::move(on_end_)] { on_end(); });
}

void DirectSender::on_socket(std::uint32_t events) {
  if ((events & (EPOLLIN | EPOLLHUP | EPOLLERR)) != 0 && !take_acknowledgements()) return end();
  send_some();
}

bool DirectSender::take_acknowledgements() {
  while (true) {
    ssize_t count = ::recv(socket_.get(), acknowledgement_.data() + acknowledgement_bytes_,
                           acknowledgement_.size() - acknowledgement_bytes_, MSG_DONTWAIT);
    if (would_block(count)) return true;
    if (count <= 0) return false;
    acknowledgement_bytes_ += static_cast<std::size_t>(count);
    if (acknowledgement_bytes_ < acknowledgement_.size()) continue;
    acknowledgement_bytes_ = 0;
    std::uint64_t offset = 0;
    std::memcpy(&offset, acknowledgement_.data(), sizeof offset);
    if (!release(be64toh(offset))) return false;
  }
}

// Whoever acknowledges what was not sent speaks of something else.
bool DirectSender::release(std::uint64_t offset) {
  if (offset < base_ || offset - base_ > kept_bytes_ - to_send_bytes_) return false;
  auto left = static_cast<std::size_t>(offset - base_);
  while (left > 0) {
    ssize_t count = ::splice(kept_.read.get(), nullptr, null_.get(), nullptr, left, kSplice);
    if (count <= 0) return false;
    left -= static_cast<std::size_t>(count);
    base_ += static_cast<std::uint64_t>(count);
    kept_bytes_ -= static_cast<std::size_t>(count);
  }
  full_ = false;
  return true;
}

void DirectSender::send_some() {
  for (int taken = 0; pass_on();) {
    if (to_keep_bytes_ > 0 ? keep_some() : taken++ < kMostAtOnce && take_some()) continue;
    break;
  }
  if (end_timer_ != 0) return;
  if (eof_ && kept_bytes_ == 0 && to_keep_bytes_ == 0) return end();
  update_watches();
}

// Of these three, each says whether there is more to do now.

bool DirectSender::pass_on() {
  while (to_send_bytes_ > 0) {
    ssize_t count =
        ::splice(passing_.read.get(), nullptr, socket_.get(), nullptr, to_send_bytes_, kSplice);
    if (would_block(count)) return false;
    if (count <= 0) {
      end();
      return false;
    }
    to_send_bytes_ -= static_cast<std::size_t>(count);
  }
  return true;
}

bool DirectSender::keep_some() {
  ssize_t count = ::tee(passing_.read.get(), kept_.write.get(), to_keep_bytes_, SPLICE_F_NONBLOCK);
  if (count <= 0) {
    full_ = true;  // until something is acknowledged
    if (kept_bytes_ == 0) end();
    return false;
  }
  kept_bytes_ += static_cast<std::size_t>(count);
  to_keep_bytes_ -= static_cast<std::size_t>(count);
  to_send_bytes_ = static_cast<std::size_t>(count);
  return true;
}

bool DirectSender::take_some() {
  if (!reading_ || eof_ || full_) return false;
  auto room = kDirectWindowBytes - std::min(kDirectWindowBytes, kept_bytes_);
  if (room == 0) return false;
  ssize_t count = ::splice(source_, nullptr, passing_.write.get(), nullptr, room, kSplice);
  if (would_block(count)) return false;
  if (count <= 0) {
    eof_ = true;
    return false;
  }
  to_keep_bytes_ = static_cast<std::size_t>(count);
  return true;
}

void DirectSender::update_watches() {
  bool room = kept_bytes_ < kDirectWindowBytes && !full_ && to_keep_bytes_ == 0;
  bool take = reading_ && !eof_ && room && to_send_bytes_ == 0;
  if (!take) {
    loop_.unwatch(source_);  // a hang-up shows even with no events asked for
  } else if (!loop_.watches(source_)) {
    loop_.watch(source_, EPOLLIN, [this](std::uint32_t) { send_some(); });
  }
  loop_.change(socket_.get(), EPOLLIN | (to_send_bytes_ > 0 ? std::uint32_t{EPOLLOUT} : 0U));
}

// ----------------------------------------------------------------------- receiver

DirectReceiver::DirectReceiver(EventLoop& loop, Fd socket, int sink, Handlers handlers)
    : loop_(loop), socket_(std::move(socket)), sink_(sink), handlers_(std::move(handlers)) {
  loop_.watch(socket_.get(), EPOLLIN, [this](std::uint32_t) { receive_some(); });
}

DirectReceiver::~DirectReceiver() {
  loop_.cancel(timer_);
  loop_.cancel(end_timer_);
  loop_.unwatch(socket_.get());
  if (started_) loop_.unwatch(sink_);
}

void DirectReceiver::end(bool closed) {
  loop_.unwatch(socket_.get());
  if (started_) loop_.unwatch(sink_);
  if (end_timer_ == 0)
    end_timer_ =
        loop_.after({}, [on_end = std::move(handlers_.on_end), closed] { on_end(closed); });
}

bool DirectReceiver::read_start() {
  ssize_t count = ::recv(socket_.get(), start_.data() + start_bytes_, start_.size() - start_bytes_,
                         MSG_DONTWAIT);
  if (would_block(count)) return false;
  if (count <= 0) {
    end(false);
    return false;
  }
  start_bytes_ += static_cast<std::size_t>(count);
  if (start_bytes_ < start_.size()) return false;
  std::memcpy(&offset_, start_.data(), sizeof offset_);
  offset_ = be64toh(offset_);
  if (!handlers_.starts_at(offset_)) {
    end(false);
    return false;
  }
  acknowledged_ = offset_;
  started_ = true;
  return true;
}

void DirectReceiver::receive_some() {
  if (!started_ && !read_start()) return;
  for (int i = 0; i < kMostAtOnce; ++i) {
    ssize_t count = ::splice(socket_.get(), nullptr, sink_, nullptr, kDirectWindowBytes, kSplice);
    if (would_block(count)) break;
    if (count <= 0) return end(count < 0 && errno == EPIPE);
    offset_ += static_cast<std::uint64_t>(count);
    if (offset_ - acknowledged_ >= kAcknowledgeBytes) acknowledge();
  }
  if (offset_ != acknowledged_) acknowledge_soon();
  pollfd entry{sink_, POLLOUT, 0};
  if (::poll(&entry, 1, 0) == 0) return await_sink();
  if ((entry.revents & POLLERR) != 0) return end(true);
}

// The pipe is full: nothing is taken from the connection, and so the other end stops, too.
void DirectReceiver::await_sink() {
  loop_.unwatch(socket_.get());
  loop_.watch(sink_, EPOLLOUT, [this](std::uint32_t) {
    loop_.unwatch(sink_);
    loop_.watch(socket_.get(), EPOLLIN, [this](std::uint32_t) { receive_some(); });
    receive_some();
  });
}

void DirectReceiver::acknowledge_soon() {
  if (timer_ != 0) return;
  timer_ = loop_.after(kAcknowledgeDelay, [this] {
    timer_ = 0;
    if (offset_ != acknowledged_) acknowledge();
  });
}

void DirectReceiver::acknowledge() {
  std::uint64_t offset = htobe64(offset_);
  // The sender reads them as they come; if it does not, it has ended.
  if (::send(socket_.get(), &offset, sizeof offset, MSG_DONTWAIT | MSG_NOSIGNAL) == sizeof offset)
    acknowledged_ = offset_;
}

}  // namespace gestalt
