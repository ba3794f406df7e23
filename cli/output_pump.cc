#include "cli/output_pump.h"

#include <sys/epoll.h>

#include "cli/report.h"

namespace gestalt::cli {
namespace {

// Often enough that the sender never waits for us, seldom enough to be cheap.
constexpr std::uint64_t kAcknowledgeBytes = kStdioWindowBytes / 8;

}  // namespace

OutputPump::OutputPump(EventLoop& loop, LocalStream stream, Acknowledge acknowledge,
                       Drained drained)
    : loop_(loop),
      stream_(std::move(stream)),
      acknowledge_(std::move(acknowledge)),
      drained_(std::move(drained)) {}

OutputPump::~OutputPump() { loop_.unwatch(stream_.fd()); }

Result<void> OutputPump::accept(std::uint64_t offset, std::string_view data, bool eof) {
  GESTALT_TRY(receiver_.accept(offset, data, eof));
  write_some();
  return {};
}

void OutputPump::pause(bool paused) {
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
  while (!receiver_.pending().empty() && !closed_) {
    auto count = stream_.write(receiver_.pending());
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
  receiver_.consume(receiver_.pending().size());
  loop_.unwatch(stream_.fd());
  if (receiver_.consumed_offset() != acknowledged_) acknowledge_consumed();
  drained_();
}

void OutputPump::give_up(const Error& error) {
  // A reader that has seen enough is no error; the program will get its SIGPIPE.
  if (error.code != ErrorCode::kUnavailable) report(error);
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

void OutputPump::resync() { acknowledge_consumed(); }

}  // namespace gestalt::cli
