#include "cli/home_link.h"

#include "common/paths.h"
#include "common/unix_socket.h"

namespace gestalt::cli {

void HomeLink::connect(const std::string& path) {
  if (!path.starts_with(paths::kHomeSocket)) return;
  auto socket = connect_unix(path);
  if (!socket) return;  // it is over already
  auto peer = peer_credentials(socket->get());
  if (!peer || peer->uid != 0) return;
  if (channel_) on_closed();
  channel_ = std::make_unique<MessageChannel>(
      loop_, std::move(*socket), [this](const wire::Message& message) { on_message(message); },
      [this](const Error&) { on_closed(); });
}

void HomeLink::on_message(const wire::Message& message) {
  if (!message.has_deputy_pause() || paused_) return;
  paused_ = true;
  wire::Message answer;
  *answer.mutable_deputy_state() = handlers_.pause();
  (void)channel_->send(answer);
}

void HomeLink::on_closed() {
  channel_.reset();
  if (std::exchange(paused_, false)) handlers_.resume();
}

}  // namespace gestalt::cli
