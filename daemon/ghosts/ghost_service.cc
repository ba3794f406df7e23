#include "daemon/ghosts/ghost_service.h"

#include <sys/epoll.h>
#include <sys/random.h>
#include <sys/signalfd.h>

#include <csignal>
#include <utility>

#include "common/log.h"
#include "common/unix_socket.h"

namespace gestalt {
namespace {

constexpr auto kRetry = milliseconds(200);
constexpr auto kSendAgain = milliseconds(10);
// Beyond this, signals stay with the ghosts: nothing is lost, and we do not grow.
constexpr std::size_t kMaxWaiting = 65'536;
constexpr std::size_t kMaxQueuedBytes = 1U << 20;

void to_wire(const GhostSignal& signal, std::uint64_t keeper, std::uint64_t sequence,
             wire::GhostSignal& body) {
  body.set_pid(static_cast<std::uint32_t>(signal.pid));
  body.set_signal(static_cast<std::uint32_t>(signal.signal));
  body.set_sender_pid(static_cast<std::uint32_t>(signal.sender_pid));
  body.set_sender_uid(signal.sender_uid);
  body.set_keeper(keeper);
  body.set_sequence(sequence);
}

// A pid beyond pid_t's range becomes negative, which the kernel refuses.
GhostUpdate from_wire(const wire::GhostUpdate& body) {
  GhostUpdate update{.full = body.full()};
  for (const auto& ghost : body.add())
    update.add.push_back({.pid = static_cast<pid_t>(ghost.pid()),
                          .uid = ghost.uid(),
                          .gid = ghost.gid(),
                          .group = static_cast<pid_t>(ghost.group()),
                          .name = ghost.name(),
                          .stopped = ghost.stopped()});
  for (auto pid : body.remove()) update.remove.push_back(static_cast<pid_t>(pid));
  return update;
}

}  // namespace

GhostService::GhostService(std::string socket_path)
    : socket_path_(std::move(socket_path)), keeper_(loop_, [this](const GhostSignal& signal) {
        waiting_[next_sequence_++] = signal;
        if (waiting_.size() >= kMaxWaiting) keeper_.pause(true);
        // Soon, with those that belong to it.
        if (std::exchange(sending_soon_, true)) return;
        (void)loop_.after(milliseconds(0), [this] {
          sending_soon_ = false;
          send_signals();
        });
      }) {}

Result<void> GhostService::start() {
  GESTALT_TRY(keeper_.start());  // blocks all signals
  if (::getrandom(&id_, sizeof id_, 0) != sizeof id_) return fail_errno(errno, "get a number");
  sigset_t set;
  sigemptyset(&set);
  sigaddset(&set, SIGTERM);
  sigaddset(&set, SIGINT);
  signals_ = Fd(::signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK));
  if (!signals_) return fail_errno(errno, "make a signal descriptor");
  loop_.watch(signals_.get(), EPOLLIN, [this](std::uint32_t) { loop_.stop(); });
  connect();
  return {};
}

void GhostService::connect() {
  auto socket = connect_unix(socket_path_);
  if (!socket) {
    (void)loop_.after(kRetry, [this] { connect(); });
    return;
  }
  channel_ = std::make_unique<MessageChannel>(
      loop_, std::move(*socket), [this](const wire::Message& message) { on_message(message); },
      [this](const Error& error) {
        log::info("lost gestaltd", log::field("error", error.text()));
        (void)loop_.after(kRetry, [this] { connect(); });
      });
  wire::Message hello;
  hello.mutable_ghost_report()->set_ghosts(static_cast<std::uint32_t>(keeper_.size()));
  send(hello);
  next_to_send_ = 1;
  send_signals();
}

void GhostService::on_message(const wire::Message& message) {
  if (message.has_ghost_update()) return on_update(message);
  if (message.has_ghost_signals_done()) return on_done(message.ghost_signals_done());
  auto error = fail(ErrorCode::kProtocol, "gestalt-ghosts does not know this message").error();
  log::warning("request failed", log::field("error", error.text()));
  send(error_reply(message.request_id(), error));
}

void GhostService::on_update(const wire::Message& message) {
  auto failures = keeper_.update(from_wire(message.ghost_update()));
  wire::Message reply;
  reply.set_request_id(message.request_id());
  reply.set_is_reply(true);
  auto& report = *reply.mutable_ghost_report();
  for (const auto& failure : failures) {
    auto& entry = *report.add_failures();
    entry.set_pid(static_cast<std::uint32_t>(failure.pid));
    *entry.mutable_error() = to_wire(failure.error);
  }
  report.set_ghosts(static_cast<std::uint32_t>(keeper_.size()));
  send_signals();  // those of ghosts that went come before
  send(reply);
}

void GhostService::on_done(const wire::GhostSignalsDone& done) {
  for (auto sequence : done.sequences())
    if (sequence < next_to_send_) waiting_.erase(sequence);
  if (waiting_.size() < kMaxWaiting / 2) keeper_.pause(false);
}

void GhostService::send_signals() {
  auto next = waiting_.lower_bound(next_to_send_);
  while (next != waiting_.end() && connected() && channel_->queued_bytes() < kMaxQueuedBytes) {
    wire::Message message;
    auto batch = next->second.batch;
    do {
      to_wire(next->second, id_, next->first, *message.mutable_ghost_signals()->add_signals());
      next_to_send_ = next->first + 1;
      ++next;
    } while (batch != 0 && next != waiting_.end() && next->second.batch == batch);
    send(message);
  }
  if (next == waiting_.end() || !connected() || std::exchange(sending_later_, true)) return;
  (void)loop_.after(kSendAgain, [this] {
    sending_later_ = false;
    send_signals();
  });
}

void GhostService::send(const wire::Message& message) {
  if (!connected()) return;
  if (auto sent = channel_->send(message); !sent)
    log::warning("cannot send to gestaltd", log::field("error", sent.error().text()));
}

}  // namespace gestalt
