#include "cli/output_pump.h"

#include <sys/epoll.h>

#include "cli/report.h"

namespace gestalt::cli {
namespace {

// Often enough that the sender never waits for us, seldom enough to be cheap.
constexpr std::uint64_t kAcknowledgeBytes = kStdioWindowBytes / 8;

}  // namespace

OutputPump::OutputPump(EventLoop& loop, LocalStream stream, Acknowledge acknowledge,
                       Drained drained, Ask ask)
    : loop_(loop),
      stream_(std::move(stream)),
      acknowledge_(std::move(acknowledge)),
      drained_(std::move(drained)),
      ask_(std::move(ask)) {}

OutputPump::~OutputPump() { loop_.unwatch(stream_.fd()); }

Result<void> OutputPump::accept(std::uint64_t offset, std::string_view data, bool eof) {
  if (direct_ && direct_->started()) leave_direct();
  GESTALT_TRY(receiver_.accept(offset, data, eof));
  write_some();
  ask_if_much();
  return {};
}

void OutputPump::ask_if_much() {
  if (closed_ || direct_ || receiver_.eof() || !stream_.is_own_pipe() ||
      receiver_.consumed_offset() - counted_from_ < kDirectAfterBytes)
    return;
  counted_from_ = receiver_.consumed_offset();
  ask_();
}

void OutputPump::go_direct(Fd socket) {
  if (closed_ || direct_) return;
  DirectReceiver::Handlers handlers;
  handlers.starts_at = [this](std::uint64_t offset) {
    return !paused_ && receiver_.pending().empty() && receiver_.consumed_offset() == offset;
  };
  handlers.on_end = [this](bool closed) {
    leave_direct();
    if (closed) close_stream();
  };
  direct_ =
      std::make_unique<DirectReceiver>(loop_, std::move(socket), stream_.fd(), std::move(handlers));
}

void OutputPump::leave_direct() {
  if (!direct_) return;
  if (direct_->started()) {
    receiver_.restore(direct_->offset(), {}, receiver_.eof());
    counted_from_ = direct_->offset();
    acknowledge_consumed();
  }
  direct_.reset();
}

void OutputPump::pause(bool paused) {
  leave_direct();
  paused_ = paused;
  if (paused) {
    loop_.unwatch(stream_.fd());
  } else {
    write_some();
  }
}

void OutputPump::restore(std::uint64_t consumed_offset) {
  receiver_.restore(consumed_offset, {}, false);
  acknowledged_ = consumed_offset;
}

void OutputPump::write_some() {
  if (paused_) return;
  while (!closed_) {
    auto piece = next_piece();
    if (piece.empty()) break;
    auto count = stream_.write(piece);
    if (!count) {
      give_up(count.error());
      return;
    }
    if (!*count) {
      if (!loop_.watches(stream_.fd()))
        loop_.watch(stream_.fd(), EPOLLOUT, [this](std::uint32_t) { write_some(); });
      if (receiver_.consumed_offset() - acknowledged_ >= kAcknowledgeBytes) acknowledge_consumed();
      return;
    }
    receiver_.consume(**count);
  }
  if (closed_) receiver_.consume(receiver_.pending().size());
  loop_.unwatch(stream_.fd());
  if (receiver_.consumed_offset() != acknowledged_) acknowledge_consumed();
  drained_();
}

std::string_view OutputPump::next_piece() {
  const std::string& pending = receiver_.pending();
  if (!drops_returns_ || !drops_returns_()) return pending;
  if (pending.starts_with("\r\n")) receiver_.consume(1);
  std::string_view piece = std::string_view(pending).substr(0, pending.find("\r\n"));
  // What follows it decides.
  if (piece.size() == pending.size() && piece.ends_with('\r') && !receiver_.eof())
    piece.remove_suffix(1);
  return piece;
}

void OutputPump::give_up(const Error& error) {
  // A reader that has seen enough is no error; the program will get its SIGPIPE.
  if (error.code != ErrorCode::kUnavailable) report(error);
  close_stream();
}

void OutputPump::close_stream() {
  loop_.unwatch(stream_.fd());
  closed_ = true;
  stream_.close();
  receiver_.consume(receiver_.pending().size());
  acknowledge_consumed();
  drained_();
}

void OutputPump::acknowledge_consumed() {
  acknowledged_ = receiver_.consumed_offset();
  acknowledge_(acknowledged_, closed_);
}

void OutputPump::resync() {
  leave_direct();
  acknowledge_consumed();
}

}  // namespace gestalt::cli
