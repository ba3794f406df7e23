#include "cli/input_pump.h"

#include <sys/epoll.h>

#include <algorithm>
#include <array>

#include "cli/report.h"

namespace gestalt::cli {

InputPump::InputPump(EventLoop& loop, LocalStream stream, std::optional<char> end_character,
                     Send send, Ask ask)
    : loop_(loop),
      stream_(std::move(stream)),
      end_character_(end_character),
      send_(std::move(send)),
      ask_(std::move(ask)) {}

InputPump::~InputPump() { loop_.unwatch(stream_.fd()); }

void InputPump::set_reading(bool reading) {
  reading_ = reading;
  update_watch();
}

std::uint64_t InputPump::hold() {
  held_ = true;
  update_watch();
  return direct_ ? direct_->taken_offset() : sender_.base_offset() + sender_.pending().size();
}

void InputPump::let_go() {
  held_ = false;
  update_watch();
}

// Not watched at all unless wanted: a hang-up shows even with no events asked for.
void InputPump::update_watch() {
  bool may_read = reading_ && !held_;
  if (direct_) return direct_->set_reading(may_read);
  bool wanted = may_read && !ended_ && !closed_ && sender_.room() > 0 && !next_;
  if (wanted == loop_.watches(stream_.fd())) return;
  if (wanted) {
    loop_.watch(stream_.fd(), EPOLLIN, [this](std::uint32_t events) { on_readable(events); });
  } else {
    loop_.unwatch(stream_.fd());
  }
}

void InputPump::on_readable(std::uint32_t events) {
  std::array<char, kStdioChunkBytes> buffer;
  auto count = stream_.read(std::span(buffer).first(std::min(buffer.size(), sender_.room())));
  if (count && !*count) return;
  if (!count) report(count.error());
  if (count && **count > 0) {
    sender_.push({buffer.data(), **count});
  } else if (count && end_character_ && (events & (EPOLLHUP | EPOLLERR)) == 0) {
    sender_.push({&*end_character_, 1});
  } else {
    sender_.push_eof();
    ended_ = true;
  }
  send_new();
}

void InputPump::send_new() {
  while (!closed_) {
    auto chunk = sender_.next();
    if (!chunk) break;
    send_(*chunk);
  }
  update_watch();
}

void InputPump::resync() {
  leave_direct();
  sender_.rewind();
  send_new();
}

void InputPump::describe(wire::DeputyState& state) const {
  state.set_input_offset(sender_.base_offset());
  state.set_input_pending(sender_.pending());
  state.set_input_ended(ended_);
  state.set_input_closed(closed_);
}

void InputPump::restore(const wire::DeputyState& state) {
  sender_.restore(state.input_offset(), state.input_pending(), state.input_ended());
  ended_ = state.input_ended();
  closed_ = state.input_closed();
  if (closed_) stream_.close();
}

Result<void> InputPump::acknowledge(std::uint64_t offset, bool closed) {
  if (direct_) leave_direct();
  GESTALT_TRY(sender_.acknowledge(offset));
  if (closed && !closed_) {
    closed_ = true;
    update_watch();
    stream_.close();
  }
  ask_if_much();
  start_direct();
  update_watch();
  return {};
}

void InputPump::ask_if_much() {
  if (ended_ || closed_ || next_ || !stream_.is_own_pipe() ||
      sender_.base_offset() - counted_from_ < kDirectAfterBytes)
    return;
  counted_from_ = sender_.base_offset();
  ask_();
}

void InputPump::go_direct(Fd socket) {
  if (direct_ || ended_ || closed_) return;
  next_ = std::move(socket);
  start_direct();
  update_watch();
}

void InputPump::start_direct() {
  if (!next_ || !sender_.pending().empty()) return;
  if (ended_ || closed_) return next_.reset();
  loop_.unwatch(stream_.fd());
  auto direct = DirectSender::create(loop_, std::move(next_), stream_.fd(), sender_.base_offset(),
                                     [this] { leave_direct(); });
  if (direct) direct_ = std::move(*direct);
}

void InputPump::leave_direct() {
  next_.reset();
  if (!direct_) return;
  auto rest = direct_->stop();
  direct_.reset();
  counted_from_ = rest.base_offset;
  ended_ = rest.eof;
  sender_.restore(rest.base_offset, std::move(rest.pending), rest.eof);
  send_new();
}

}  // namespace gestalt::cli
