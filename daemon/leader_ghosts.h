// The leader's part in ghosts (docs/ghosts.md): which pids gestalt-ghosts is to hold here, and
// where the signals go that they get.
#pragma once

#include <deque>
#include <map>
#include <set>

#include "daemon/connection.h"
#include "daemon/view/cluster_model.h"

namespace gestalt {

class LeaderGhosts {
 public:
  using Ask = std::function<Awaitable<Result<wire::Message>>(
      std::string node, wire::Message message, Clock::duration timeout)>;
  // `deputies`: pids on other nodes of which the leader has the process itself, in a way.
  using Deputies = std::function<std::set<std::uint32_t>()>;
  LeaderGhosts(asio::io_context& context, Ask ask, Deputies deputies)
      : context_(context), ask_(std::move(ask)), deputies_(std::move(deputies)) {}

  // The keeper's connection.
  void attach(std::shared_ptr<Connection> keeper);
  void detach(const std::shared_ptr<Connection>& keeper);
  // Delivered in the order in which a process got them, however long its node takes, as long as
  // there is the process; wherever it moves.
  void on_signals(const wire::GhostSignals& signals);

  void on_delta(const wire::ViewDelta& delta);
  void node_gone(const std::string& node);
  // Nobody looks any more.
  void clear();

  // A job is about to come here and needs its pids: they are free on return, and stay so
  // until let_back().
  [[nodiscard]] Awaitable<> release(std::uint64_t job_id, std::uint32_t stand_in_pid);
  void let_back(std::uint64_t job_id, std::uint32_t stand_in_pid);

 private:
  // Brings the keeper up to date, by one message at a time.
  static Awaitable<> work(LeaderGhosts* self);
  [[nodiscard]] Awaitable<> send(wire::GhostUpdate update);
  [[nodiscard]] wire::GhostUpdate take_update();
  // Of one pid, until there are no more.
  static Awaitable<> deliver_all(LeaderGhosts* self, std::uint32_t pid);
  // Each the first of its pid, all on this node.
  static Awaitable<> deliver_together(LeaderGhosts* self, std::string node,
                                      std::vector<wire::GhostSignal> signals);
  [[nodiscard]] Awaitable<> deliver(wire::GhostSignal signal);
  // The first of the pid is.
  void done(std::uint32_t pid);
  // How many parents of it are among those.
  [[nodiscard]] int depth(std::uint32_t pid) const;
  void look_at_stopped();
  void apply(const ClusterModel::Changes& changes);
  void add(const ViewedTask& task, wire::GhostUpdate& update) const;
  void touch(std::uint32_t pid);
  [[nodiscard]] bool released(const ViewedTask& task) const;

  asio::io_context& context_;
  Ask ask_;
  Deputies deputies_;
  ClusterModel model_;  // of files only each process's control group
  std::shared_ptr<Connection> keeper_;
  bool works_ = false;
  bool all_ = false;                 // the keeper is to be told everything
  std::set<std::uint32_t> changed_;  // pids whose ghost may not be what it should be
  std::set<std::uint32_t> failed_;   // taken here when they were wanted: tried again
  Clock::time_point attached_;
  using SignalName = std::pair<std::uint64_t, std::uint64_t>;       // its keeper, its sequence
  std::map<std::uint32_t, std::deque<wire::GhostSignal>> signals_;  // by pid; not delivered yet
  std::set<SignalName> known_signals_;                              // those
  std::map<std::uint32_t, Clock::time_point> stopped_;              // ghosts, since when
  std::multiset<std::uint64_t> released_jobs_;
  std::multiset<std::uint32_t> released_pids_;
};

}  // namespace gestalt
