#include "daemon/leader.h"

#include <sys/syscall.h>
#include <unistd.h>

#include <csignal>

#include "common/format.h"
#include "common/node_set.h"
#include "daemon/sqlite_store.h"

namespace gestalt {
namespace {

constexpr auto kTick = std::chrono::milliseconds(100);

Clock::duration seconds(double value) {
  return std::chrono::duration_cast<Clock::duration>(std::chrono::duration<double>(value));
}

// Of a pidfd; 0: it has ended.
pid_t pid_of(int process) {
  std::istringstream lines(read_file(formatted("/proc/self/fdinfo/{}", process)).value_or(""));
  for (std::string key; lines >> key; lines.ignore(4096, '\n')) {
    pid_t pid = 0;
    if (key == "Pid:" && lines >> pid && pid > 0) return pid;
  }
  return 0;
}

}  // namespace

Result<std::unique_ptr<Leader>> Leader::start(asio::io_context& context, const Config& config) {
  GESTALT_ASSIGN(auto state, load_cluster_state(config.paths.state_directory));
  GESTALT_ASSIGN(auto store, open_sqlite_store(database_path(config.paths.state_directory)));
  GESTALT_ASSIGN(auto slices, PidSlices::with_size(config.cluster.pid_slice_size));
  std::unique_ptr<Leader> leader(
      new Leader(context, config, std::move(state), std::move(store), slices));
  GESTALT_TRY(leader->restore());
  auto on_peer = [self = leader.get()](std::shared_ptr<Connection> connection, TlsPeer peer,
                                       std::shared_ptr<UnauthenticatedSlot> slot) {
    self->on_peer(std::move(connection), std::move(peer), std::move(slot));
  };
  GESTALT_ASSIGN(leader->server_,
                 TlsServer::listen(context, config.node.listen, config.cluster.port,
                                   leader->state_.leader, std::move(on_peer)));
  GESTALT_TRY(leader->view_.listen(paths::kViewSocket));
  asio::co_spawn(context, tick_loop(leader.get()), asio::detached);
  log::info("leader listens", log::field("address", config.node.listen),
            log::field("port", config.cluster.port));
  return leader;
}

Leader::Leader(asio::io_context& context, const Config& config, ClusterState state,
               std::unique_ptr<Store> store, PidSlices slices)
    : context_(context),
      config_(config),
      state_(std::move(state)),
      store_(std::move(store)),
      slices_(slices),
      membership_(seconds(config.membership.suspect_seconds),
                  seconds(config.membership.failed_seconds)),
      placement_(seconds(2 * config.membership.heartbeat_seconds)),
      jobs_(*store_, seconds(config.jobs.reattach_seconds)),
      arbiter_(*store_, config.migration.max_concurrent),
      view_(context, config.view.interval_seconds,
            {.nodes = [this] { return merged_nodes(); },
             .send = [this](const std::string& node,
                            const wire::Message& message) { send_to(node, message); },
             .ask =
                 [this](std::string node, wire::Message message, Clock::duration timeout) {
                   return ask(std::move(node), std::move(message), timeout);
                 },
             .deputies = [this] { return jobs_.deputies(); }}) {}

Result<void> Leader::restore() {
  auto now = Clock::now();
  GESTALT_ASSIGN(auto nodes, store_->nodes());
  for (auto& record : nodes) {
    membership_.restore(record.name, record.draining, record.left_cleanly, now);
    std::string name = record.name;
    facts_[name].record = std::move(record);
  }
  GESTALT_TRY(store_->prune_ended_jobs());
  GESTALT_TRY(store_->prune_migrations());
  GESTALT_TRY(jobs_.load(now));
  return arbiter_.restore(now);
}

void Leader::stop() {
  stopped_ = true;
  if (server_) server_->close();
  view_.close();
  Error reason{ErrorCode::kUnavailable, "the leader stops", {}};
  for (auto& [name, session] : agents_) session.connection->finish(reason);
  for (auto& [id, client] : clients_) client.connection->finish(reason);
}

Awaitable<> Leader::tick_loop(Leader* self) {
  while (!self->stopped_) {
    auto now = Clock::now();
    self->act(self->membership_.tick(now));
    self->perform(self->arbiter_.tick(now));
    self->look_at_deputies();
    for (Job* job : self->jobs_.tick(now)) {
      log::info("job abandoned: its client did not come back",
                log::field("job", job->record.job_id));
      wire::Message message;
      message.mutable_job_abandon()->set_job_id(job->record.job_id);
      self->send_to(job->record.node, message);
    }
    co_await sleep_for(kTick);
  }
}

bool Leader::send_to(const std::string& node, const wire::Message& message) {
  auto found = agents_.find(node);
  return found != agents_.end() && found->second.connection->send(message).has_value();
}

Awaitable<Result<wire::Message>> Leader::ask(std::string node, wire::Message message,
                                             Clock::duration timeout) {
  auto found = agents_.find(node);
  if (found == agents_.end())
    co_return fail(ErrorCode::kUnavailable, formatted("node {} is not connected", node));
  auto connection = found->second.connection;
  co_return co_await connection->request(std::move(message), timeout);
}

ClientId Leader::add_client(std::shared_ptr<Connection> connection, Fd process) {
  auto pid = process ? pid_of(process.get()) : 0;
  Client& client = clients_[next_client_];
  client.connection = std::move(connection);
  client.process = std::move(process);
  client.pid = pid;
  return next_client_++;
}

void Leader::remove_client(ClientId client) {
  auto gone = clients_.extract(client);
  if (Job* job = jobs_.owned_by(client)) {
    if (!job->ended()) log::info("client gone", log::field("job", job->record.job_id));
    jobs_.detach(*job, Clock::now());
    if (job->record.has_deputy && !job->ended() && gone)
      asio::co_spawn(context_, deputy_gone(this, job->record.job_id, std::move(gone.mapped())),
                     asio::detached);
  }
}

void Leader::send_to_client(ClientId client, const wire::Message& message) {
  auto found = clients_.find(client);
  if (found != clients_.end()) found->second.connection->send(message);
}

void Leader::wake_client(ClientId client) {
  auto found = clients_.find(client);
  if (found == clients_.end() || !found->second.process) return;
  ::syscall(SYS_pidfd_send_signal, found->second.process.get(), SIGCONT, nullptr, 0);
}

std::vector<std::string> Leader::reachable_nodes() const {
  std::vector<std::string> out;
  for (const auto& [name, member] : membership_.members())
    if (member.connected && agents_.contains(name)) out.push_back(name);
  return out;
}

std::string Leader::known_nodes() const {
  std::vector<std::string> names;
  for (const auto& [name, member] : membership_.members()) names.push_back(name);
  return names.empty() ? "none" : fold_node_set(names);
}

std::string Leader::unknown_node_remedy() const {
  return formatted("nodes: {}; see `gestalt node list`", known_nodes());
}

Result<void> Leader::check_usable(const std::string& node) const {
  const Member* member = membership_.find(node);
  if (member == nullptr)
    return fail(ErrorCode::kNotFound, formatted("there is no node '{}'", node),
                unknown_node_remedy());
  if (member->usable() && agents_.contains(node)) return {};
  std::string remedy = "wait until it is back, or choose another node";
  if (member->draining) remedy = formatted("choose another node, or end the drain of {}", node);
  return fail(ErrorCode::kUnavailable,
              formatted("node {} takes no jobs: it is {}", node, to_string(member->state)),
              std::move(remedy));
}

wire::NodeInfo Leader::node_info(const Member& member, Clock::time_point now) {
  wire::NodeInfo out;
  const NodeFacts& facts = facts_[member.name];
  out.set_name(member.name);
  out.set_state(std::string(to_string(member.state)));
  out.set_role(member.name == config_.cluster.leader ? "leader" : "compute");
  out.set_address(facts.record.address);
  out.set_cpus(member.load.cpus);
  out.set_load(member.load.load);
  out.set_memory_total_bytes(member.load.memory_total_bytes);
  out.set_memory_available_bytes(member.load.memory_available_bytes);
  out.set_tasks(member.load.tasks);
  out.set_jobs(static_cast<std::uint32_t>(jobs_.running_on(member.name).size()));
  if (auto range = slices_.range(facts.record.slice_index)) {
    out.set_pid_first(range->first);
    out.set_pid_last(range->last);
  }
  if (member.last_heard != Clock::time_point{})
    out.set_heartbeat_age_seconds(seconds_between(member.last_heard, now));
  out.set_version(facts.hello.version());
  out.set_kernel(facts.hello.kernel());
  out.set_criu(facts.hello.criu());
  out.set_task_source(facts.task_source);
  out.set_task_source_reason(facts.task_source_reason);
  out.set_task_events(facts.task_events);
  out.set_task_events_reason(facts.task_events_reason);
  out.set_joined_unix_seconds(facts.record.joined_unix_seconds);
  out.set_certificate_sha256(facts.record.certificate_sha256);
  return out;
}

// In an order that stays: by their pid slices.
std::vector<wire::ViewNode> Leader::merged_nodes() const {
  std::map<std::uint32_t, wire::ViewNode> by_slice;
  for (const auto& [name, member] : membership_.members()) {
    bool merged = member.state == NodeState::kOnline || member.state == NodeState::kDraining ||
                  member.state == NodeState::kSuspect;
    auto facts = facts_.find(name);
    if (!merged && name != config_.cluster.leader) continue;
    std::uint32_t slice = facts == facts_.end() ? 0 : facts->second.record.slice_index;
    wire::ViewNode node;
    node.set_name(name);
    node.set_suspect(member.state == NodeState::kSuspect);
    by_slice[name == config_.cluster.leader ? 0 : slice] = std::move(node);
  }
  std::vector<wire::ViewNode> out;
  for (auto& [slice, node] : by_slice) out.push_back(std::move(node));
  return out;
}

Result<wire::NodeListReply> Leader::list_nodes(const std::string& set) {
  wire::NodeListReply reply;
  auto now = Clock::now();
  if (set.empty()) {
    for (const auto& [name, member] : membership_.members())
      *reply.add_nodes() = node_info(member, now);
    return reply;
  }
  GESTALT_ASSIGN(auto names, expand_node_set(set));
  for (const auto& name : names) {
    const Member* member = membership_.find(name);
    if (member == nullptr)
      return fail(ErrorCode::kNotFound, formatted("there is no node '{}'", name),
                  unknown_node_remedy());
    *reply.add_nodes() = node_info(*member, now);
  }
  return reply;
}

Result<void> Leader::drain(const std::string& node, bool drain) {
  auto known = facts_.find(node);
  if (known == facts_.end() || membership_.find(node) == nullptr)
    return fail(ErrorCode::kNotFound, formatted("there is no node '{}'", node),
                unknown_node_remedy());
  NodeRecord record = known->second.record;
  record.draining = drain;
  GESTALT_TRY(store_->upsert_node(record));
  known->second.record = std::move(record);
  GESTALT_ASSIGN(auto transitions, membership_.set_draining(node, drain));
  act(transitions);
  return {};
}

}  // namespace gestalt
