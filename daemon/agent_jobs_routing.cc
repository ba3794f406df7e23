// AgentJobs: what the leader and the stand-ins say to each other.
#include <algorithm>

#include "common/format.h"
#include "daemon/agent_jobs.h"

namespace gestalt {
namespace {

using Outcome = wire::MigrationOutcome;

constexpr auto kCleanUpTimeout = std::chrono::seconds(5);
constexpr std::uint32_t kKilled = 9;
constexpr auto kRemoveRetry = std::chrono::milliseconds(20);
constexpr auto kLongestRemoveRetry = std::chrono::seconds(3);

}  // namespace

bool AgentJobs::to_job(std::uint64_t job_id, const wire::Message& message) {
  auto connection = stand_in_of(job_id);
  if (connection) connection->send(message);
  return true;  // a job that is over needs no messages
}

bool AgentJobs::to_migration(std::uint64_t migration_id, const wire::Message& message) {
  auto found = migrations_.find(migration_id);
  if (found != migrations_.end() && found->second.stand_in) found->second.stand_in->send(message);
  return true;
}

bool AgentJobs::cancel(const wire::Message& message) {
  constexpr std::size_t kMostRemembered = 1024;
  cancelled_.insert(message.migration_cancel().migration_id());
  if (cancelled_.size() > kMostRemembered) cancelled_.erase(cancelled_.begin());
  return to_migration(message.migration_cancel().migration_id(), message);
}

bool AgentJobs::from_leader(const wire::Message& message) {
  switch (message.body_case()) {
    case wire::Message::kStdioData:
      return to_job(message.stdio_data().job_id(), message);
    case wire::Message::kStdioAck:
      return to_job(message.stdio_ack().job_id(), message);
    case wire::Message::kGiveBack:
      return to_job(message.give_back().job_id(), message);
    case wire::Message::kStdioHeld:
      return to_job(message.stdio_held().job_id(), message);
    case wire::Message::kJobForeground:
      return to_job(message.job_foreground().job_id(), message);
    case wire::Message::kStdioDirectRequest:
      return to_job(message.stdio_direct_request().job_id(), message);
    case wire::Message::kJobSignal:
      return to_job(message.job_signal().job_id(), message);
    case wire::Message::kJobWindow:
      return to_job(message.job_window().job_id(), message);
    case wire::Message::kJobResync:
      return to_job(message.job_resync().job_id(), message);
    case wire::Message::kJobAbandon:
      return to_job(message.job_abandon().job_id(), message);
    case wire::Message::kJobExitAck:
      to_job(message.job_exit_ack().job_id(), message);
      forget_job(message.job_exit_ack().job_id());
      return true;
    case wire::Message::kStartOutgoing:
      started_outgoing(message.start_outgoing());
      return to_migration(message.start_outgoing().migration_id(), message);
    case wire::Message::kMigrationVerdict:
      return verdict(message);
    case wire::Message::kMigrationCancel:
      return cancel(message);
    case wire::Message::kMigrationHurry:
      return to_job(message.migration_hurry().job_id(), message);
    case wire::Message::kMigrationPagesLost:
      return to_job(message.migration_pages_lost().job_id(), message);
    default:
      return false;
  }
}

void AgentJobs::started_outgoing(const wire::StartOutgoing& start) {
  auto job = jobs_.find(start.job_id());
  LocalMigration migration;
  migration.outcome.set_migration_id(start.migration_id());
  migration.outcome.set_job_id(start.job_id());
  migration.outcome.set_role(Outcome::SOURCE);
  if (job == jobs_.end() || !job->second.stand_in) {
    wire::Message message;
    migration.outcome.set_state(Outcome::FAILED);
    migration.outcome.mutable_error()->set_code(wire::ERROR_GONE);
    migration.outcome.mutable_error()->set_message("the job is not here any more");
    *message.mutable_migration_outcome() = migration.outcome;
    hooks_.to_leader(message);
    return;
  }
  migration.stand_in = job->second.stand_in;
  migration.stand_in_pid = job->second.info.stand_in_pid();
  job->second.info.set_state(wire::JOB_MIGRATING);
  log::info("outgoing migration", log::field("migration", start.migration_id()),
            log::field("job", start.job_id()), log::field("to", start.destination()));
  migrations_[start.migration_id()] = std::move(migration);
}

bool AgentJobs::verdict(const wire::Message& message) {
  using wire::MigrationVerdict;
  const auto& verdict = message.migration_verdict();
  auto found = migrations_.find(verdict.migration_id());
  if (found == migrations_.end()) return true;
  LocalMigration& migration = found->second;
  log::info("migration verdict", log::field("migration", verdict.migration_id()),
            log::field("verdict", MigrationVerdict::Verdict_Name(verdict.verdict())));
  if (migration.stand_in) migration.stand_in->send(message);
  bool here_is_destination = migration.outcome.role() == Outcome::DESTINATION;
  bool refused = verdict.verdict() == MigrationVerdict::DENIED ||
                 verdict.verdict() == MigrationVerdict::ROLLED_BACK;
  if (!here_is_destination && verdict.verdict() == MigrationVerdict::COMPLETED) {
    depart(migration);
  } else if (here_is_destination && verdict.verdict() == MigrationVerdict::COMPLETED) {
    migrations_.erase(found);
  } else if (here_is_destination && refused) {
    // Its stand-in removes the copy; if it does not, we do.
    auto clean_up = [this, id = verdict.migration_id(), job_id = migration.outcome.job_id()] {
      (void)cgroups_.kill(job_id);
      auto late = migrations_.extract(id);
      if (late && late.mapped().stand_in)
        late.mapped().stand_in->close(Error{ErrorCode::kTimeout, "it did not give up", {}});
    };
    if (!migration.arriving) forget_job(migration.outcome.job_id());  // it had resumed here
    migration.arriving = true;
    migration.outcome.set_state(Outcome::FAILED);
    migration.clean_up =
        std::make_unique<Watchdog>(context_.get_executor(), kCleanUpTimeout, std::move(clean_up));
  }
  return true;
}

void AgentJobs::on_message(const std::shared_ptr<Connection>& connection, wire::Message message) {
  switch (message.body_case()) {
    case wire::Message::kJobStarted: {
      auto job = jobs_.find(message.job_started().job_id());
      if (job == jobs_.end() || job->second.stand_in != connection) return;
      job->second.info.set_pid(message.job_started().pid());
      job->second.info.set_stand_in_pid(message.job_started().stand_in_pid());
      job->second.info.set_state(wire::JOB_RUNNING);
      hooks_.to_leader(message);
      return;
    }
    case wire::Message::kJobStartFailed:
      hooks_.to_leader(message);
      forget_job(message.job_start_failed().job_id());
      return;
    case wire::Message::kJobReturned:
      hooks_.to_leader(message);
      forget_job(message.job_returned().job_id());
      return;
    case wire::Message::kJobExited:
      if (departed_exit(connection, message.job_exited())) return;
      ended(message.job_exited().job_id(), message.job_exited().wait_status());
      return;
    case wire::Message::kMigrationOutcome:
      on_outcome(connection, message.migration_outcome());
      return;
    case wire::Message::kStdioData:
    case wire::Message::kStdioAck:
    case wire::Message::kStdioDirectOffer:
    case wire::Message::kStdioHold:
    case wire::Message::kJobStopped:
    case wire::Message::kJobContinued:
    case wire::Message::kJobTerminal:
    case wire::Message::kMigrationAsk:
    case wire::Message::kMigrationProgress:
      hooks_.to_leader(message);
      return;
    default:
      log::warning("message not understood", log::field("peer", connection->name()),
                   log::field("body", static_cast<int>(message.body_case())));
  }
}

void AgentJobs::on_outcome(const std::shared_ptr<Connection>& connection,
                           const wire::MigrationOutcome& outcome) {
  auto found = migrations_.find(outcome.migration_id());
  if (found == migrations_.end() || found->second.stand_in != connection) return;
  LocalMigration& migration = found->second;
  log::info("migration outcome", log::field("migration", outcome.migration_id()),
            log::field("role", Outcome::Role_Name(outcome.role())),
            log::field("state", Outcome::State_Name(outcome.state())));
  bool refused = migration.clean_up != nullptr;
  migration.outcome = outcome;
  auto job = jobs_.find(outcome.job_id());
  if (outcome.role() == Outcome::SOURCE) {
    if (outcome.state() == Outcome::DONE || outcome.state() == Outcome::SERVING) {
      depart(migration);
    } else if (outcome.state() == Outcome::FAILED && job != jobs_.end() && !migration.departed) {
      job->second.info.set_state(wire::JOB_RUNNING);
    }
  } else if (outcome.state() == Outcome::RESUMED && migration.arriving && !refused) {
    arrived(migration);
  }
  wire::Message message;
  *message.mutable_migration_outcome() = outcome;
  bool final = outcome.state() == Outcome::FAILED || outcome.state() == Outcome::DONE;
  bool told = hooks_.to_leader(message);
  migration.heard = told && final;
  if (told) migration.outcome.clear_late_signals();  // not a second time in the next hello
  // A destination's is kept until its stand-in is gone, too.
  if (migration.heard && outcome.role() == Outcome::SOURCE) {
    migrations_.erase(outcome.migration_id());
    // Its stand-in may leave before the last of what it killed has gone.
    if (outcome.state() == Outcome::DONE) remove_cgroup(outcome.job_id());
  }
}

// The process runs here now; it is a job like any other.
void AgentJobs::arrived(LocalMigration& migration) {
  migration.arriving = false;
  LocalJob& job = jobs_[migration.outcome.job_id()];
  job.info.set_job_id(migration.outcome.job_id());
  job.info.set_node(node_);
  job.info.set_pid(migration.outcome.pid());
  job.info.set_stand_in_pid(migration.stand_in_pid);
  if (migration.prepare.has_deputy())
    borrowed_[migration.stand_in.get()] = {migration.stand_in_pid, migration.prepare.session_pid()};
  job.info.set_state(wire::JOB_RUNNING);
  job.stand_in = migration.stand_in;
}

// The process runs elsewhere now. Its stand-in stays, for this migration only.
void AgentJobs::depart(LocalMigration& migration) {
  migration.departed = true;
  auto job = jobs_.find(migration.outcome.job_id());
  if (job != jobs_.end() && job->second.stand_in == migration.stand_in) jobs_.erase(job);
}

// Before it was done: the pages that it still had are lost.
void AgentJobs::departed_copy_ended(std::uint64_t migration_id, const std::string& why) {
  LocalMigration& migration = migrations_[migration_id];
  auto job_id = migration.outcome.job_id();
  log::error("departed job's pages lost", log::field("migration", migration_id),
             log::field("job", job_id), log::field("reason", why));
  (void)cgroups_.kill(job_id);
  migration.outcome.set_state(Outcome::FAILED);
  *migration.outcome.mutable_error() = to_wire(Error{ErrorCode::kGone, why, {}});
  wire::Message message;
  *message.mutable_migration_outcome() = migration.outcome;
  // Else it goes into the next hello.
  if (hooks_.to_leader(message)) migrations_.erase(migration_id);
}

// The end of what a departed job left here is not the job's.
bool AgentJobs::departed_exit(const std::shared_ptr<Connection>& connection,
                              const wire::JobExited& exited) {
  auto found = std::ranges::find_if(migrations_, [&](const auto& entry) {
    return entry.second.departed && entry.second.stand_in == connection;
  });
  if (found == migrations_.end()) return false;
  wire::Message acknowledged;
  acknowledged.mutable_job_exit_ack()->set_job_id(exited.job_id());
  connection->send(acknowledged);
  departed_copy_ended(found->first, formatted("what the process left on {} ended", node_));
  return true;
}

void AgentJobs::ended(std::uint64_t job_id, std::uint32_t wait_status) {
  LocalJob& job = jobs_[job_id];
  job.info.set_job_id(job_id);
  job.info.set_node(node_);
  job.info.set_state(wire::JOB_EXITED);
  job.info.set_wait_status(wait_status);
  log::info("job ended", log::field("job", job_id), log::field("wait_status", wait_status));
  wire::Message message;
  message.mutable_job_exited()->set_job_id(job_id);
  message.mutable_job_exited()->set_wait_status(wait_status);
  hooks_.to_leader(message);
}

void AgentJobs::forget_job(std::uint64_t job_id) {
  jobs_.erase(job_id);
  remove_cgroup(job_id);
}

void AgentJobs::on_closed(const std::shared_ptr<Connection>& connection, const Error& reason) {
  borrowed_.erase(connection.get());
  for (auto it = migrations_.begin(); it != migrations_.end();) {
    auto& [id, migration] = *it++;
    if (migration.stand_in != connection) continue;
    migration.stand_in.reset();
    auto state = migration.outcome.state();
    if (migration.arriving && state != Outcome::FAILED) {
      incoming_failed(
          id, Error{ErrorCode::kGone,
                    formatted("the stand-in on {} ended unexpectedly: {}", node_, reason.message),
                    {}});
      continue;
    }
    if (migration.arriving) (void)cgroups_.kill(migration.outcome.job_id());
    bool final = state == Outcome::FAILED || state == Outcome::DONE;
    auto job_id = migration.outcome.job_id();
    if (migration.departed && !final) {
      departed_copy_ended(id, formatted("the stand-in on {} ended unexpectedly", node_));
      remove_cgroup(job_id);
      continue;
    }
    remove_cgroup(job_id);
    // What the leader does not know yet goes into the next hello.
    if (migration.heard || (!final && migration.outcome.role() == Outcome::SOURCE))
      migrations_.erase(id);
  }
  for (auto it = jobs_.begin(); it != jobs_.end();) {
    auto& [id, job] = *it++;
    if (job.stand_in != connection) continue;
    job.stand_in.reset();
    if (job.info.state() == wire::JOB_EXITED) continue;  // waits for the leader to know
    log::error("stand-in lost", log::field("job", id), log::field("reason", reason.message));
    (void)cgroups_.kill(id);
    if (job.info.state() == wire::JOB_STARTING) {
      start_failed(id, Error{ErrorCode::kUnavailable, "the job's stand-in ended", {}});
    } else {
      ended(id, kKilled);
    }
  }
}

bool AgentJobs::is_here(std::uint64_t job_id) const {
  if (jobs_.contains(job_id)) return true;
  return std::ranges::any_of(migrations_, [&](const auto& entry) {
    const LocalMigration& migration = entry.second;
    return migration.outcome.job_id() == job_id && (migration.arriving || migration.departed) &&
           (migration.stand_in || migration.waiting);
  });
}

void AgentJobs::remove_cgroup(std::uint64_t job_id) {
  if (!is_here(job_id) && !cgroups_.remove(job_id))
    asio::co_spawn(context_, remove_later(this, job_id), asio::detached);
}

// Unless the job comes back meanwhile: its new stand-in has made the group for itself.
Awaitable<> AgentJobs::remove_later(AgentJobs* self, std::uint64_t job_id) {
  for (Clock::duration delay = kRemoveRetry; delay <= kLongestRemoveRetry; delay *= 2) {
    co_await sleep_for(delay);
    if (self->is_here(job_id) || self->cgroups_.remove(job_id)) co_return;
  }
}

void AgentJobs::discard(std::uint64_t job_id, std::string_view why) {
  log::warning("job discarded", log::field("job", job_id), log::field("reason", why));
  auto connection = stand_in_of(job_id);
  if (connection) {
    wire::Message message;
    message.mutable_job_abandon()->set_job_id(job_id);
    connection->send(message);
    // Nobody else would.
    message.mutable_job_exit_ack()->set_job_id(job_id);
    connection->send(message);
  }
  auto found = jobs_.find(job_id);
  if (found == jobs_.end() || !found->second.adopted) (void)cgroups_.kill(job_id);
  forget_job(job_id);
}

void AgentJobs::all_gone() {
  for (auto& [id, job] : jobs_) {
    if (job.info.state() == wire::JOB_EXITED) continue;
    job.stand_in.reset();  // its close is no news any more
    (void)cgroups_.kill(id);
  }
  std::vector<std::uint64_t> running;
  for (const auto& [id, job] : jobs_)
    if (job.info.state() != wire::JOB_EXITED) running.push_back(id);
  for (auto id : running) ended(id, kKilled);
}

}  // namespace gestalt
