// Leader: agents come, are heard, and go.
#include "common/format.h"
#include "common/node_set.h"
#include "daemon/leader.h"
#include "daemon/wall_clock.h"

namespace gestalt {
namespace {

constexpr auto kFirstMessageTimeout = std::chrono::seconds(5);

void refuse(const std::shared_ptr<Connection>& connection, const std::string& address,
            std::uint64_t request_id, const Error& why) {
  log::warning("connection refused", log::field("address", address),
               log::field("reason", why.text()));
  connection->reply(request_id, std::unexpected(why));
  connection->finish(why);
}

Awaitable<> close_unless(std::shared_ptr<Connection> connection, std::shared_ptr<bool> served,
                         std::string address) {
  co_await sleep_for(kFirstMessageTimeout);
  if (*served || !connection->open()) co_return;
  log::warning("connection refused", log::field("address", address),
               log::field("reason", "it asked for nothing in time"));
  connection->close(Error{ErrorCode::kTimeout, "no request in time", {}});
}

}  // namespace

void Leader::on_peer(std::shared_ptr<Connection> connection, TlsPeer peer,
                     std::shared_ptr<UnauthenticatedSlot> slot) {
  if (peer.node.empty()) {
    serve_joining(std::move(connection), std::move(peer.address), std::move(slot));
  } else {
    serve_agent(std::move(connection), std::move(peer));
  }
}

void Leader::serve_joining(std::shared_ptr<Connection> connection, std::string address,
                           std::shared_ptr<UnauthenticatedSlot> slot) {
  connection->set_limit_bytes(kMaxUnauthenticatedFrameBytes);
  auto served = std::make_shared<bool>(false);
  std::weak_ptr<Connection> weak = connection;
  connection->start(
      [this, weak, address, served](wire::Message message) {
        auto self = weak.lock();
        if (!self || std::exchange(*served, true)) return;
        if (!message.has_join_request()) {
          refuse(
              self, address, message.request_id(),
              Error{ErrorCode::kPermission, "the peer has no certificate and may only join", {}});
          return;
        }
        auto joined = join(message.join_request(), address);
        if (!joined) {
          refuse(self, address, message.request_id(), joined.error());
          return;
        }
        wire::Message reply;
        *reply.mutable_join_reply() = std::move(*joined);
        self->reply(message.request_id(), std::move(reply));
        self->finish(Error{ErrorCode::kUnavailable, "joined", {}});
      },
      [slot](const Error&) {});
  asio::co_spawn(context_, close_unless(connection, served, address), asio::detached);
}

Result<wire::JoinReply> Leader::join(const wire::JoinRequest& request, const std::string& address) {
  if (!join_secret_matches(request.token_secret(), state_.join_secret_sha256))
    return fail(ErrorCode::kPermission, "the join token is not this cluster's",
                formatted("copy {} of the leader to the node's paths.join_token",
                          join_token_path(config_.paths.state_directory)));
  const std::string& name = request.node();
  GESTALT_TRY(check_node_name(name));
  if (name == config_.cluster.leader)
    return fail(ErrorCode::kPermission, formatted("'{}' is the leader's name", name),
                "give the node another host name");
  const Member* member = membership_.find(name);
  if (member != nullptr && member->connected && member->state != NodeState::kFailed)
    return fail(ErrorCode::kBusy, formatted("a node '{}' is alive", name),
                "give this one another host name, or wait until the old one is gone");
  GESTALT_ASSIGN(auto certificate, issue_certificate(state_.ca, request.csr_pem(), name));
  GESTALT_ASSIGN(auto fingerprint, certificate_fingerprint(certificate));
  GESTALT_TRY(record_node(name, address.substr(0, address.rfind(':')), fingerprint));
  log::info("node joined", log::field("node", name), log::field("address", address),
            log::field("certificate", fingerprint));
  wire::JoinReply reply;
  reply.set_certificate_pem(certificate);
  reply.set_ca_pem(state_.ca.certificate_pem);
  return reply;
}

Result<NodeRecord> Leader::record_node(const std::string& name, const std::string& address,
                                       const std::string& fingerprint) {
  GESTALT_ASSIGN(auto known, store_->find_node(name));
  NodeRecord record = known.value_or(NodeRecord{.name = name});
  if (!known) {
    GESTALT_ASSIGN(auto all, store_->nodes());
    std::vector<std::uint32_t> used;
    for (const auto& each : all) used.push_back(each.slice_index);
    GESTALT_ASSIGN(record.slice_index, slices_.allocate(used));
    record.joined_unix_seconds = unix_seconds();
  }
  record.address = address;
  record.left_cleanly = false;
  if (!fingerprint.empty()) record.certificate_sha256 = fingerprint;
  if (!known || record != *known) GESTALT_TRY(store_->upsert_node(record));
  facts_[name].record = record;
  return record;
}

void Leader::serve_agent(std::shared_ptr<Connection> connection, TlsPeer peer) {
  auto served = std::make_shared<bool>(false);
  auto id = std::make_shared<ConnectionId>(0);
  std::weak_ptr<Connection> weak = connection;
  std::string address = peer.address;
  std::string node = peer.node;
  connection->set_name(node);
  connection->start(
      [this, weak, peer = std::move(peer), served, id](wire::Message message) {
        auto self = weak.lock();
        if (!self) return;
        if (!std::exchange(*served, true)) {
          on_hello(self, peer, message);
          auto session = agents_.find(peer.node);
          if (session != agents_.end() && session->second.connection == self)
            *id = session->second.id;
        } else if (*id != 0) {
          on_agent_message(peer.node, *id, std::move(message));
        }
      },
      [this, node, id, weak](const Error& reason) {
        auto session = agents_.find(node);
        if (*id == 0 || session == agents_.end() || session->second.id != *id) return;
        log::warning("agent disconnected", log::field("node", node),
                     log::field("reason", reason.message));
        agents_.erase(session);
        membership_.disconnect(node, *id);
        // What it sent after its goodbye.
        const Member* member = membership_.find(node);
        if (member != nullptr && member->state == NodeState::kOffline) view_.node_gone(node);
      });
  asio::co_spawn(context_, close_unless(connection, served, address), asio::detached);
}

void Leader::on_hello(const std::shared_ptr<Connection>& connection, const TlsPeer& peer,
                      const wire::Message& message) {
  if (!message.has_agent_hello()) {
    refuse(connection, peer.address, message.request_id(),
           Error{ErrorCode::kProtocol, "an agent's first message must be its hello", {}});
    return;
  }
  const auto& hello = message.agent_hello();
  bool same_boot = false;
  auto welcome = admit(connection, peer, hello, same_boot);
  if (!welcome) {
    refuse(connection, peer.address, message.request_id(), welcome.error());
    return;
  }
  std::vector<wire::MigrationOutcome> pending{hello.migrations().begin(), hello.migrations().end()};
  arbiter_.adopt_completed(pending, peer.node, Clock::now());
  reconcile(peer.node, hello, same_boot, *welcome);
  wire::Message reply;
  *reply.mutable_agent_welcome() = std::move(*welcome);
  connection->reply(message.request_id(), std::move(reply));
  perform(arbiter_.node_connected(peer.node, pending, Clock::now()));
  resync_clients(peer.node);
  view_.node_connected(peer.node);
}

Result<wire::AgentWelcome> Leader::admit(const std::shared_ptr<Connection>& connection,
                                         const TlsPeer& peer, const wire::AgentHello& hello,
                                         bool& same_boot) {
  if (hello.protocol() != kProtocolVersion)
    return fail(ErrorCode::kProtocol,
                formatted("node {} speaks protocol {}, the leader {}", peer.node, hello.protocol(),
                          kProtocolVersion),
                "install the same version of gestalt on all nodes");
  if (hello.node() != peer.node)
    return fail(ErrorCode::kPermission,
                formatted("the certificate is {}'s, the hello names {}", peer.node, hello.node()));
  if (const Member* member = membership_.find(peer.node))
    same_boot = !member->boot_id.empty() && member->boot_id == hello.boot_id();
  GESTALT_ASSIGN(auto admission, membership_.hello(peer.node, hello.boot_id(), Clock::now()));
  act(admission.transitions);
  GESTALT_ASSIGN(auto record, record_node(peer.node, hello.address(), peer.fingerprint));
  GESTALT_ASSIGN(auto range, slices_.range(record.slice_index));
  if (!same_boot) range = PidSlices::after_boot(range, pids_of_jobs());
  if (auto old = agents_.find(peer.node); old != agents_.end())
    old->second.connection->close(Error{ErrorCode::kUnavailable, "a newer connection is here", {}});
  agents_[peer.node] = {connection, admission.connection};
  NodeFacts& facts = facts_[peer.node];
  facts.hello = hello;
  facts.hello.clear_jobs();
  facts.hello.clear_migrations();
  log::info("agent connected", log::field("node", peer.node), log::field("address", peer.address),
            log::field("jobs", hello.jobs_size()),
            log::field("migrations", hello.migrations_size()));
  wire::AgentWelcome welcome;
  welcome.set_pid_first(range.first);
  welcome.set_pid_last(range.last);
  welcome.set_heartbeat_seconds(config_.membership.heartbeat_seconds);
  return welcome;
}

std::vector<std::uint32_t> Leader::pids_of_jobs() {
  std::vector<std::uint32_t> out;
  for (const auto& [node, facts] : facts_)
    for (const Job* job : jobs_.running_on(node))
      for (auto pid : {job->record.root_pid, job->record.stand_in_pid})
        if (pid != 0) out.push_back(pid);
  return out;
}

void Leader::on_heartbeat(const std::string& node, ConnectionId id,
                          const wire::Heartbeat& heartbeat) {
  NodeLoad load{.cpus = heartbeat.cpus(),
                .load = heartbeat.load(),
                .memory_total_bytes = heartbeat.memory_total_bytes(),
                .memory_available_bytes = heartbeat.memory_available_bytes(),
                .tasks = heartbeat.tasks(),
                .jobs = heartbeat.jobs(),
                .load_average_1 = heartbeat.load_average_1()};
  act(membership_.heartbeat(node, id, load, Clock::now()));
  auto& facts = facts_[node];
  facts.task_source = heartbeat.task_source();
  facts.task_source_reason = heartbeat.task_source_reason();
  facts.task_events = heartbeat.task_events();
  facts.task_events_reason = heartbeat.task_events_reason();
  const Member* member = membership_.find(node);
  auto session = agents_.find(node);
  if (session == agents_.end()) return;
  if (member == nullptr || !member->connected) {  // it failed meanwhile: hello anew
    session->second.connection->close(
        Error{ErrorCode::kUnavailable, "the node must say hello", {}});
    return;
  }
  wire::Message ack;
  ack.mutable_heartbeat_ack()->set_leader_unix_seconds(unix_seconds());
  session->second.connection->send(ack);
}

void Leader::on_agent_message(const std::string& node, ConnectionId id, wire::Message message) {
  auto session = agents_.find(node);
  if (session == agents_.end() || session->second.id != id) return;  // was replaced
  auto now = Clock::now();
  switch (message.body_case()) {
    case wire::Message::kHeartbeat:
      return on_heartbeat(node, id, message.heartbeat());
    case wire::Message::kGoodbye:
      log::info("node says goodbye", log::field("node", node),
                log::field("reason", message.goodbye().reason()));
      return act(membership_.goodbye(node, id));
    case wire::Message::kStdioData:
      return from_job(node, message.stdio_data().job_id(), message);
    case wire::Message::kStdioAck:
      return from_job(node, message.stdio_ack().job_id(), message);
    case wire::Message::kStdioHold:
      return from_job(node, message.stdio_hold().job_id(), message);
    case wire::Message::kStdioDirectOffer:
      return from_job(node, message.stdio_direct_offer().job_id(), message);
    case wire::Message::kJobStopped:
      return from_job(node, message.job_stopped().job_id(), message);
    case wire::Message::kJobContinued:
      return from_job(node, message.job_continued().job_id(), message);
    case wire::Message::kJobTerminal:
      return from_job(node, message.job_terminal().job_id(), message);
    case wire::Message::kJobStarted:
      return on_job_started(node, message.job_started());
    case wire::Message::kJobReturned:
      return on_job_returned(node, message.job_returned().job_id());
    case wire::Message::kJobStartFailed:
      return on_job_start_failed(node, message.job_start_failed());
    case wire::Message::kJobExited:
      return on_job_exited(node, message.job_exited().job_id(), message.job_exited().wait_status());
    case wire::Message::kMigrationAsk: {
      const Migration* migration = arbiter_.find(message.migration_ask().migration_id());
      const Member* destination =
          migration ? membership_.find(migration->record.destination) : nullptr;
      bool online =
          destination != nullptr && destination->connected &&
          (destination->state == NodeState::kOnline || destination->state == NodeState::kDraining);
      return perform(arbiter_.ask(message.migration_ask().migration_id(), node, online, now));
    }
    case wire::Message::kMigrationOutcome:
      return perform(arbiter_.outcome(message.migration_outcome(), node, now));
    case wire::Message::kMigrationProgress:
      return forward_progress(message);
    case wire::Message::kViewDelta:
      return on_view_delta(node, std::move(message));
    default:
      log::warning("message not understood", log::field("peer", node),
                   log::field("body", static_cast<int>(message.body_case())));
  }
}

void Leader::on_view_delta(const std::string& node, wire::Message message) {
  auto agent = agents_.find(node);
  if (agent == agents_.end()) return;
  std::weak_ptr<Connection> from = agent->second.connection;
  view_.on_delta(node, std::move(*message.mutable_view_delta()), [from, id = message.request_id()] {
    if (auto connection = from.lock()) connection->reply(id, empty_message());
  });
}

void Leader::act(const Transitions& transitions) {
  for (const auto& each : transitions) {
    log::info("node state", log::field("node", each.node), log::field("from", to_string(each.from)),
              log::field("to", to_string(each.to)), log::field("why", each.why));
    if (each.to == NodeState::kFailed) un_merge(each.node);
    if (each.to == NodeState::kOffline) remember_leaving(each.node, true);
    if (each.to == NodeState::kFailed || each.to == NodeState::kOffline) view_.node_gone(each.node);
  }
  if (!transitions.empty()) view_.nodes_changed();
}

void Leader::remember_leaving(const std::string& node, bool cleanly) {
  NodeRecord& record = facts_[node].record;
  if (record.name.empty() || record.left_cleanly == cleanly) return;
  record.left_cleanly = cleanly;
  if (auto written = store_->upsert_node(record); !written)
    log::error("node not recorded", log::field("error", written.error().text()));
}

// What the node had is no part of the single system any more.
void Leader::un_merge(const std::string& node) {
  if (auto session = agents_.find(node); session != agents_.end()) {
    auto connection = session->second.connection;
    agents_.erase(session);
    connection->close(Error{ErrorCode::kUnavailable, "the node failed", {}});
  }
  perform(arbiter_.node_failed(node, Clock::now()));
  for (Job* job : jobs_.running_on(node)) {
    const Migration* migration = arbiter_.of_job(job->record.job_id);
    // Its destination may have it already; the arbiter says so when it knows.
    if (migration != nullptr && migration->record.verdict == Verdict::kGranted) continue;
    lose(*job, node);
  }
}

}  // namespace gestalt
