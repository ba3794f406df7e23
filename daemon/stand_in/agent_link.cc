#include "daemon/stand_in/agent_link.h"

#include <utility>

#include "common/log.h"
#include "common/paths.h"
#include "common/unix_socket.h"

namespace gestalt {
namespace {

constexpr auto kRetry = milliseconds(200);

}  // namespace

AgentLink::AgentLink(EventLoop& loop, OnMessage on_message, MakeHello make_hello)
    : loop_(loop), on_message_(std::move(on_message)), make_hello_(std::move(make_hello)) {}

void AgentLink::connect() {
  auto socket = connect_unix(paths::kAgentSocket);
  if (!socket) {
    (void)loop_.after(kRetry, [this] { connect(); });
    return;
  }
  channel_ = std::make_unique<MessageChannel>(
      loop_, std::move(*socket), [this](wire::Message message) { on_message_(std::move(message)); },
      [this](const Error& error) {
        log::info("lost gestaltd", log::field("error", error.text()));
        (void)loop_.after(kRetry, [this] { connect(); });
      });
  send(make_hello_());
  for (const auto& message : std::exchange(kept_, {})) send(message);
}

void AgentLink::send_surely(wire::Message message) {
  if (connected())
    send(message);
  else
    kept_.push_back(std::move(message));
}

void AgentLink::send(const wire::Message& message) {
  if (!connected()) return;
  if (auto sent = channel_->send(message); !sent)
    log::warning("cannot send to gestaltd", log::field("error", sent.error().text()));
}

}  // namespace gestalt
