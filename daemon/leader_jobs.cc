// Leader: jobs, their clients, and finding and signalling processes.
#include "common/format.h"
#include "daemon/command_text.h"
#include "daemon/job_permission.h"
#include "daemon/leader.h"
#include "daemon/wall_clock.h"

namespace gestalt {
namespace {

constexpr auto kNodeTimeout = std::chrono::seconds(2);
constexpr auto kInspectionTimeout = std::chrono::seconds(8);  // its stand-ins have five
constexpr auto kKillTimeout = std::chrono::seconds(6);  // the agent asks the stand-in for five
constexpr std::uint32_t kKilled = 9;

void log_unless(const Result<void>& done, const char* what, std::uint64_t job_id) {
  if (!done) log::error(what, log::field("job", job_id), log::field("error", done.error().text()));
}

wire::Message exited_message(std::uint64_t job_id, std::uint32_t wait_status) {
  wire::Message message;
  message.mutable_job_exited()->set_job_id(job_id);
  message.mutable_job_exited()->set_wait_status(wait_status);
  return message;
}

}  // namespace

Result<wire::RunReply> Leader::run(ClientId client, wire::RunRequest request) {
  if (jobs_.owned_by(client) != nullptr)
    return fail(ErrorCode::kBusy, "this connection has a job already",
                "use a connection for each job");
  auto now = Clock::now();
  std::string node = request.node();
  if (request.spec().in_session() && request.spec().own_network())
    return fail(ErrorCode::kInvalidArgument, "a session has the leader's network",
                "start programs with one of their own by `gestalt run --net own`");
  if (request.spec().in_session() && !node.empty() && node != config_.cluster.leader)
    return fail(ErrorCode::kInvalidArgument, "a session is on the leader",
                "start programs on other nodes with `gestalt run --node`");
  if (node.empty() && request.best()) {
    GESTALT_ASSIGN(node, placement_.place(membership_, now));
  } else {
    if (node.empty()) node = config_.cluster.leader;
    GESTALT_TRY(check_usable(node));
    placement_.note(node, now);
  }
  JobRecord record;
  record.node = node;
  record.uid = request.spec().identity().uid();
  record.gid = request.spec().identity().gid();
  record.command = command_text(request.spec());
  record.started_unix_seconds = unix_seconds();
  if (request.spec().own_network()) {
    GESTALT_ASSIGN(record.network_address, own_address());
  }
  request.mutable_spec()->set_network_address(record.network_address);
  GESTALT_ASSIGN(Job * job, jobs_.create(std::move(record), client));
  wire::Message start;
  *start.mutable_start_job()->mutable_spec() = std::move(*request.mutable_spec());
  start.mutable_start_job()->mutable_spec()->set_job_id(job->record.job_id);
  wire::RunReply reply;
  reply.set_job_id(job->record.job_id);
  reply.set_node(node);
  if (!send_to(node, start)) {
    jobs_.forget(reply.job_id());
    return fail(ErrorCode::kUnavailable, formatted("the job could not be sent to node {}", node),
                "try again, or choose another node");
  }
  log::info("job starts", log::field("job", reply.job_id()), log::field("node", node),
            log::field("uid", job->record.uid), log::field("command", job->record.command));
  return reply;
}

Result<std::uint32_t> Leader::own_address() {
  GESTALT_ASSIGN(auto range, parse_ipv4_range(config_.jobs.network));
  if (range.count == 0)
    return fail(ErrorCode::kInvalidArgument, "there are no addresses for jobs",
                "set jobs.network in the leader's configuration, and restart gestaltd");
  return jobs_.free_address(range);
}

void Leader::client_message(ClientId client, const wire::Message& message) {
  Job* job = jobs_.owned_by(client);
  if (job == nullptr || job->ended()) return;
  std::uint64_t job_id = 0;
  switch (message.body_case()) {
    case wire::Message::kStdioData:
      job_id = message.stdio_data().job_id();
      break;
    case wire::Message::kStdioAck:
      job_id = message.stdio_ack().job_id();
      break;
    case wire::Message::kStdioHeld:
      job_id = message.stdio_held().job_id();
      break;
    case wire::Message::kJobForeground:
      job_id = message.job_foreground().job_id();
      break;
    case wire::Message::kStdioDirectRequest:
      job_id = message.stdio_direct_request().job_id();
      break;
    case wire::Message::kJobSignal:
      job_id = message.job_signal().job_id();
      break;
    case wire::Message::kJobWindow:
      job_id = message.job_window().job_id();
      break;
    case wire::Message::kJobAbandon:
      job_id = message.job_abandon().job_id();
      break;
    default:
      return;
  }
  // What gets lost while the node is away is sent again after a JobResync.
  if (job_id == job->record.job_id) send_to(job->record.node, message);
}

Result<wire::AttachReply> Leader::attach(ClientId client, uid_t uid, std::uint64_t job_id) {
  Job* job = jobs_.find(job_id);
  if (job == nullptr)
    return fail(ErrorCode::kNotFound, formatted("there is no job {}", job_id),
                "it ended long ago, or its client was away for too long");
  if (!may_manage(uid, job->record.uid))
    return fail(ErrorCode::kPermission, formatted("job {} is not yours", job_id));
  if (jobs_.owned_by(client) != nullptr)
    return fail(ErrorCode::kBusy, "this connection has a job already");
  if (job->abandoned)
    return fail(ErrorCode::kGone, formatted("job {} is being ended", job_id),
                "its client was away for too long (jobs.reattach_seconds)");
  jobs_.attach(*job, client);
  if (job->record.has_deputy) find_witness(clients_[client]);
  log::info("client attached", log::field("job", job_id));
  wire::AttachReply reply;
  *reply.mutable_job() = job->info();
  return reply;
}

void Leader::attached(std::uint64_t job_id) {
  Job* job = jobs_.find(job_id);
  if (job == nullptr) return;
  if (job->record.state == wire::JOB_EXITED) {
    send_to_client(job->owner, exited_message(job_id, job->record.wait_status));
    return;
  }
  wire::Message message;
  if (job->record.state == wire::JOB_LOST) {
    message.mutable_job_node_lost()->set_job_id(job_id);
    message.mutable_job_node_lost()->set_node(job->record.node);
    send_to_client(job->owner, message);
    return;
  }
  message.mutable_job_resync()->set_job_id(job_id);
  message.mutable_job_resync()->set_node(job->record.node);
  send_to(job->record.node, message);
  send_to_client(job->owner, message);
}

// After the agent of `node` is back: the hello against the record.
void Leader::reconcile(const std::string& node, const wire::AgentHello& hello, bool same_boot,
                       wire::AgentWelcome& welcome) {
  std::set<std::uint64_t> present;
  for (const auto& info : hello.jobs()) {
    present.insert(info.job_id());
    reconcile_one(node, info, welcome);
  }
  for (const auto& outcome : hello.migrations())
    if (outcome.role() == wire::MigrationOutcome::DESTINATION) present.insert(outcome.job_id());
  for (Job* job : jobs_.running_on(node))
    if (!present.contains(job->record.job_id)) missing_job(*job, node, same_boot);
}

void Leader::reconcile_one(const std::string& node, const wire::JobInfo& info,
                           wire::AgentWelcome& welcome) {
  Job* job = jobs_.find(info.job_id());
  const Migration* migration = arbiter_.of_job(info.job_id());
  bool migrates = migration != nullptr &&
                  (migration->record.source == node || migration->record.destination == node);
  if (info.state() == wire::JOB_EXITED) {
    on_job_exited(node, info.job_id(), info.wait_status());
  } else if (job != nullptr && !job->ended() && job->record.node == node) {
    if (job->record.state == wire::JOB_STARTING && info.pid() != 0) {
      wire::JobStarted started;
      started.set_job_id(info.job_id());
      started.set_pid(info.pid());
      started.set_stand_in_pid(info.stand_in_pid());
      on_job_started(node, started);
    }
  } else if (!migrates) {
    welcome.add_unknown_jobs(info.job_id());
  }
}

void Leader::missing_job(Job& job, const std::string& node, bool same_boot) {
  auto job_id = job.record.job_id;
  const Migration* migration = arbiter_.of_job(job_id);
  if (migration != nullptr && migration->record.verdict == Verdict::kGranted) {
    bool moved_on = false;
    perform(arbiter_.copy_ended(job_id, node, Clock::now(), moved_on));
    return;
  }
  if (!same_boot) {
    bool ignored = false;  // the source of its pages has to know, if there is one
    perform(arbiter_.copy_ended(job_id, node, Clock::now(), ignored));
    lose(job, node);
  } else if (job.record.state == wire::JOB_STARTING) {
    wire::JobStartFailed failed;
    failed.set_job_id(job_id);
    *failed.mutable_error() =
        to_wire(Error{ErrorCode::kUnavailable,
                      formatted("node {} lost the job before it had started", node),
                      {}});
    on_job_start_failed(node, failed);
  } else {
    on_job_exited(node, job_id, kKilled);
  }
}

void Leader::resync_clients(const std::string& node) {
  for (Job* job : jobs_.running_on(node)) {
    wire::Message message;
    message.mutable_job_resync()->set_job_id(job->record.job_id);
    message.mutable_job_resync()->set_node(node);
    send_to_client(job->owner, message);
  }
}

// Only the node that has the job speaks for it.
void Leader::from_job(const std::string& node, std::uint64_t job_id, const wire::Message& message) {
  Job* job = jobs_.find(job_id);
  if (job == nullptr || job->record.node != node) return;
  if (message.has_job_stopped() && std::exchange(job->deputy_stopped, false)) return;
  if (message.has_job_continued()) job->deputy_stopped = false;
  send_to_client(job->owner, message);
  if (message.has_job_continued()) wake_client(job->owner);
}

void Leader::on_job_started(const std::string& node, const wire::JobStarted& started) {
  Job* job = jobs_.find(started.job_id());
  if (job == nullptr || job->record.node != node || job->ended()) return;
  if (job->record.has_deputy) {
    job->record.session_pid = started.session_pid();
    job->record.group_pid = started.group_pid();
  }
  auto parent = job->record.has_deputy ? started.parent_pid() : started.stand_in_pid();
  log_unless(jobs_.started(*job, started.pid(), parent), "job not recorded", started.job_id());
  log::info("job started", log::field("job", started.job_id()), log::field("node", node),
            log::field("pid", started.pid()));
  wire::Message message;
  *message.mutable_job_started() = started;
  send_to_client(job->owner, message);
  adopted(started.job_id(), {});
}

void Leader::on_job_start_failed(const std::string& node, const wire::JobStartFailed& failed) {
  Job* job = jobs_.find(failed.job_id());
  if (job == nullptr || job->record.node != node || job->ended()) return;
  log::info("job not started", log::field("job", failed.job_id()), log::field("node", node),
            log::field("error", failed.error().message()));
  wire::Message message;
  *message.mutable_job_start_failed() = failed;
  send_to_client(job->owner, message);
  adopted(failed.job_id(), std::unexpected(from_wire(failed.error())));
  jobs_.forget(failed.job_id());
}

void Leader::on_job_returned(const std::string& node, std::uint64_t job_id) {
  Job* job = jobs_.find(job_id);
  if (job == nullptr || job->record.node != node || !job->record.has_deputy) return;
  log::info("process is home: no job any more", log::field("job", job_id),
            log::field("pid", job->record.root_pid));
  jobs_.forget(job_id);
}

void Leader::acknowledge_exit(const std::string& node, std::uint64_t job_id) {
  wire::Message ack;
  ack.mutable_job_exit_ack()->set_job_id(job_id);
  send_to(node, ack);
}

void Leader::on_job_exited(const std::string& node, std::uint64_t job_id,
                           std::uint32_t wait_status) {
  bool moved_on = false;
  bool resumed_here = false;
  if (const Migration* migration = arbiter_.of_job(job_id))
    resumed_here = migration->record.destination == node && migration->destination_resumed;
  perform(arbiter_.copy_ended(job_id, node, Clock::now(), moved_on));
  Job* job = jobs_.find(job_id);
  bool is_job = job != nullptr && !job->ended() && (job->record.node == node || resumed_here);
  if (moved_on || !is_job) {
    acknowledge_exit(node, job_id);
    return;
  }
  if (auto recorded = jobs_.exited(*job, wait_status, Clock::now()); !recorded) {
    log_unless(recorded, "the job's end is not recorded", job_id);
    return;  // unacknowledged, it comes again with the agent's next hello
  }
  log::info("job ended", log::field("job", job_id), log::field("node", node),
            log::field("wait_status", wait_status));
  acknowledge_exit(node, job_id);
  send_to_client(job->owner, exited_message(job_id, wait_status));
  wake_client(job->owner);
}

void Leader::lose(Job& job, const std::string& node) {
  auto job_id = job.record.job_id;
  log_unless(jobs_.lost(job, Clock::now()), "job not recorded", job_id);
  log::warning("job lost", log::field("job", job_id), log::field("node", node));
  wire::Message message;
  message.mutable_job_node_lost()->set_job_id(job_id);
  message.mutable_job_node_lost()->set_node(node);
  send_to_client(job.owner, message);
  wake_client(job.owner);
}

// ------------------------------------------------------------------ processes

namespace {

// Answers of several nodes to one question.
struct Gathering {
  explicit Gathering(const asio::any_io_executor& executor) : done(executor) {}
  std::size_t open = 0;
  Promise<bool> done;
  std::map<std::string, wire::Message> answers;
};

}  // namespace

Awaitable<Result<wire::TaskListReply>> Leader::list_tasks(uid_t uid, bool preflight) {
  auto timeout = preflight ? kInspectionTimeout : kNodeTimeout;
  auto gathering = std::make_shared<Gathering>(context_.get_executor());
  auto nodes = reachable_nodes();
  gathering->open = nodes.size();
  for (const auto& node : nodes) {
    wire::Message question;
    question.mutable_node_task_list_request()->set_preflight(preflight);
    agents_[node].connection->request(std::move(question), timeout,
                                      [gathering, node](Result<wire::Message> answer) {
                                        if (answer && answer->has_task_list_reply())
                                          gathering->answers[node] = std::move(*answer);
                                        if (--gathering->open == 0) gathering->done.set(true);
                                      });
  }
  if (!nodes.empty()) (void)co_await gathering->done.wait(timeout + std::chrono::seconds(1));
  wire::TaskListReply reply;
  for (const auto& [name, member] : membership_.members()) {
    auto answer = gathering->answers.find(name);
    if (answer != gathering->answers.end()) {
      for (auto& task : *answer->second.mutable_task_list_reply()->mutable_tasks()) {
        if (const Job* moved = jobs_.with_deputy(task.pid());
            moved != nullptr && name == config_.cluster.leader && moved->record.node != name)
          continue;                          // its deputy
        if (!may_manage(uid, task.uid())) {  // they name files
          task.set_inspected(false);
          task.clear_blockers();
        }
        if (const Job* job = task.is_root() ? jobs_.find(task.job_id()) : nullptr; job != nullptr)
          task.set_network_address(job->record.network_address);
        *reply.add_tasks() = std::move(task);
      }
    } else if (member.state != NodeState::kOffline && member.state != NodeState::kFailed) {
      reply.add_silent_nodes(name);
    }
  }
  co_return reply;
}

Awaitable<std::optional<Leader::FoundTask>> Leader::find_task_on(std::vector<std::string> nodes,
                                                                 std::uint32_t pid,
                                                                 std::set<std::string>* silent) {
  auto gathering = std::make_shared<Gathering>(context_.get_executor());
  std::erase_if(nodes, [this](const std::string& node) { return !agents_.contains(node); });
  gathering->open = nodes.size();
  for (const auto& node : nodes) {
    wire::Message question;
    question.mutable_find_pid_request()->set_pid(pid);
    agents_[node].connection->request(std::move(question), kNodeTimeout,
                                      [gathering, node](Result<wire::Message> answer) {
                                        bool answered = answer && answer->has_find_pid_reply();
                                        bool found = answered && answer->find_pid_reply().found();
                                        if (answered) gathering->answers[node] = std::move(*answer);
                                        if (--gathering->open == 0 || found)
                                          gathering->done.set(true);
                                      });
  }
  if (!nodes.empty()) (void)co_await gathering->done.wait(kNodeTimeout + std::chrono::seconds(1));
  std::optional<FoundTask> out;
  for (auto& [node, answer] : gathering->answers)
    if (answer.find_pid_reply().found())
      out = FoundTask{node, std::move(*answer.mutable_find_pid_reply()->mutable_task())};
  for (const auto& node : nodes)
    if (silent != nullptr && !gathering->answers.contains(node)) silent->insert(node);
  co_return out;
}

Awaitable<Result<Leader::FoundTask>> Leader::find_task(std::uint32_t pid) {
  std::set<std::string> silent;
  // On the leader there is only its deputy.
  if (const Job* job = jobs_.with_deputy(pid); job != nullptr && job->record.root_pid != 0) {
    auto away = co_await find_task_on({job->record.node}, pid, &silent);
    if (away) co_return std::move(*away);
  }
  std::vector<std::string> first;
  std::vector<std::string> others;
  auto slice = slices_.index_of(pid);
  for (const auto& node : reachable_nodes()) {
    bool born_there = slice && facts_[node].record.slice_index == *slice;
    (born_there ? first : others).push_back(node);
  }
  auto found = co_await find_task_on(std::move(first), pid, &silent);
  if (!found) found = co_await find_task_on(std::move(others), pid, &silent);
  if (!found && !silent.empty())
    co_return fail(ErrorCode::kUnavailable,
                   formatted("cannot tell whether there is a process {}: {} does not answer", pid,
                             *silent.begin()),
                   "try again; see `gestalt node list`");
  if (!found)
    co_return fail(ErrorCode::kNotFound, formatted("no process {} in the cluster", pid),
                   "see `gestalt ps`");
  // While it moves, both ends have it; the record says which one counts.
  if (const Job* job = jobs_.find(found->task.job_id()); job != nullptr && !job->ended())
    found->node = job->record.node;
  co_return std::move(*found);
}

Awaitable<Result<void>> Leader::kill_one(uid_t uid, std::uint32_t pid, std::uint32_t signal) {
  auto found = co_await find_task(pid);
  if (!found) co_return std::unexpected(std::move(found).error());
  wire::Message message;
  message.mutable_node_kill_request()->set_pid(pid);
  message.mutable_node_kill_request()->set_signal(signal);
  message.mutable_node_kill_request()->set_uid(uid);
  auto answer = co_await ask(found->node, std::move(message), kKillTimeout);
  if (!answer) co_return std::unexpected(std::move(answer).error());
  co_return Result<void>();
}

Awaitable<wire::KillReply> Leader::kill(uid_t uid, wire::KillRequest request) {
  wire::KillReply reply;
  for (auto pid : request.pids()) {
    auto done = co_await kill_one(uid, pid, request.signal());
    wire::KillResult& result = *reply.add_results();
    result.set_pid(pid);
    if (!done) *result.mutable_error() = to_wire(done.error());
  }
  log::info("signal sent", log::field("signal", request.signal()), log::field("uid", uid),
            log::field("processes", request.pids_size()));
  co_return reply;
}

}  // namespace gestalt
