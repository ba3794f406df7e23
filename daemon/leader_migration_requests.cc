// Leader: what users ask about migrations.
#include "common/format.h"
#include "common/no_rdma.h"
#include "daemon/certificates.h"
#include "daemon/job_permission.h"
#include "daemon/leader.h"
#include "daemon/migration_options.h"
#include "daemon/preflight_transport.h"
#include "daemon/wall_clock.h"

namespace gestalt {
namespace {

constexpr auto kPreflightTimeout = std::chrono::seconds(10);
// Beyond the migration's own timeout: the commit, the clean-up.
constexpr double kReplySlackSeconds = 120;
// For a migration that had to wait for the pages of the one before.
constexpr double kLeastTimeoutSeconds = 1;
constexpr std::size_t kSecretBytes = 32;
// So that a full list fits into a frame.
constexpr std::size_t kMaxListedCommandBytes = 256;

Clock::duration seconds(double value) {
  return std::chrono::duration_cast<Clock::duration>(std::chrono::duration<double>(value));
}

}  // namespace

Result<Job*> Leader::migratable_job(const FoundTask& found, uid_t uid) {
  const wire::Task& task = found.task;
  Job* job = jobs_.find(task.job_id());
  if (!may_manage(uid, job != nullptr ? job->record.uid : task.uid()))
    return fail(ErrorCode::kPermission, formatted("process {} is not yours", task.pid()));
  if (job == nullptr || job->ended())
    return fail(ErrorCode::kInvalidArgument,
                formatted("process {} is not part of any job", task.pid()),
                "only what `gestalt run` or `gestalt shell` started can migrate");
  if (job->record.state == wire::JOB_STARTING || job->record.root_pid == 0)
    return fail(ErrorCode::kBusy, formatted("job {} is still starting", job->record.job_id),
                "try again in a moment");
  if (task.pid() != job->record.root_pid)
    return fail(ErrorCode::kInvalidArgument,
                formatted("process {} is not the root of its job", task.pid()),
                formatted("migrate {}: its whole tree moves with it", job->record.root_pid));
  if (task.outside_slice())
    return fail(ErrorCode::kBlocked,
                formatted("pid {} is outside the pid slice of node {}", task.pid(), found.node),
                "such a pid may be in use elsewhere; start the program again");
  return job;
}

Result<MigrationArbiter::Plan> Leader::plan_migration(const FoundTask& found, uid_t uid,
                                                      const wire::MigrateRequest& request) {
  GESTALT_ASSIGN(Job * job, migratable_job(found, uid));
  GESTALT_TRY(check_usable(request.node()));
  if (comes_home(*job, request.node()) && job->owner == 0)
    return fail(ErrorCode::kUnavailable,
                formatted("the deputy of process {} is not connected", found.task.pid()),
                "try again later");
  if (request.node() == job->record.node)
    return fail(ErrorCode::kInvalidArgument,
                formatted("process {} is on {} already", found.task.pid(), request.node()));
  MigrationArbiter::Plan plan;
  plan.options = request.options();
  GESTALT_TRY(complete_options(plan.options, config_.migration));
  plan.job_id = job->record.job_id;
  plan.pid = job->record.root_pid;
  plan.stand_in_pid = job->record.stand_in_pid;
  plan.source = job->record.node;
  plan.destination = request.node();
  plan.now_unix_seconds = unix_seconds();
  plan.uid = job->record.uid;
  plan.command = job->record.command;
  plan.answer_when_resumed = request.answer_when_resumed();
  GESTALT_ASSIGN(plan.secret, random_bytes(kSecretBytes));
  return plan;
}

Awaitable<Result<wire::MigrateReply>> Leader::migrate(ClientId client, uid_t uid,
                                                      wire::MigrateRequest request) {
  co_await await_returned(request.pid());
  auto found = co_await find_task(request.pid());
  if (!found) co_return std::unexpected(std::move(found).error());
  if (would_leave_deputy(*found)) {
    GESTALT_CO_TRY(may_leave(*found, uid, request));
    if (request.dry_run()) co_return co_await preflight_of(std::move(*found), std::move(request));
    GESTALT_CO_TRY(co_await adopt(*found));
    auto job_id = found->task.job_id();
    auto outcome = co_await migrate_found(client, uid, std::move(*found), std::move(request));
    if (!outcome) give_back(job_id);
    co_return outcome;
  }
  co_return co_await migrate_found(client, uid, std::move(*found), std::move(request));
}

Awaitable<Result<wire::MigrateReply>> Leader::migrate_found(ClientId client, uid_t uid,
                                                            FoundTask found,
                                                            wire::MigrateRequest request) {
  auto plan = plan_migration(found, uid, request);
  if (!plan) co_return std::unexpected(std::move(plan).error());
  if (request.dry_run()) co_return co_await preflight(std::move(*plan));
  auto asked = Clock::now();
  GESTALT_CO_ASSIGN(bool waited, co_await pages_first(*plan));
  if (waited) {  // all may be different by now
    plan = plan_migration(found, uid, request);
    if (!plan) co_return std::unexpected(std::move(plan).error());
    double left = plan->options.timeout_seconds() - seconds_between(asked, Clock::now());
    plan->options.set_timeout_seconds(std::max(left, kLeastTimeoutSeconds));
  }
  co_return co_await migrate_now(client, std::move(*plan));
}

Awaitable<Result<wire::MigrateReply>> Leader::migrate_now(ClientId client,
                                                          MigrationArbiter::Plan plan) {
  auto patience = seconds(plan.options.timeout_seconds() + kReplySlackSeconds);
  bool comes_here = plan.destination == config_.cluster.leader;
  auto job_id = plan.job_id;
  auto stand_in_pid = plan.stand_in_pid;
  if (comes_here) co_await view_.ghosts().release(job_id, stand_in_pid);
  ArbiterActions actions;
  auto begun = arbiter_.begin(std::move(plan), Clock::now(), actions);
  if (!begun) {
    if (comes_here) view_.ghosts().let_back(job_id, stand_in_pid);
    co_return std::unexpected(std::move(begun).error());
  }
  auto id = *begun;
  auto answer = std::make_shared<Promise<ArbiterAction>>(context_.get_executor());
  waiting_[id] = {answer, client};
  perform(actions);
  // Pages may follow for as long as they need.
  auto paging = [this, id] {
    const Migration* migration = arbiter_.find(id);
    return migration != nullptr && migration->serving;
  };
  auto reply = co_await answer->wait(patience);
  while (!reply && paging()) reply = co_await answer->wait(patience);
  waiting_.erase(id);
  // A ghost in the process's group would keep its pid from another deputy. And who has moved a
  // process expects that signals now take their way.
  if (comes_here || (reply && !reply->error)) co_await await_deputy(job_id);
  if (comes_here) view_.ghosts().let_back(job_id, stand_in_pid);
  if (!reply)
    co_return fail(ErrorCode::kTimeout, formatted("migration {} is not resolved yet", id),
                   formatted("see `gestalt migrations {}`", id));
  if (reply->error) co_return std::unexpected(*reply->error);
  wire::MigrateReply out;
  *out.mutable_stats() = reply->stats;
  co_return out;
}

// A job moves with all its pages: those that still are where it came from are fetched
// before it moves again. True: there were some.
Awaitable<Result<bool>> Leader::pages_first(const MigrationArbiter::Plan& plan) {
  auto timeout = seconds(plan.options.timeout_seconds());
  auto pid = plan.pid;
  ArbiterActions actions;
  auto id = arbiter_.hurry(plan.job_id, actions);
  if (!id) co_return false;
  auto over = std::make_shared<Promise<ArbiterAction>>(context_.get_executor());
  auto place = settling_.emplace(*id, over);
  perform(actions);
  auto ended = co_await over->wait(timeout);
  settling_.erase(place);
  if (!ended)
    co_return fail(
        ErrorCode::kTimeout,
        formatted("pages of process {} are still where it came from (migration {})", pid, *id),
        "try again later, or give it more time");
  if (ended->error) co_return std::unexpected(*ended->error);
  co_return true;
}

Awaitable<Result<wire::MigrateReply>> Leader::preflight(MigrationArbiter::Plan plan) {
  wire::Message question;
  question.mutable_preflight_request()->set_job_id(plan.job_id);
  *question.mutable_preflight_request()->mutable_options() = plan.options;
  *question.mutable_preflight_request()->mutable_facts() =
      destination_facts(plan.source, plan.destination);
  auto answer = co_await ask(plan.source, std::move(question), kPreflightTimeout);
  if (!answer) co_return std::unexpected(std::move(answer).error());
  if (!answer->has_preflight_report())
    co_return fail(ErrorCode::kProtocol, formatted("{} gave a strange answer", plan.source));
  wire::MigrateReply out;
  wire::PreflightReport& report = *out.mutable_preflight();
  report = std::move(*answer->mutable_preflight_report());
  report.set_mode(plan.options.mode());
  report.set_source(plan.source);
  report.set_destination(plan.destination);
  const Job* job = jobs_.find(plan.job_id);
  if (job != nullptr && comes_home(*job, plan.destination))
    co_await add_home_blockers(plan.pid, report);
  co_await add_transport(plan.options.transport(), plan.pid, report);
  co_return out;
}

// As a migration finds out: the destination looks for a device that has its address, then the
// source for one that leads there.
Awaitable<Result<void>> Leader::look_for_rdma(std::string source, std::string destination) {
  wire::Message here;
  here.mutable_rdma_request();
  auto offered = co_await ask(destination, std::move(here), kPreflightTimeout);
  if (!offered) co_return std::unexpected(rdma_not_offered(offered.error().text()));
  wire::Message there;
  there.mutable_rdma_request()->set_address(facts_[destination].hello.address());
  auto leads = co_await ask(source, std::move(there), kPreflightTimeout);
  if (!leads) co_return std::unexpected(std::move(leads).error());
  co_return Result<void>();
}

Awaitable<> Leader::add_transport(std::string wanted, std::uint32_t pid,
                                  wire::PreflightReport& report) {
  Result<void> rdma;
  if (wanted != "tcp") rdma = co_await look_for_rdma(report.source(), report.destination());
  put_transport(wanted, std::move(rdma), pid, report);
}

// The deputy is one of its session's processes, whose stand-in knows the way.
Awaitable<> Leader::add_home_blockers(std::uint32_t pid, wire::PreflightReport& report) {
  std::string home = config_.cluster.leader;
  auto deputy = co_await find_task_on(std::vector{home}, pid);
  if (!deputy) co_return;
  wire::Message question;
  question.mutable_preflight_request()->set_job_id(deputy->task.job_id());
  question.mutable_preflight_request()->set_pid(pid);
  question.mutable_preflight_request()->set_comes_home(true);
  auto answer = co_await ask(home, std::move(question), kPreflightTimeout);
  if (answer) report.mutable_blockers()->MergeFrom(answer->preflight_report().blockers());
}

Result<wire::MigrationListReply> Leader::list_migrations(uid_t uid, std::uint64_t migration_id) {
  wire::MigrationListReply reply;
  for (auto& each : arbiter_.listing()) {
    if (migration_id != 0 && each.stats.migration_id() != migration_id) continue;
    if (!may_manage(uid, each.uid)) {
      if (migration_id == 0) continue;
      return fail(ErrorCode::kPermission, formatted("migration {} is not yours", migration_id));
    }
    auto& command = *each.stats.mutable_command();
    if (command.size() > kMaxListedCommandBytes) command.resize(kMaxListedCommandBytes);
    *reply.add_migrations() = std::move(each.stats);
  }
  if (migration_id != 0 && reply.migrations().empty())
    return fail(ErrorCode::kNotFound, formatted("the leader knows no migration {}", migration_id),
                "see `gestalt migrations`; older ones, and those before its start, are forgotten");
  return reply;
}

}  // namespace gestalt
