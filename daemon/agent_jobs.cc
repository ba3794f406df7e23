#include "daemon/agent_jobs.h"

#include "common/format.h"
#include "common/unix_socket.h"
#include "daemon/command_text.h"
#include "daemon/pid_slices.h"

namespace gestalt {
namespace {

using Outcome = wire::MigrationOutcome;

constexpr auto kHelloTimeout = std::chrono::seconds(5);
constexpr auto kEndedStandInsReturn = std::chrono::seconds(2);  // they try five times a second
constexpr std::size_t kMaxJobs = 4096;
constexpr std::size_t kMaxMigrations = 256;
constexpr std::uint32_t kKilled = 9;  // the wait status of a process that SIGKILL ended

}  // namespace

AgentJobs::AgentJobs(asio::io_context& context, std::string node, JobCgroups cgroups, Hooks hooks)
    : context_(context),
      node_(std::move(node)),
      cgroups_(std::move(cgroups)),
      hooks_(std::move(hooks)) {}

Result<void> AgentJobs::listen(const std::string& socket_path) {
  GESTALT_ASSIGN(auto fd, listen_unix(socket_path, 0600));
  server_ = std::make_unique<LocalServer>(
      context_, std::move(fd), socket_path,
      [this](std::shared_ptr<Connection> connection) { on_connection(std::move(connection)); });
  return {};
}

void AgentJobs::close() {
  if (server_) server_->close();
}

void AgentJobs::on_connection(std::shared_ptr<Connection> connection) {
  auto peer = peer_credentials(connection->native_handle());
  if (!peer || peer->uid != 0) {
    log::warning("stand-in refused", log::field("reason", "it is not root"));
    return;
  }
  // Its first message must be a hello, and soon.
  connection->set_idle_timeout(kHelloTimeout);
  std::weak_ptr<Connection> weak = connection;
  connection->start(
      [this, weak](wire::Message message) {
        auto self = weak.lock();
        if (!self) return;
        if (message.has_stand_in_hello()) {
          on_hello(self, message.stand_in_hello());
        } else {
          on_message(self, std::move(message));
        }
      },
      [this, connection](const Error& reason) { on_closed(connection, reason); });
}

void AgentJobs::on_hello(const std::shared_ptr<Connection>& connection,
                         const wire::StandInHello& hello) {
  connection->set_idle_timeout(Clock::duration::zero());
  connection->set_name(formatted("stand-in of job {}", hello.job_id()));
  log::info("stand-in connected", log::field("job", hello.job_id()),
            log::field("pid", hello.stand_in_pid()), log::field("migration", hello.migration_id()));
  for (const auto& outcome : hello.migrations()) {
    auto& migration = migrations_[outcome.migration_id()];
    migration.outcome = outcome;
    migration.stand_in = connection;
    migration.stand_in_pid = hello.stand_in_pid();
    if (outcome.role() == Outcome::SOURCE && outcome.state() == Outcome::SERVING)
      return depart(migration);  // it has no job any more
  }
  // Also when its job has ended: it is there as long as what the job has left behind.
  if (hello.job().has_deputy())
    borrowed_[connection.get()] = {hello.stand_in_pid(), hello.job().session_pid()};
  auto found = migrations_.find(hello.migration_id());
  bool is_job = hello.has_job() && hello.job().pid() != 0;
  if (found == migrations_.end() && hello.migration_id() != 0 && !is_job) {
    // It was to receive one that was cancelled meanwhile.
    wire::Message leave;
    leave.mutable_job_exit_ack()->set_job_id(hello.job_id());
    connection->send(leave);
    return;
  }
  if (found == migrations_.end() || (is_job && !found->second.arriving)) {
    adopt_job(connection, hello);
    return;
  }
  LocalMigration& migration = found->second;
  migration.arriving = true;
  migration.stand_in = connection;
  migration.stand_in_pid = hello.stand_in_pid();
  migration.outcome.set_migration_id(hello.migration_id());
  migration.outcome.set_job_id(hello.job_id());
  migration.outcome.set_role(Outcome::DESTINATION);
  if (migration.waiting) migration.waiting->set(connection);
}

void AgentJobs::adopt_job(const std::shared_ptr<Connection>& connection,
                          const wire::StandInHello& hello) {
  LocalJob& job = jobs_[hello.job_id()];
  if (job.stand_in && job.stand_in != connection)
    job.stand_in->close(Error{ErrorCode::kBusy, "another stand-in has the job", {}});
  bool known_end = job.info.state() == wire::JOB_EXITED;
  if (hello.has_job()) job.info = hello.job();
  job.info.set_job_id(hello.job_id());
  job.info.set_stand_in_pid(hello.stand_in_pid());
  job.info.set_node(node_);
  if (hello.exited() || known_end)
    job.info.set_state(wire::JOB_EXITED);
  else if (job.info.pid() != 0 && job.info.state() == wire::JOB_STARTING)
    job.info.set_state(wire::JOB_RUNNING);
  job.stand_in = connection;
  if (job.waiting) {
    job.waiting->set(connection);
  } else {  // it comes back
    if (hello.exited()) ended(hello.job_id(), job.info.wait_status());
    wire::Message resync;
    resync.mutable_job_resync()->set_job_id(hello.job_id());
    resync.mutable_job_resync()->set_node(node_);
    connection->send(resync);
  }
}

Result<void> AgentJobs::expect(const wire::JobSpec& spec) {
  wire::JobInfo info;
  info.set_job_id(spec.job_id());
  info.set_uid(spec.identity().uid());
  info.set_command(command_text(spec));
  return expect_job(std::move(info));
}

Result<void> AgentJobs::expect_adopted(const wire::AdoptProcess& request) {
  wire::JobInfo info;
  info.set_job_id(request.job_id());
  info.set_uid(request.uid());
  GESTALT_TRY(expect_job(std::move(info)));
  jobs_[request.job_id()].adopted = true;
  return {};
}

Result<void> AgentJobs::expect_job(wire::JobInfo info) {
  if (jobs_.size() >= kMaxJobs)
    return fail(ErrorCode::kBusy, formatted("{} runs {} jobs already", node_, jobs_.size()));
  auto job_id = info.job_id();
  if (jobs_.contains(job_id))
    return fail(ErrorCode::kBusy, formatted("job {} is here already", job_id));
  LocalJob job;
  job.info = std::move(info);
  job.info.set_node(node_);
  job.info.set_state(wire::JOB_STARTING);
  job.waiting = std::make_shared<Promise<std::shared_ptr<Connection>>>(context_.get_executor());
  jobs_.emplace(job_id, std::move(job));
  return {};
}

Awaitable<Result<std::shared_ptr<Connection>>> AgentJobs::wait_for_job(std::uint64_t job_id) {
  auto found = jobs_.find(job_id);
  if (found == jobs_.end()) co_return fail(ErrorCode::kGone, "the job was ended");
  auto waiting = found->second.waiting;
  auto connection = co_await waiting->wait(kHelloTimeout);
  found = jobs_.find(job_id);
  if (found != jobs_.end()) found->second.waiting.reset();
  if (!connection) co_return fail(ErrorCode::kTimeout, "the stand-in did not come up in time");
  co_return std::move(*connection);
}

void AgentJobs::start_failed(std::uint64_t job_id, const Error& error) {
  log::warning("job not started", log::field("job", job_id), log::field("error", error.text()));
  wire::Message message;
  message.mutable_job_start_failed()->set_job_id(job_id);
  *message.mutable_job_start_failed()->mutable_error() = to_wire(error);
  hooks_.to_leader(message);
  (void)cgroups_.kill(job_id);
  forget_job(job_id);
}

Result<void> AgentJobs::expect_incoming(const wire::PrepareIncoming& prepare) {
  if (cancelled_.contains(prepare.migration_id()))
    return fail(ErrorCode::kGone, "the migration was cancelled");
  if (migrations_.size() >= kMaxMigrations)
    return fail(ErrorCode::kBusy, formatted("too many migrations on {}", node_));
  if (jobs_.contains(prepare.job_id()))
    return fail(ErrorCode::kBusy, formatted("job {} is on {} already", prepare.job_id(), node_));
  for (const auto& [id, other] : migrations_)
    if (other.outcome.job_id() == prepare.job_id() &&
        (other.arriving || (other.departed && other.stand_in)))
      return fail(ErrorCode::kBusy, "the leftovers of an earlier attempt are still being removed",
                  "try again in a few seconds");
  LocalMigration migration;
  migration.outcome.set_migration_id(prepare.migration_id());
  migration.outcome.set_job_id(prepare.job_id());
  migration.outcome.set_role(Outcome::DESTINATION);
  migration.arriving = true;
  // At home, parent and session are themselves there.
  migration.prepare.set_has_deputy(prepare.has_deputy() && !prepare.comes_home());
  migration.prepare.set_stand_in_pid(prepare.stand_in_pid());
  migration.prepare.set_session_pid(prepare.session_pid());
  migration.waiting =
      std::make_shared<Promise<std::shared_ptr<Connection>>>(context_.get_executor());
  migrations_.emplace(prepare.migration_id(), std::move(migration));
  return {};
}

Awaitable<Result<std::shared_ptr<Connection>>> AgentJobs::wait_for_incoming(
    std::uint64_t migration_id) {
  auto found = migrations_.find(migration_id);
  if (found == migrations_.end() || !found->second.waiting)
    co_return fail(ErrorCode::kGone, "the migration was cancelled");
  auto waiting = found->second.waiting;
  auto connection = co_await waiting->wait(kHelloTimeout);
  if (!connection) co_return fail(ErrorCode::kTimeout, "the stand-in did not come up in time");
  if (!migrations_.contains(migration_id) || cancelled_.contains(migration_id))
    co_return fail(ErrorCode::kGone, "the migration was cancelled");
  co_return std::move(*connection);
}

// Reports and removes all traces of an attempt that did not come to a resumption.
void AgentJobs::incoming_failed(std::uint64_t migration_id, const Error& error) {
  auto node = migrations_.extract(migration_id);
  if (!node) return;
  LocalMigration& migration = node.mapped();
  wire::Message message;
  *message.mutable_migration_outcome() = migration.outcome;
  message.mutable_migration_outcome()->set_state(Outcome::FAILED);
  *message.mutable_migration_outcome()->mutable_error() = to_wire(error);
  log::warning("incoming migration failed", log::field("migration", migration_id),
               log::field("error", error.text()));
  (void)cgroups_.kill(migration.outcome.job_id());
  if (migration.stand_in)
    migration.stand_in->close(Error{ErrorCode::kUnavailable, "the migration failed", {}});
  if (!hooks_.to_leader(message)) {  // it hears it in the next hello
    LocalMigration kept;
    kept.outcome = message.migration_outcome();
    migrations_[migration_id] = std::move(kept);
  }
  remove_cgroup(message.migration_outcome().job_id());
}

Awaitable<> AgentJobs::readopt(Clock::duration timeout) {
  auto expected = cgroups_.populated();
  // The stand-in of one that has ended meanwhile, too, has to tell of it, if it lives.
  auto ended_ones = cgroups_.all();
  for (auto job_id : expected) ended_ones.erase(job_id);
  auto missing = [&](std::set<std::uint64_t>& among) {
    std::erase_if(among, [&](std::uint64_t job_id) {
      if (auto job = jobs_.find(job_id); job != jobs_.end() && job->second.stand_in) return true;
      for (const auto& [id, migration] : migrations_)
        if (migration.outcome.job_id() == job_id && migration.stand_in) return true;
      return false;
    });
    return !among.empty();
  };
  Deadline deadline = deadline_in(timeout);
  Deadline ended_deadline = deadline_in(kEndedStandInsReturn);
  while ((missing(expected) && Clock::now() < deadline) ||
         (missing(ended_ones) && Clock::now() < ended_deadline))
    co_await sleep_for(std::chrono::milliseconds(50));
  for (auto job_id : ended_ones) remove_cgroup(job_id);
  for (auto job_id : expected) {
    log::error("job ended: its stand-in is gone", log::field("job", job_id));
    (void)cgroups_.kill(job_id);
    ended(job_id, kKilled);
  }
}

void AgentJobs::fill_hello(wire::AgentHello& hello) const {
  for (const auto& [id, job] : jobs_) *hello.add_jobs() = job.info;
  for (const auto& [id, migration] : migrations_) *hello.add_migrations() = migration.outcome;
}

void AgentJobs::hello_delivered() {
  std::erase_if(migrations_, [](const auto& entry) {
    auto state = entry.second.outcome.state();
    return state == Outcome::FAILED || state == Outcome::DONE;
  });
  for (auto& [id, migration] : migrations_) migration.outcome.clear_late_signals();
}

void AgentJobs::resync() {
  for (const auto& [id, job] : jobs_) {
    if (!job.stand_in) continue;
    wire::Message message;
    message.mutable_job_resync()->set_job_id(id);
    message.mutable_job_resync()->set_node(node_);
    job.stand_in->send(message);
  }
}

std::shared_ptr<Connection> AgentJobs::stand_in_of(std::uint64_t job_id) const {
  auto found = jobs_.find(job_id);
  return found == jobs_.end() ? nullptr : found->second.stand_in;
}

std::uint32_t AgentJobs::stand_in_pid_of(std::uint64_t job_id) const {
  auto found = jobs_.find(job_id);
  return found == jobs_.end() ? 0 : found->second.info.stand_in_pid();
}

std::map<std::uint64_t, std::uint32_t> AgentJobs::roots() const {
  std::map<std::uint64_t, std::uint32_t> out;
  for (const auto& [id, job] : jobs_)
    if (job.info.pid() != 0 && job.info.state() != wire::JOB_EXITED) out[id] = job.info.pid();
  return out;
}

AgentJobs::Departed AgentJobs::departed() const {
  Departed out;
  for (const auto& [id, migration] : migrations_) {
    if (!migration.departed || jobs_.contains(migration.outcome.job_id())) continue;
    out.jobs.insert(migration.outcome.job_id());
    out.stand_in_pids.insert(migration.stand_in_pid);
  }
  return out;
}

std::set<std::uint32_t> AgentJobs::borrowed_pids() const {
  std::set<std::uint32_t> out;
  for (const auto& [stand_in, pids] : borrowed_) out.insert(pids.begin(), pids.end());
  return out;
}

TaskScanner::Hidden AgentJobs::not_shown() const {
  auto gone = departed();
  gone.stand_in_pids.merge(borrowed_pids());
  TaskScanner::Hidden out{.jobs = std::move(gone.jobs),
                          .pids = std::move(gone.stand_in_pids),
                          .below_pid = kMinPidSliceSize};
  for (const auto& [id, migration] : migrations_) {
    if (!migration.arriving) continue;
    out.jobs.insert(migration.outcome.job_id());
    out.pids.insert(migration.stand_in_pid);
    if (!migration.prepare.has_deputy()) continue;
    out.pids.insert(migration.prepare.stand_in_pid());
    out.pids.insert(migration.prepare.session_pid());
  }
  return out;
}

std::uint32_t AgentJobs::running() const {
  std::uint32_t count = 0;
  for (const auto& [id, job] : jobs_) count += job.info.state() != wire::JOB_EXITED ? 1 : 0;
  return count;
}

}  // namespace gestalt
