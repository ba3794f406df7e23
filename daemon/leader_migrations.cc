// Leader: does what the migration arbiter decides.
#include "daemon/leader.h"

namespace gestalt {
namespace {

constexpr auto kPrepareTimeout = std::chrono::seconds(10);

void set_up(const JobRecord& job, bool comes_home, wire::PrepareIncoming& request) {
  request.set_comes_home(comes_home);
  request.set_root_pid(job.root_pid);
  request.set_network_address(job.network_address);
  request.set_has_deputy(job.has_deputy);
  request.set_session_pid(job.session_pid);
  request.set_group_pid(job.group_pid);
}

}  // namespace

void Leader::perform(const ArbiterActions& actions) {
  for (const auto& action : actions) perform_one(action);
}

void Leader::perform_one(const ArbiterAction& action) {
  using Kind = ArbiterAction::Kind;
  wire::Message message;
  switch (action.kind) {
    case Kind::kPrepare: {
      const Migration* migration = arbiter_.find(action.migration_id);
      if (migration == nullptr) return;
      wire::PrepareIncoming request;
      request.set_migration_id(action.migration_id);
      request.set_job_id(action.job_id);
      request.set_stand_in_pid(migration->stand_in_pid);
      if (const Job* job = jobs_.find(action.job_id); job != nullptr)
        set_up(job->record, comes_home(*job, migration->record.destination), request);
      request.set_secret(migration->secret);
      *request.mutable_options() = migration->options;
      asio::co_spawn(context_, prepare(this, action.node, std::move(request)), asio::detached);
      return;
    }
    case Kind::kStartOutgoing:
      return start_outgoing(action);
    case Kind::kVerdict:
      message.mutable_migration_verdict()->set_migration_id(action.migration_id);
      message.mutable_migration_verdict()->set_verdict(to_wire(action.verdict));
      message.mutable_migration_verdict()->set_reason(action.reason);
      send_to(action.node, message);
      return;
    case Kind::kCancel:
      message.mutable_migration_cancel()->set_migration_id(action.migration_id);
      message.mutable_migration_cancel()->set_reason(action.reason);
      send_to(action.node, message);
      return;
    case Kind::kHurry:
      message.mutable_migration_hurry()->set_migration_id(action.migration_id);
      message.mutable_migration_hurry()->set_job_id(action.job_id);
      send_to(action.node, message);
      return;
    case Kind::kPagesLost:
      message.mutable_migration_pages_lost()->set_migration_id(action.migration_id);
      message.mutable_migration_pages_lost()->set_job_id(action.job_id);
      message.mutable_migration_pages_lost()->set_reason(action.reason);
      send_to(action.node, message);
      return;
    case Kind::kOver: {
      auto [first, last] = settling_.equal_range(action.migration_id);
      for (auto it = first; it != last; ++it) it->second->set(action);
      return;
    }
    case Kind::kJobMoved:
      return job_moved(action);
    case Kind::kReply: {
      auto waiting = waiting_.find(action.migration_id);
      if (waiting != waiting_.end()) waiting->second.answer->set(action);
      return;
    }
    case Kind::kLateSignals:
      return late_signals(action);
    case Kind::kSourceExited:
      return source_exited(action);
  }
}

Awaitable<> Leader::prepare(Leader* self, std::string node, wire::PrepareIncoming request) {
  auto id = request.migration_id();
  auto job_id = request.job_id();
  bool comes_home = request.comes_home();
  wire::Message message;
  *message.mutable_prepare_incoming() = std::move(request);
  auto answer = co_await self->ask(std::move(node), std::move(message), kPrepareTimeout);
  Result<wire::IncomingReady> ready;
  if (!answer) {
    ready = std::unexpected(std::move(answer).error());
  } else if (!answer->has_incoming_ready()) {
    ready = fail(ErrorCode::kProtocol, "the destination gave a strange answer");
  } else {
    ready = answer->incoming_ready();
  }
  if (ready && comes_home) self->recall_deputy(job_id);
  self->perform(self->arbiter_.incoming_ready(id, std::move(ready), Clock::now()));
}

// A process may use what its node's CPUs can do, whatever it was started on.
wire::MigrationDestination Leader::destination_facts(const std::string& source,
                                                     const std::string& destination) {
  wire::MigrationDestination facts;
  facts.set_node(destination);
  if (const auto* member = membership_.find(destination); member != nullptr)
    facts.set_memory_available_bytes(member->load.memory_available_bytes);
  const auto& there = facts_[destination].hello.cpu_features();
  std::set<std::string> known(there.begin(), there.end());
  for (const auto& feature : facts_[source].hello.cpu_features())
    if (!known.contains(feature)) facts.add_missing_cpu_features(feature);
  return facts;
}

void Leader::start_outgoing(const ArbiterAction& action) {
  const Migration* migration = arbiter_.find(action.migration_id);
  if (migration == nullptr) return;
  wire::Message message;
  wire::StartOutgoing& start = *message.mutable_start_outgoing();
  start.set_migration_id(action.migration_id);
  start.set_job_id(action.job_id);
  start.set_address(migration->ready.address());
  start.set_port(migration->ready.port());
  start.set_rdma_port(migration->ready.rdma_port());
  start.set_rdma_reason(migration->ready.rdma_reason());
  start.set_secret(migration->secret);
  *start.mutable_options() = migration->options;
  start.set_destination(migration->record.destination);
  if (const Job* job = jobs_.find(action.job_id); job != nullptr)
    start.set_comes_home(comes_home(*job, migration->record.destination));
  *start.mutable_facts() =
      destination_facts(migration->record.source, migration->record.destination);
  // If the source is away, its next hello does not list the migration: denied then.
  send_to(action.node, message);
}

void Leader::job_moved(const ArbiterAction& action) {
  Job* job = jobs_.find(action.job_id);
  if (job == nullptr) return;
  jobs_.moved(*job, action.node, action.pid, Clock::now());
  if (comes_home(*job, action.node)) jobs_.returned(*job);
  placement_.note(action.node, Clock::now());
  log::info("job moved", log::field("job", action.job_id), log::field("node", action.node));
  wire::Message message;
  message.mutable_job_resync()->set_job_id(action.job_id);
  message.mutable_job_resync()->set_node(action.node);
  send_to_client(job->owner, message);
}

void Leader::late_signals(const ArbiterAction& action) {
  for (const auto& late : action.late_signals) {
    wire::Message message;
    if (late.pid() == 0) {
      message.mutable_job_signal()->set_job_id(action.job_id);
      message.mutable_job_signal()->set_signal(late.signal());
      message.mutable_job_signal()->set_to_group(late.to_group());
      send_to(action.node, message);
      continue;
    }
    // The source checked already who sent it.
    message.mutable_node_kill_request()->set_pid(late.pid());
    message.mutable_node_kill_request()->set_signal(late.signal());
    send_to(action.node, message);
  }
}

// Rolled back, but the source's copy is gone too.
void Leader::source_exited(const ArbiterAction& action) {
  Job* job = jobs_.find(action.job_id);
  if (job == nullptr || job->ended()) return;
  const Member* member = membership_.find(action.node);
  if (member == nullptr || member->state == NodeState::kFailed || !member->connected) {
    lose(*job, action.node);
  } else {
    on_job_exited(action.node, action.job_id, 9);
  }
}

void Leader::forward_progress(const wire::Message& message) {
  auto waiting = waiting_.find(message.migration_progress().migration_id());
  if (waiting != waiting_.end()) send_to_client(waiting->second.client, message);
}

}  // namespace gestalt
