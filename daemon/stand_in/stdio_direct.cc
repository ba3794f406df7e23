// StdioRelay's part in connections of a stream's own: from the client's wish to the stream's return
// to messages, which anything out of the ordinary brings about.

#include <fcntl.h>

#include "common/log.h"
#include "daemon/stand_in/stdio_relay.h"

namespace gestalt {
namespace {

// The job and we have our turns less often.
void widen(int pipe) { (void)::fcntl(pipe, F_SETPIPE_SZ, static_cast<int>(kDirectWindowBytes)); }

}  // namespace

void StdioRelay::on_direct_request(const wire::StdioDirectRequest& request) {
  auto stream = request.stream();
  if (!running_ || abandoned_ || stream > 2 || !may_be_direct(stream)) return;
  if (links_[stream]) return;  // where nobody gets through, not again and again
  wire::Message message;
  auto& offer = *message.mutable_stdio_direct_offer();
  offer.set_job_id(job_id_);
  offer.set_stream(stream);
  offer.set_address(request.listen_address());
  auto link = DirectLink::listen(loop_, offer, [this, stream](Result<Fd> socket) {
    links_[stream].reset();
    if (socket) return make_direct(stream, std::move(*socket));
    log::info("stream keeps to messages", log::field("job", job_id_), log::field("stream", stream),
              log::field("reason", socket.error().text()));
  });
  if (!link) {
    log::warning("no connection for a stream", log::field("error", link.error().text()));
    return;
  }
  links_[stream] = std::move(*link);
  send_(message);
}

bool StdioRelay::may_be_direct(std::uint32_t stream) const {
  if (stream == 0) return input_.pipe && !input_.closed && !input_.direct;
  const auto& output = outputs_[stream - 1];
  return output.pipe && !output.ended && !output.closed && !output.direct && !output.next;
}

void StdioRelay::make_direct(std::uint32_t stream, Fd socket) {
  if (!running_ || abandoned_ || finishing_ || !may_be_direct(stream)) return;
  if (stream != 0) {
    outputs_[stream - 1].next = std::move(socket);
    return start_direct(outputs_[stream - 1]);
  }
  DirectReceiver::Handlers handlers;
  handlers.starts_at = [this](std::uint64_t offset) {
    const auto& receiver = input_.receiver;
    bool fits = input_.pipe && receiver.pending().empty() && receiver.consumed_offset() == offset;
    if (!fits) return false;
    loop_.unwatch(input_.pipe.get());  // that is the receiver's now
    widen(input_.pipe.get());
    log::info("stream has its own connection", log::field("job", job_id_), log::field("stream", 0));
    return true;
  };
  handlers.on_end = [this](bool closed) {
    leave_direct(input_);
    if (closed) close_input();
  };
  input_.direct = std::make_unique<DirectReceiver>(loop_, std::move(socket), input_.pipe.get(),
                                                   std::move(handlers));
}

// Once the client has all that was sent by messages.
void StdioRelay::start_direct(Output& output) {
  if (!output.next) return;
  if (!output.sender.pending().empty() || output.ended || output.closed || !output.pipe) {
    if (output.ended || output.closed || !output.pipe) output.next.reset();
    return watch_output(output);
  }
  loop_.unwatch(output.pipe.get());
  widen(output.pipe.get());
  auto direct =
      DirectSender::create(loop_, std::move(output.next), output.pipe.get(),
                           output.sender.base_offset(), [this, &output] { leave_direct(output); });
  if (direct) {
    log::info("stream has its own connection", log::field("job", job_id_),
              log::field("stream", output.stream));
    output.direct = std::move(*direct);
    return;
  }
  log::warning("stream keeps to messages", log::field("error", direct.error().text()));
  watch_pipe(output);
}

void StdioRelay::leave_direct(Output& output) {
  output.next.reset();
  if (!output.direct) return;
  auto rest = output.direct->stop();
  output.direct.reset();
  output.sender.restore(rest.base_offset, std::move(rest.pending), false);
  if (rest.eof) {
    output.pipe.reset();
    if (running_)
      end_output(output);
    else
      output.ended = true;
    return;
  }
  if (!running_) return;
  watch_pipe(output);
  send_output(output);
}

void StdioRelay::leave_direct(Input& input) {
  if (!input.direct) return;
  bool started = input.direct->started();
  auto offset = input.direct->offset();
  input.direct.reset();
  if (!started) return;
  input.receiver.restore(offset, {}, input.receiver.eof());
  if (!running_) return;
  watch_input();
  acknowledge_input();
}

void StdioRelay::leave_direct() {
  for (auto& link : links_) link.reset();
  for (auto& output : outputs_) leave_direct(output);
  leave_direct(input_);
}

}  // namespace gestalt
