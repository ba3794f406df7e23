// Leader: does what the migration arbiter decides.
#include "daemon/certificates.h"
#include "daemon/job_permission.h"
#include "daemon/leader.h"

namespace gestalt {
namespace {

constexpr auto kPrepareTimeout = std::chrono::seconds(10);
// Beyond the migration's own timeout: the commit, the clean-up.
constexpr double kReplySlackSeconds = 120;
constexpr double kMaxTimeoutSeconds = 3600;
constexpr std::size_t kSecretBytes = 32;

std::uint64_t unix_seconds() {
  auto now = std::chrono::system_clock::now().time_since_epoch();
  return static_cast<std::uint64_t>(std::chrono::duration_cast<std::chrono::seconds>(now).count());
}

Result<void> check_mode(const std::string& mode) {
  if (mode == "eager") return {};
  return fail(ErrorCode::kInvalidArgument, std::format("there is no migration mode '{}'", mode),
              "modes: eager");
}

}  // namespace

Result<MigrationArbiter::Plan> Leader::plan_migration(const FoundTask& found, uid_t uid,
                                                      const wire::MigrateRequest& request) {
  const wire::Task& task = found.task;
  Job* job = jobs_.find(task.job_id());
  if (!may_manage(uid, job != nullptr ? job->record.uid : task.uid()))
    return fail(ErrorCode::kPermission, std::format("process {} is not yours", task.pid()));
  if (job == nullptr || job->ended())
    return fail(ErrorCode::kInvalidArgument,
                std::format("process {} is not part of any job", task.pid()),
                "only what `gestalt run` or `gestalt shell` started can migrate");
  if (job->record.state == wire::JOB_STARTING || job->record.root_pid == 0)
    return fail(ErrorCode::kBusy, std::format("job {} is still starting", job->record.job_id),
                "try again in a moment");
  if (task.pid() != job->record.root_pid)
    return fail(ErrorCode::kInvalidArgument,
                std::format("process {} is not the root of its job", task.pid()),
                std::format("migrate {}: its whole tree moves with it", job->record.root_pid));
  if (task.outside_slice())
    return fail(ErrorCode::kBlocked,
                std::format("pid {} is outside the pid slice of node {}", task.pid(), found.node),
                "such a pid may be in use elsewhere; start the program again");
  const std::string& destination = request.node();
  GESTALT_TRY(check_usable(destination));
  if (destination == job->record.node)
    return fail(ErrorCode::kInvalidArgument,
                std::format("process {} is on {} already", task.pid(), destination));
  MigrationArbiter::Plan plan;
  plan.options = request.options();
  if (plan.options.mode().empty()) plan.options.set_mode("eager");
  GESTALT_TRY(check_mode(plan.options.mode()));
  double timeout = plan.options.timeout_seconds();
  if (timeout < 0 || timeout > kMaxTimeoutSeconds)
    return fail(ErrorCode::kInvalidArgument,
                std::format("a timeout of {} s makes no sense", timeout),
                std::format("give it at most {} s", kMaxTimeoutSeconds));
  if (timeout == 0) plan.options.set_timeout_seconds(config_.migration.timeout_seconds);
  plan.job_id = job->record.job_id;
  plan.pid = job->record.root_pid;
  plan.stand_in_pid = job->record.stand_in_pid;
  plan.source = job->record.node;
  plan.destination = destination;
  plan.now_unix_seconds = unix_seconds();
  GESTALT_ASSIGN(plan.secret, random_bytes(kSecretBytes));
  return plan;
}

Awaitable<Result<wire::MigrateReply>> Leader::migrate(ClientId client, uid_t uid,
                                                      wire::MigrateRequest request) {
  auto found = co_await find_task(request.pid());
  if (!found)
    co_return fail(ErrorCode::kNotFound, std::format("no process {} in the cluster", request.pid()),
                   "see `gestalt ps`");
  auto plan = plan_migration(*found, uid, request);
  if (!plan) co_return std::unexpected(std::move(plan).error());
  double seconds = plan->options.timeout_seconds() + kReplySlackSeconds;
  ArbiterActions actions;
  auto begun = arbiter_.begin(std::move(*plan), Clock::now(), actions);
  if (!begun) co_return std::unexpected(std::move(begun).error());
  auto id = *begun;
  auto answer = std::make_shared<Promise<ArbiterAction>>(context_.get_executor());
  waiting_[id] = {answer, client};
  perform(actions);
  auto reply = co_await answer->wait(
      std::chrono::duration_cast<Clock::duration>(std::chrono::duration<double>(seconds)));
  waiting_.erase(id);
  if (!reply)
    co_return fail(ErrorCode::kTimeout, std::format("migration {} is not resolved yet", id),
                   "see `gestalt ps` for where the process is");
  if (reply->error) co_return std::unexpected(*reply->error);
  wire::MigrateReply out;
  *out.mutable_stats() = reply->stats;
  co_return out;
}

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
  self->perform(self->arbiter_.incoming_ready(id, std::move(ready), Clock::now()));
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
  start.set_secret(migration->secret);
  *start.mutable_options() = migration->options;
  start.set_destination(migration->record.destination);
  // If the source is away, its next hello does not list the migration: denied then.
  send_to(action.node, message);
}

void Leader::job_moved(const ArbiterAction& action) {
  Job* job = jobs_.find(action.job_id);
  if (job == nullptr) return;
  jobs_.moved(*job, action.node, action.pid);
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
