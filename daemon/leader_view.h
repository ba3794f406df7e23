// The leader's part in the single view: gives what the nodes tell of their processes to the
// views (gestalt-view, one for each user) and asks the nodes on their behalf. Keeps nothing of
// it: who comes later makes the nodes tell all again.
#pragma once

#include <list>
#include <set>

#include "daemon/connection.h"
#include "daemon/leader_ghosts.h"
#include "daemon/server.h"

namespace gestalt {

class LeaderView {
 public:
  struct Hooks {
    std::function<std::vector<wire::ViewNode>()> nodes;  // in the view, the leader first
    std::function<void(const std::string& node, const wire::Message&)> send;
    std::function<Awaitable<Result<wire::Message>>(std::string node, wire::Message message,
                                                   Clock::duration timeout)>
        ask;
    std::function<std::set<std::uint32_t>()> deputies;  // pids that are taken on the leader
  };
  // The interval is what nodes are told to keep, as long as there is a view.
  LeaderView(asio::io_context& context, double interval_seconds, Hooks hooks);

  [[nodiscard]] Result<void> listen(const std::string& socket_path);
  void close();

  // A node has said hello (also anew), or its state has changed.
  void node_connected(const std::string& node);
  void nodes_changed();
  void node_gone(const std::string& node);
  // `on_told`: all views that keep up have it, or nearly.
  void on_delta(const std::string& node, wire::ViewDelta delta, std::function<void()> on_told);

  [[nodiscard]] LeaderGhosts& ghosts() { return ghosts_; }

 private:
  void on_connection(const std::shared_ptr<Connection>& connection);
  void on_message(const std::shared_ptr<Connection>& connection, wire::Message message);
  static Awaitable<> fetch(LeaderView* self, std::shared_ptr<Connection> view,
                           std::uint64_t request_id, wire::ViewFetch request);
  static Awaitable<> tell_later(LeaderView* self, std::function<void()> on_told);
  [[nodiscard]] bool views_keep_up() const;
  void subscribe_all();
  void subscribe(const std::string& node);
  void send_nodes(Connection& view) const;
  void broadcast(const wire::Message& message);

  asio::io_context& context_;
  double interval_seconds_;
  Hooks hooks_;
  std::unique_ptr<LocalServer> server_;
  std::list<std::shared_ptr<Connection>> views_;
  std::set<std::string> subscribed_;  // nodes, since the newest view is here
  LeaderGhosts ghosts_;
};

}  // namespace gestalt
