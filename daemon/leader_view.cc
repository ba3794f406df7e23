#include "daemon/leader_view.h"

#include <algorithm>

#include "common/format.h"
#include "common/unix_socket.h"

namespace gestalt {
namespace {

constexpr auto kFetchTimeout = std::chrono::seconds(2);
constexpr auto kHelloTimeout = std::chrono::seconds(5);
// A view that has more before it is waited for; the nodes' messages are not acknowledged
// meanwhile. Each node has one that is not: a thousand of them stay below the limit.
constexpr std::size_t kKeepsUpBytes = 4U << 20;
constexpr std::size_t kMaxViewBytes = 256U << 20;
constexpr auto kKeepsUpPoll = std::chrono::milliseconds(10);

}  // namespace

LeaderView::LeaderView(asio::io_context& context, double interval_seconds, Hooks hooks)
    : context_(context),
      interval_seconds_(interval_seconds),
      hooks_(std::move(hooks)),
      ghosts_(context, hooks_.ask, hooks_.deputies) {}

Result<void> LeaderView::listen(const std::string& socket_path) {
  GESTALT_ASSIGN(auto fd, listen_unix(socket_path, 0600));
  server_ = std::make_unique<LocalServer>(
      context_, std::move(fd), socket_path,
      [this](const std::shared_ptr<Connection>& connection) { on_connection(connection); });
  return {};
}

void LeaderView::close() {
  if (server_) server_->close();
}

void LeaderView::on_connection(const std::shared_ptr<Connection>& connection) {
  auto peer = peer_credentials(connection->native_handle());
  if (!peer || peer->uid != 0) {
    log::warning("view refused", log::field("reason", "it is not root"));
    return;
  }
  connection->set_idle_timeout(kHelloTimeout);
  std::weak_ptr<Connection> weak = connection;
  connection->start(
      [this, weak](wire::Message message) {
        if (auto self = weak.lock()) on_message(self, std::move(message));
      },
      [this, weak](const Error&) {
        auto self = weak.lock();
        if (!self) return;
        ghosts_.detach(self);
        if (std::erase(views_, self) == 0 || !views_.empty()) return;
        ghosts_.clear();
        subscribed_.clear();
        wire::Message enough;
        enough.mutable_view_subscribe()->set_interval_seconds(0);
        for (const auto& node : hooks_.nodes()) hooks_.send(node.name(), enough);
      });
}

void LeaderView::on_message(const std::shared_ptr<Connection>& connection, wire::Message message) {
  if (message.has_view_hello()) {
    connection->set_idle_timeout(Clock::duration::zero());
    connection->set_name(formatted("view of uid {}", message.view_hello().uid()));
    if (std::ranges::find(views_, connection) != views_.end()) return;
    connection->set_max_queued_bytes(kMaxViewBytes);
    views_.push_back(connection);
    log::info("view connected", log::field("uid", message.view_hello().uid()));
    send_nodes(*connection);
    // It knows nothing yet: each node tells all again, those that come later included.
    subscribed_.clear();
    subscribe_all();
  } else if (message.has_ghost_report()) {
    connection->set_idle_timeout(Clock::duration::zero());
    connection->set_name("ghost keeper");
    ghosts_.attach(connection);
  } else if (message.has_ghost_signals()) {
    ghosts_.on_signals(message.ghost_signals());
  } else if (message.has_view_fetch()) {
    asio::co_spawn(
        context_,
        fetch(this, connection, message.request_id(), std::move(*message.mutable_view_fetch())),
        asio::detached);
  } else {
    log::warning("message not understood", log::field("peer", connection->name()),
                 log::field("body", static_cast<int>(message.body_case())));
  }
}

Awaitable<> LeaderView::fetch(LeaderView* self, std::shared_ptr<Connection> view,
                              std::uint64_t request_id, wire::ViewFetch request) {
  std::string node = request.node();
  wire::Message message;
  *message.mutable_view_fetch() = std::move(request);
  view->reply(request_id,
              co_await self->hooks_.ask(std::move(node), std::move(message), kFetchTimeout));
}

void LeaderView::subscribe_all() {
  for (const auto& node : hooks_.nodes())
    if (!subscribed_.contains(node.name())) subscribe(node.name());
}

// The leader's own processes are in the view as they are.
void LeaderView::subscribe(const std::string& node) {
  auto nodes = hooks_.nodes();
  if (nodes.empty() || nodes.front().name() == node) return;
  subscribed_.insert(node);
  wire::Message message;
  message.mutable_view_subscribe()->set_interval_seconds(interval_seconds_);
  hooks_.send(node, message);
}

void LeaderView::send_nodes(Connection& view) const {
  wire::Message message;
  for (auto& node : hooks_.nodes()) *message.mutable_view_nodes()->add_nodes() = std::move(node);
  view.send(message);
}

void LeaderView::node_connected(const std::string& node) {
  if (views_.empty()) return;
  subscribed_.erase(node);
  nodes_changed();
  if (!subscribed_.contains(node)) subscribe(node);
}

void LeaderView::nodes_changed() {
  if (views_.empty()) return;
  for (const auto& view : views_) send_nodes(*view);
  // Whose hello came before the first view's was not in the view then.
  subscribe_all();
}

void LeaderView::node_gone(const std::string& node) {
  ghosts_.node_gone(node);
  subscribed_.erase(node);
  wire::Message message;
  message.mutable_view_node_gone()->set_node(node);
  broadcast(message);
  nodes_changed();
}

void LeaderView::on_delta(const std::string& node, wire::ViewDelta delta,
                          std::function<void()> on_told) {
  if (!views_.empty()) {
    delta.set_node(node);
    ghosts_.on_delta(delta);
    wire::Message message;
    *message.mutable_view_delta() = std::move(delta);
    broadcast(message);
  }
  if (views_keep_up()) return on_told();
  asio::co_spawn(context_, tell_later(this, std::move(on_told)), asio::detached);
}

// The node does not wait for ever, whatever happens here.
Awaitable<> LeaderView::tell_later(LeaderView* self, std::function<void()> on_told) {
  while (!self->views_keep_up()) co_await sleep_for(kKeepsUpPoll);
  on_told();
}

bool LeaderView::views_keep_up() const {
  return std::ranges::all_of(views_,
                             [](const auto& view) { return view->queued_bytes() < kKeepsUpBytes; });
}

void LeaderView::broadcast(const wire::Message& message) {
  for (const auto& view : views_) view->send(message);
}

}  // namespace gestalt
