// Leader: processes that leave a parent which stays on the leader. Each becomes a job of its own,
// whose client is its deputy (migrate/deputize.h). Should it not leave after all, the job is
// forgotten: the stand-in says JobStartFailed.
#include <poll.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <csignal>
#include <sstream>

#include "common/fd.h"
#include "common/format.h"
#include "common/paths.h"
#include "common/proc.h"
#include "daemon/command_text.h"
#include "daemon/job_permission.h"
#include "daemon/leader.h"
#include "daemon/migration_options.h"
#include "daemon/wall_clock.h"

namespace gestalt {
namespace {

constexpr auto kAdoptionTimeout = std::chrono::seconds(12);
constexpr auto kPreflightTimeout = std::chrono::seconds(10);
// A dying process loses its connections some time before it is dead.
constexpr auto kDyingPoll = std::chrono::milliseconds(20);
constexpr int kDyingPolls = 100;
constexpr int kWitnessPolls = 5;
constexpr auto kNewDeputyTimeout = std::chrono::seconds(6);  // its launcher tries for five
constexpr auto kReturnTimeout = std::chrono::seconds(60);
constexpr auto kLookInterval = std::chrono::milliseconds(500);

bool has_ended(const Fd& process) {
  pollfd entry{process.get(), POLLIN, 0};
  return ::poll(&entry, 1, 0) > 0;
}

wire::Message root_signal(std::uint64_t job_id, int signal, bool to_group) {
  wire::Message message;
  message.mutable_job_signal()->set_to_group(to_group);
  message.mutable_job_signal()->set_job_id(job_id);
  message.mutable_job_signal()->set_signal(static_cast<std::uint32_t>(signal));
  return message;
}

}  // namespace

bool Leader::would_leave_deputy(const FoundTask& found) {
  const Job* job = jobs_.find(found.task.job_id());
  return job != nullptr && !job->ended() && job->record.node == config_.cluster.leader &&
         found.node == job->record.node && job->record.root_pid != 0 &&
         job->record.root_pid != found.task.pid();
}

Result<void> Leader::may_leave(const FoundTask& found, uid_t uid,
                               const wire::MigrateRequest& request) {
  auto pid = found.task.pid();
  if (!may_manage(uid, found.task.uid()))
    return fail(ErrorCode::kPermission, formatted("process {} is not yours", pid));
  if (found.task.outside_slice())
    return fail(ErrorCode::kBlocked,
                formatted("pid {} is outside the pid slice of node {}", pid, found.node),
                "such a pid may be in use elsewhere; start the program again");
  if (jobs_.with_deputy(pid) != nullptr)
    return fail(ErrorCode::kBusy, formatted("process {} is about to move", pid),
                "wait until it has moved");
  GESTALT_TRY(check_usable(request.node()));
  if (request.node() == found.node)
    return fail(ErrorCode::kInvalidArgument,
                formatted("process {} is on {} already", pid, request.node()));
  auto options = request.options();
  return complete_options(options, config_.migration);
}

Awaitable<Result<void>> Leader::adopt(FoundTask& found) {
  JobRecord record;
  record.node = found.node;
  record.root_pid = found.task.pid();
  record.uid = found.task.uid();
  record.command = found.task.command().substr(0, kMaxCommandBytes);
  record.started_unix_seconds = unix_seconds();
  record.has_deputy = true;
  GESTALT_CO_ASSIGN(Job * job, jobs_.create(std::move(record), 0));
  auto job_id = job->record.job_id;
  wire::Message message;
  message.mutable_adopt_process()->set_job_id(job_id);
  message.mutable_adopt_process()->set_pid(found.task.pid());
  message.mutable_adopt_process()->set_uid(found.task.uid());
  auto outcome = std::make_shared<Promise<Result<void>>>(context_.get_executor());
  adopting_[job_id] = outcome;
  log::info("process is to leave", log::field("job", job_id), log::field("pid", found.task.pid()));
  std::optional<Result<void>> done;
  if (send_to(found.node, message)) done = co_await outcome->wait(kAdoptionTimeout);
  adopting_.erase(job_id);
  if (!done) {
    jobs_.forget(job_id);
    co_return fail(ErrorCode::kTimeout,
                   formatted("process {} was not made ready to leave in time", found.task.pid()),
                   "try again later");
  }
  if (!*done) co_return std::move(*done);
  found.task.set_job_id(job_id);
  found.task.set_is_root(true);
  co_return Result<void>();
}

void Leader::give_back(std::uint64_t job_id) {
  const Job* job = jobs_.find(job_id);
  if (job == nullptr || arbiter_.of_job(job_id) != nullptr) return;
  wire::Message message;
  message.mutable_give_back()->set_job_id(job_id);
  send_to(job->record.node, message);
}

void Leader::adopted(std::uint64_t job_id, Result<void> outcome) {
  auto found = adopting_.find(job_id);
  if (found != adopting_.end()) found->second->set(std::move(outcome));
}

Awaitable<Result<wire::MigrateReply>> Leader::preflight_of(FoundTask found,
                                                           wire::MigrateRequest request) {
  wire::Message question;
  auto& asked = *question.mutable_preflight_request();
  asked.set_job_id(found.task.job_id());
  asked.set_pid(found.task.pid());
  *asked.mutable_options() = request.options();
  GESTALT_CO_TRY(complete_options(*asked.mutable_options(), config_.migration));
  *asked.mutable_facts() = destination_facts(found.node, request.node());
  auto mode = asked.options().mode();
  auto transport = asked.options().transport();
  auto answer = co_await ask(found.node, std::move(question), kPreflightTimeout);
  if (!answer) co_return std::unexpected(std::move(answer).error());
  if (!answer->has_preflight_report())
    co_return fail(ErrorCode::kProtocol, formatted("{} gave a strange answer", found.node));
  wire::MigrateReply out;
  wire::PreflightReport& report = *out.mutable_preflight();
  report = std::move(*answer->mutable_preflight_report());
  report.set_mode(mode);
  report.set_source(found.node);
  report.set_destination(request.node());
  co_await add_transport(std::move(transport), found.task.pid(), report);
  co_return out;
}

bool Leader::comes_home(const Job& job, const std::string& node) const {
  return job.record.has_deputy && node == config_.cluster.leader;
}

void Leader::recall_deputy(std::uint64_t job_id) {
  Job* job = jobs_.find(job_id);
  if (job == nullptr) return;
  job->recalled = true;
  wire::Message message;
  message.mutable_deputy_recall()->set_job_id(job_id);
  message.mutable_deputy_recall()->set_socket(paths::kHomeSocket + std::to_string(job_id));
  send_to_client(job->owner, message);
}

Awaitable<> Leader::await_deputy(std::uint64_t job_id) {
  for (auto deadline = deadline_in(kNewDeputyTimeout); Clock::now() < deadline;) {
    const Job* job = jobs_.find(job_id);
    bool missing = job != nullptr && job->record.has_deputy && !job->ended() && !job->returned &&
                   job->owner == 0;
    if (!missing) co_return;
    co_await sleep_for(kDyingPoll);
  }
}

Awaitable<> Leader::await_returned(std::uint32_t pid) {
  auto is_returning = [&] {
    const Job* job = jobs_.with_deputy(pid);
    return job != nullptr && job->returned;
  };
  ArbiterActions actions;
  if (is_returning() && arbiter_.hurry(jobs_.with_deputy(pid)->record.job_id, actions))
    perform(actions);
  for (Deadline deadline = deadline_in(kReturnTimeout); is_returning() && Clock::now() < deadline;)
    co_await sleep_for(kDyingPoll);
}

void Leader::find_witness(Client& client) {
  if (client.pid == 0 || (client.witness && !has_ended(client.witness))) return;
  client.witness.reset();
  auto children = read_file(formatted("/proc/{0}/task/{0}/children", client.pid));
  std::istringstream numbers(children.value_or(""));
  for (pid_t pid = 0; numbers >> pid;) {
    auto stat = read_stat("/proc", pid);
    if (!stat || stat->comm != paths::kWitnessName || stat->parent_pid != client.pid) continue;
    client.witness = Fd(static_cast<int>(::syscall(SYS_pidfd_open, pid, 0)));
    client.witness_pid = pid;
  }
}

// SIGKILL is the one signal that a deputy cannot pass on. One to its whole group ends its witness,
// too, which else stays for a moment.
Awaitable<> Leader::deputy_gone(Leader* self, std::uint64_t job_id, Client client) {
  const Fd& process = client.process;
  if (!process) co_return;  // an old kernel: it is waited for like any client
  for (int i = 0; i < kDyingPolls && !has_ended(process); ++i) co_await sleep_for(kDyingPoll);
  Job* job = self->jobs_.find(job_id);
  if (!has_ended(process) || job == nullptr || job->ended() || job->owner != 0) co_return;
  // It has made room for the process, and if that does not come, there is another deputy.
  if (job->recalled) {
    while (self->jobs_.find(job_id) != nullptr && self->arbiter_.of_job(job_id) != nullptr)
      co_await sleep_for(kDyingPoll);
    co_await self->await_deputy(job_id);
    job = self->jobs_.find(job_id);
    if (job == nullptr || job->ended() || job->returned || job->owner != 0) co_return;
  }
  bool whole_group = false;
  for (int i = 0; i < kWitnessPolls && client.witness && !whole_group; ++i) {
    whole_group = has_ended(client.witness);
    if (!whole_group) co_await sleep_for(kDyingPoll);
  }
  job = self->jobs_.find(job_id);
  if (job == nullptr || job->ended() || job->owner != 0) co_return;
  log::info("deputy ended: so does its process", log::field("job", job_id),
            log::field("pid", job->record.root_pid), log::field("group", whole_group));
  self->send_to(job->record.node, root_signal(job_id, SIGKILL, whole_group));
}

// Nor can it tell of a SIGSTOP. What it says when it goes on is heard after what is said here. It
// must not then hear of the stop, and stop again.
void Leader::look_at_deputies() {
  auto now = Clock::now();
  if (now - deputies_looked_at_ < kLookInterval) return;
  deputies_looked_at_ = now;
  for (auto& [id, client] : clients_) {
    if (client.pid == 0) continue;
    Job* job = jobs_.owned_by(id);
    if (job == nullptr || !job->record.has_deputy || job->ended()) continue;
    find_witness(client);
    auto stat = read_stat("/proc", client.pid);
    if (!stat || stat->state != 'T') continue;
    auto witness = client.witness ? read_stat("/proc", client.witness_pid) : stat;
    bool whole_group = client.witness && witness && witness->state == 'T';
    job->deputy_stopped = true;
    send_to(job->record.node, root_signal(job->record.job_id, SIGSTOP, whole_group));
  }
}

}  // namespace gestalt
