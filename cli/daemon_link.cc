#include "cli/daemon_link.h"

#include "cli/client.h"

namespace gestalt::cli {
namespace {

constexpr Clock::duration kRetry = milliseconds(200);
constexpr Clock::duration kAttachTimeout = std::chrono::seconds(5);

// The leader's record of jobs outlives its daemon: such an answer will not change.
bool is_final(ErrorCode code) {
  return code == ErrorCode::kNotFound || code == ErrorCode::kGone || code == ErrorCode::kPermission;
}

}  // namespace

DaemonLink::DaemonLink(EventLoop& loop, std::string path, Fd socket, Handlers handlers)
    : loop_(loop), path_(std::move(path)), handlers_(std::move(handlers)) {
  open_channel(std::move(socket));
}

DaemonLink::~DaemonLink() { loop_.cancel(timer_); }

void DaemonLink::open_channel(Fd socket) {
  channel_ = std::make_unique<MessageChannel>(
      loop_, std::move(socket),
      [this](const wire::Message& message) { handlers_.on_message(message); },
      [this](const Error& error) { on_closed(error); });
}

void DaemonLink::send(const wire::Message& message) {
  if (is_up()) (void)channel_->send(message);
}

void DaemonLink::request(wire::Message message, Clock::duration timeout,
                         MessageChannel::OnReply on_reply) {
  channel_->request(std::move(message), timeout, std::move(on_reply));
}

void DaemonLink::on_closed(const Error& error) {
  if (job_id_ == 0) {
    give_up(error);
    return;
  }
  // An attempt that breaks off halfway does not start the clock anew.
  if (up_) deadline_ = deadline_in(kPatience);
  up_ = false;
  retry_later(error);
}

void DaemonLink::retry_later(const Error& error) {
  if (Clock::now() >= deadline_) {
    give_up(error);
    return;
  }
  loop_.cancel(timer_);
  timer_ = loop_.after(kRetry, [this] { try_again(); });
}

void DaemonLink::try_again() {
  channel_.reset();
  auto socket = connect_daemon(path_);
  if (!socket) {
    retry_later(socket.error());
    return;
  }
  open_channel(std::move(*socket));
  request_attach();
}

void DaemonLink::attach(std::uint64_t job_id) {
  set_job(job_id);
  deadline_ = deadline_in(kPatience);
  up_ = false;
  request_attach();
}

void DaemonLink::request_attach() {
  wire::Message attach;
  attach.mutable_attach_request()->set_job_id(job_id_);
  channel_->request(std::move(attach), kAttachTimeout, [this](Result<wire::Message> reply) {
    if (!channel_->open()) return;  // on_closed comes next
    if (!reply) {
      if (is_final(reply.error().code)) {
        give_up(reply.error());
      } else {
        retry_later(reply.error());
      }
      return;
    }
    up_ = true;
    handlers_.on_attached(reply->attach_reply().job());
  });
}

void DaemonLink::give_up(const Error& error) {
  up_ = false;
  handlers_.on_lost(error);
}

}  // namespace gestalt::cli
