#include "daemon/agent.h"

#include <fcntl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "common/cgroup.h"
#include "common/fd.h"
#include "common/format.h"
#include "daemon/cpu_features.h"
#include "daemon/job_permission.h"
#include "daemon/load.h"
#include "daemon/rdma_question.h"
#include "daemon/task_fetch.h"

namespace gestalt {
namespace {

constexpr auto kInitTimeout = std::chrono::seconds(5);
constexpr auto kReadoptTimeout = std::chrono::seconds(3);
constexpr auto kStandInTimeout = std::chrono::seconds(5);
// Longer than AgentJobs gives a stand-in that does not clean up by itself; the leader waits ten.
constexpr auto kLeavingTimeout = std::chrono::seconds(6);
constexpr auto kPrepareTimeout = std::chrono::seconds(8);    // the leader waits ten
constexpr auto kPreflightTimeout = std::chrono::seconds(8);  // likewise
constexpr auto kRdmaTimeout = std::chrono::seconds(5);       // likewise

// The directory of a process in procfs serves as its pidfd: the signal reaches the very
// process whose ids were checked, or nobody.
Result<void> signal_process(int process_directory, std::uint32_t signal) {
  if (::syscall(SYS_pidfd_send_signal, process_directory, static_cast<int>(signal), nullptr, 0) !=
      0)
    return fail_errno(errno, "send the signal");
  return {};
}

Result<Fd> open_process(const std::string& proc, std::uint32_t pid) {
  auto directory = open_file(formatted("{}/{}", proc, pid), O_RDONLY | O_DIRECTORY);
  if (!directory && directory.error().code == ErrorCode::kNotFound)
    return fail(ErrorCode::kNotFound, formatted("no process {}", pid));
  return directory;
}

Result<void> check_may_signal(int process_directory, const wire::NodeKillRequest& request) {
  auto status = read_file_at(process_directory, "status");
  if (!status) return fail(ErrorCode::kNotFound, formatted("no process {}", request.pid()));
  GESTALT_ASSIGN(auto ids, parse_status(*status));
  if (request.pid() <= 1 || !may_signal(request.uid(), ids))
    return fail(ErrorCode::kPermission, formatted("process {} is not yours", request.pid()));
  return {};
}

}  // namespace

Agent::Agent(asio::io_context& context, const Config& config, std::string criu_version)
    : context_(context),
      config_(config),
      criu_version_(std::move(criu_version)),
      cpus_(config.node.cpus > 0 ? config.node.cpus : usable_cpus()),
      jobs_(context, config.node.name, JobCgroups(cgroup2_mount().value_or("")),
            {.to_leader = [this](const wire::Message& message) { return link_.send(message); }}),
      init_(context, {.socket = paths::kInitSocket, .program = paths::kInitProgram},
            [this] { jobs_.all_gone(); }),
      link_(context, config,
            {.fill_hello =
                 [this](wire::AgentHello& hello) {
                   hello.set_criu(criu_version_);
                   auto cpuinfo = read_file("/proc/cpuinfo", 64U << 20);
                   for (const auto& name : program_cpu_features(cpuinfo.value_or("")))
                     hello.add_cpu_features(name);
                   jobs_.fill_hello(hello);
                 },
             .on_welcome = [this](const wire::AgentWelcome& welcome) { on_welcome(welcome); },
             .on_message = [this](wire::Message message) { on_leader_message(std::move(message)); },
             .heartbeat = [this] { return heartbeat(); }}),
      sources_(context, config.node.task_source == "proc" ? TaskSourceChoice::kProc
                                                          : TaskSourceChoice::kAuto),
      view_(context,
            {.where = [this] { return init_.where(); },
             .glimpse = [this](const ClusterPids& where) { return sources_.glimpse(where); },
             .hidden = [this] { return jobs_.not_shown(); },
             .listen =
                 [this](TaskEventSources::OnNews on_news) {
                   sources_.events().listen(std::move(on_news));
                 },
             .ask_leader =
                 [this](wire::Message message, Clock::duration timeout) {
                   return link_.request(std::move(message), timeout);
                 }}) {}

Result<void> Agent::start() {
  if (auto mount = cgroup2_mount(); !mount)
    log::warning("jobs cannot be ended or moved", log::field("error", mount.error().text()));
  GESTALT_TRY(jobs_.listen(paths::kAgentSocket));
  sources_.start();
  asio::co_spawn(context_, begin(this), asio::detached);
  return {};
}

// The hello to the leader says what runs here, so that is found out first.
Awaitable<> Agent::begin(Agent* self) {
  self->init_.start();
  if (co_await self->init_.wait_ready(kInitTimeout)) co_await self->jobs_.readopt(kReadoptTimeout);
  self->link_.start();
}

void Agent::stop() {
  link_.stop("gestaltd stops");
  jobs_.close();
  sources_.stop();
  init_.stop();
}

void Agent::on_welcome(const wire::AgentWelcome& welcome) {
  pid_first_ = welcome.pid_first();
  pid_last_ = welcome.pid_last();
  init_.set_slice(pid_first_, pid_last_);
  for (auto job_id : welcome.unknown_jobs())
    jobs_.discard(job_id, "the leader has no record of it");
  jobs_.hello_delivered();
  jobs_.resync();
}

void Agent::on_leader_message(wire::Message message) {
  switch (message.body_case()) {
    case wire::Message::kHeartbeatAck:
      return;
    case wire::Message::kStartJob:
      asio::co_spawn(context_,
                     start_job(this, std::move(*message.mutable_start_job()->mutable_spec())),
                     asio::detached);
      return;
    case wire::Message::kAdoptProcess:
      asio::co_spawn(context_, adopt(this, message.adopt_process()), asio::detached);
      return;
    case wire::Message::kStdioDirectRequest:
      if (config_.jobs.direct_streams == 0) return;
      message.mutable_stdio_direct_request()->set_listen_address(link_.own_address());
      (void)jobs_.from_leader(message);
      return;
    case wire::Message::kPrepareIncoming:
      asio::co_spawn(context_,
                     prepare_incoming(this, message.request_id(),
                                      std::move(*message.mutable_prepare_incoming())),
                     asio::detached);
      return;
    case wire::Message::kPreflightRequest:
      asio::co_spawn(context_, preflight(this, message.request_id(), message.preflight_request()),
                     asio::detached);
      return;
    case wire::Message::kRdmaRequest:
      asio::co_spawn(context_,
                     tell_rdma(this, message.request_id(), message.rdma_request().address()),
                     asio::detached);
      return;
    case wire::Message::kNodeKillRequest:
      asio::co_spawn(context_, kill_task(this, message.request_id(), message.node_kill_request()),
                     asio::detached);
      return;
    case wire::Message::kNodeKillBatch:
      asio::co_spawn(context_, kill_together(this, message.request_id(), message.node_kill_batch()),
                     asio::detached);
      return;
    case wire::Message::kNodeTaskListRequest:
      asio::co_spawn(
          context_,
          tell_tasks(this, message.request_id(), message.node_task_list_request().preflight()),
          asio::detached);
      return;
    case wire::Message::kViewSubscribe:
      return view_.subscribe(message.view_subscribe().interval_seconds());
    case wire::Message::kViewFetch:
      return fetch(message.request_id(), std::move(*message.mutable_view_fetch()));
    case wire::Message::kFindPidRequest:
      link_.reply(message.request_id(), find_pid(message.find_pid_request().pid()));
      return;
    default:
      if (!jobs_.from_leader(message))
        log::warning("message not understood", log::field("peer", "leader"),
                     log::field("body", static_cast<int>(message.body_case())));
  }
}

Awaitable<> Agent::start_job(Agent* self, wire::JobSpec spec) {
  auto job_id = spec.job_id();
  if (auto expected = self->jobs_.expect(spec); !expected) {
    log::error("job refused", log::field("job", job_id),
               log::field("error", expected.error().text()));
    wire::Message message;
    message.mutable_job_start_failed()->set_job_id(job_id);
    *message.mutable_job_start_failed()->mutable_error() = to_wire(expected.error());
    self->link_.send(message);
    co_return;
  }
  // A node that has just joined may still be starting its init.
  (void)co_await self->init_.wait_ready(kInitTimeout);
  wire::SpawnStandIn request;
  request.set_job_id(job_id);
  if (spec.in_session()) {
    wire::SpawnView view;
    view.set_uid(spec.identity().uid());
    view.set_hidepid(self->config_.view.hidepid);
    if (auto shown = co_await self->init_.spawn_view(std::move(view)); !shown) {
      self->jobs_.start_failed(job_id, shown.error());
      co_return;
    }
  }
  auto spawned = co_await self->init_.spawn_stand_in(std::move(request));
  if (!spawned) {
    self->jobs_.start_failed(job_id, spawned.error());
    co_return;
  }
  auto stand_in = co_await self->jobs_.wait_for_job(job_id);
  if (!stand_in) {
    self->jobs_.start_failed(job_id, stand_in.error());
    co_return;
  }
  wire::Message message;
  *message.mutable_start_job()->mutable_spec() = std::move(spec);
  if (auto sent = (*stand_in)->send(message); !sent) self->jobs_.start_failed(job_id, sent.error());
}

Awaitable<> Agent::adopt(Agent* self, wire::AdoptProcess request) {
  auto job_id = request.job_id();
  auto body = [&]() -> Awaitable<Result<void>> {
    wire::SpawnStandIn spawn;
    spawn.set_job_id(job_id);
    GESTALT_CO_TRY(co_await self->init_.spawn_stand_in(std::move(spawn)));
    GESTALT_CO_ASSIGN(auto stand_in, co_await self->jobs_.wait_for_job(job_id));
    wire::Message message;
    *message.mutable_adopt_process() = request;
    co_return stand_in->send(message);
  };
  auto done = self->jobs_.expect_adopted(request);
  if (done) done = co_await body();
  if (!done) self->jobs_.start_failed(job_id, done.error());
}

Awaitable<Result<std::shared_ptr<Connection>>> Agent::incoming_stand_in(
    const wire::PrepareIncoming& prepare) {
  wire::SpawnStandIn request;
  request.set_job_id(prepare.job_id());
  request.set_migration_id(prepare.migration_id());
  if (!prepare.comes_home()) {
    request.set_pid(prepare.stand_in_pid());
    request.set_session_pid(prepare.session_pid());
  }
  // A job that comes back at once may meet its own former stand-in, on its way out.
  auto deadline = Clock::now() + kLeavingTimeout;
  auto spawned = co_await init_.spawn_stand_in(request);
  if (!spawned && spawned.error().code == ErrorCode::kBusy && prepare.has_deputy()) {
    // Another process of the same session is here, with that pid taken for it.
    request.clear_pid();
    request.clear_session_pid();
    spawned = co_await init_.spawn_stand_in(request);
  }
  while (!spawned && spawned.error().code == ErrorCode::kBusy && Clock::now() < deadline) {
    co_await sleep_for(std::chrono::milliseconds(20));
    spawned = co_await init_.spawn_stand_in(request);
  }
  if (!spawned) co_return std::unexpected(std::move(spawned).error());
  co_return co_await jobs_.wait_for_incoming(prepare.migration_id());
}

Awaitable<> Agent::prepare_incoming(Agent* self, std::uint64_t request_id,
                                    wire::PrepareIncoming prepare) {
  log::info("incoming migration", log::field("migration", prepare.migration_id()),
            log::field("job", prepare.job_id()), log::field("pid", prepare.stand_in_pid()));
  // A job that comes back at once may meet what it left here, on its way out.
  auto expected = self->jobs_.expect_incoming(prepare);
  for (auto deadline = Clock::now() + kLeavingTimeout;
       !expected && expected.error().code == ErrorCode::kBusy && Clock::now() < deadline;
       expected = self->jobs_.expect_incoming(prepare))
    co_await sleep_for(std::chrono::milliseconds(20));
  if (!expected) {
    self->link_.reply(request_id, std::unexpected(expected.error()));
    co_return;
  }
  prepare.set_listen_address(self->link_.own_address());
  auto stand_in = co_await self->incoming_stand_in(prepare);
  Result<wire::Message> ready;
  if (stand_in) {
    wire::Message message;
    *message.mutable_prepare_incoming() = prepare;
    ready = co_await (*stand_in)->request(std::move(message), kPrepareTimeout);
    if (ready && !ready->has_incoming_ready())
      ready = fail(ErrorCode::kProtocol, "the stand-in gave a strange answer");
  } else {
    ready = std::unexpected(stand_in.error());
  }
  if (!ready) self->jobs_.incoming_failed(prepare.migration_id(), ready.error());
  self->link_.reply(request_id, std::move(ready));
}

Awaitable<> Agent::preflight(Agent* self, std::uint64_t request_id,
                             wire::PreflightRequest request) {
  auto stand_in = self->jobs_.stand_in_of(request.job_id());
  if (!stand_in) {
    self->link_.reply(request_id, fail(ErrorCode::kGone, "the job is not here any more"));
    co_return;
  }
  wire::Message message;
  *message.mutable_preflight_request() = std::move(request);
  self->link_.reply(request_id, co_await stand_in->request(std::move(message), kPreflightTimeout));
}

Awaitable<> Agent::tell_rdma(Agent* self, std::uint64_t request_id, std::string address) {
  std::vector<std::string> command{paths::kInitProgram, "--rdma-to", address};
  if (address.empty()) command = {paths::kInitProgram, "--rdma-at", self->link_.own_address()};
  auto can = co_await ask_for_rdma(std::move(command), kRdmaTimeout);
  if (!can) co_return self->link_.reply(request_id, std::unexpected(std::move(can).error()));
  self->link_.reply(request_id, empty_message());
}

Awaitable<> Agent::kill_task(Agent* self, std::uint64_t request_id, wire::NodeKillRequest request) {
  DoneSignals::Name name{request.keeper(), request.sequence()};
  bool is_ghosts = request.keeper() != 0;
  auto before = is_ghosts ? self->done_signals_.begin(name) : DoneSignals::State::kNew;
  if (before == DoneSignals::State::kDone) {
    self->link_.reply(request_id, empty_message());
  } else if (before == DoneSignals::State::kBegun) {
    self->link_.reply(request_id, fail(ErrorCode::kUnavailable, "it is being delivered"));
  } else {
    auto done = co_await self->kill(std::move(request));
    if (is_ghosts) self->done_signals_.end(name, done.has_value());
    self->link_.reply(request_id, std::move(done));
  }
}

// Nothing is waited for between those that are not jobs'; each job's are its stand-in's.
Awaitable<> Agent::kill_together(Agent* self, std::uint64_t request_id, wire::NodeKillBatch batch) {
  std::vector<bool> done(static_cast<std::size_t>(batch.kills_size()));
  std::vector<std::pair<std::size_t, Fd>> others;
  std::map<std::shared_ptr<Connection>, std::vector<std::size_t>> of_jobs;
  auto asked = [&](std::size_t i) -> const auto& { return batch.kills(static_cast<int>(i)); };
  auto name = [&](std::size_t i) {
    return DoneSignals::Name{asked(i).keeper(), asked(i).sequence()};
  };
  for (std::size_t i = 0; i < done.size(); ++i) {
    auto before = self->done_signals_.begin(name(i));
    done[i] = before == DoneSignals::State::kDone;
    if (before != DoneSignals::State::kNew) continue;
    if (auto target = self->kill_target(asked(i)); !target)
      self->done_signals_.end(name(i), false);
    else if (target->stand_in)
      of_jobs[target->stand_in].push_back(i);
    else
      others.emplace_back(i, std::move(target->process));
  }
  for (auto& [i, process] : others)
    done[i] = signal_process(process.get(), asked(i).signal()).has_value();
  for (auto& [i, process] : others) self->done_signals_.end(name(i), done[i]);
  for (auto& [stand_in, those] : of_jobs) {
    wire::Message message;
    for (auto i : those) *message.mutable_node_kill_batch()->add_kills() = asked(i);
    auto answer = co_await stand_in->request(std::move(message), kStandInTimeout);
    for (std::size_t k = 0; k < those.size(); ++k) {
      done[those[k]] = answer && answer->has_node_kill_batch_reply() &&
                       static_cast<int>(k) < answer->node_kill_batch_reply().done_size() &&
                       answer->node_kill_batch_reply().done(static_cast<int>(k));
      self->done_signals_.end(name(those[k]), done[those[k]]);
    }
  }
  wire::Message reply;
  for (bool each : done) reply.mutable_node_kill_batch_reply()->add_done(each);
  self->link_.reply(request_id, std::move(reply));
}

Result<Agent::KillTarget> Agent::kill_target(const wire::NodeKillRequest& request) const {
  std::string proc = init_.proc();
  if (proc.empty()) return fail(ErrorCode::kNotFound, formatted("no process {}", request.pid()));
  GESTALT_ASSIGN(auto process, open_process(proc, request.pid()));
  GESTALT_TRY(check_may_signal(process.get(), request));
  std::uint64_t job_id = 0;
  if (auto path = cgroup_path(proc, static_cast<pid_t>(request.pid())))
    job_id = job_of_cgroup(*path);
  auto departed = jobs_.departed();
  if (departed.jobs.contains(job_id) || departed.stand_in_pids.contains(request.pid()))
    return fail(ErrorCode::kNotFound, formatted("process {} has moved", request.pid()),
                "try again");
  KillTarget target{.process = std::move(process), .stand_in = nullptr};
  if (jobs_.stand_in_pid_of(job_id) != request.pid()) target.stand_in = jobs_.stand_in_of(job_id);
  return target;
}

Awaitable<Result<wire::Message>> Agent::kill(wire::NodeKillRequest request) {
  auto target = kill_target(request);
  if (!target) co_return std::unexpected(target.error());
  if (target->stand_in) {
    wire::Message message;
    *message.mutable_node_kill_request() = request;
    co_return co_await target->stand_in->request(std::move(message), kStandInTimeout);
  }
  if (auto done = signal_process(target->process.get(), request.signal()); !done)
    co_return std::unexpected(done.error());
  co_return empty_message();
}

TaskView Agent::task_view() const {
  auto departed = jobs_.departed();
  departed.stand_in_pids.merge(jobs_.borrowed_pids());
  return {.proc = init_.proc(),
          .node = config_.node.name,
          .pid_first = pid_first_,
          .pid_last = pid_last_,
          .roots = jobs_.roots(),
          .departed_jobs = std::move(departed.jobs),
          .hidden_pids = std::move(departed.stand_in_pids)};
}

Awaitable<> Agent::tell_tasks(Agent* self, std::uint64_t request_id, bool preflight) {
  auto list = self->task_list();
  if (!list || !preflight) co_return self->link_.reply(request_id, std::move(list));
  struct Inspection {
    explicit Inspection(const asio::any_io_executor& executor) : done(executor) {}
    wire::Message reply;
    int open = 1;  // until all are asked
    Promise<bool> done;
  };
  auto inspection = std::make_shared<Inspection>(self->context_.get_executor());
  inspection->reply = std::move(*list);
  const auto& tasks = inspection->reply.task_list_reply().tasks();
  for (int i = 0; i < tasks.size(); ++i) {
    auto stand_in = tasks[i].is_root() ? self->jobs_.stand_in_of(tasks[i].job_id()) : nullptr;
    if (!stand_in) continue;
    ++inspection->open;
    wire::Message question;
    question.mutable_preflight_request()->set_job_id(tasks[i].job_id());
    stand_in->request(std::move(question), kStandInTimeout,
                      [inspection, i](Result<wire::Message> answer) {
                        auto& task = *inspection->reply.mutable_task_list_reply()->mutable_tasks(i);
                        if (answer && answer->has_preflight_report()) {
                          task.set_inspected(true);
                          *task.mutable_blockers() = answer->preflight_report().blockers();
                        }
                        if (--inspection->open == 0) inspection->done.set(true);
                      });
  }
  if (--inspection->open > 0)
    (void)co_await inspection->done.wait(kStandInTimeout + std::chrono::seconds(1));
  self->link_.reply(request_id, inspection->reply);
}

Result<wire::Message> Agent::task_list() {
  TaskView what = task_view();
  wire::Message reply;
  wire::TaskListReply& list = *reply.mutable_task_list_reply();
  if (what.proc.empty()) return reply;
  GESTALT_ASSIGN(auto records, sources_.list(init_.where()));
  for (auto& task : describe_tasks(what, records)) *list.add_tasks() = std::move(task);
  return reply;
}

Result<wire::Message> Agent::find_pid(std::uint32_t pid) const {
  TaskView what = task_view();
  wire::Message reply;
  wire::FindPidReply& found = *reply.mutable_find_pid_reply();
  if (what.proc.empty()) return reply;
  if (auto task = read_task(what, pid)) {
    found.set_found(true);
    *found.mutable_task() = std::move(*task);
  }
  return reply;
}

// Not here: the memory of a large process takes the kernel a while to look through.
void Agent::fetch(std::uint64_t request_id, wire::ViewFetch request) {
  auto proc = init_.proc();
  if (proc.empty()) return link_.reply(request_id, fail(ErrorCode::kGone, "nothing runs here"));
  asio::post(readers_, [this, request_id, proc, request = std::move(request)] {
    Result<wire::Message> reply;
    if (auto fetched = fetch_of_task(proc, request)) {
      *reply->mutable_view_fetched() = std::move(*fetched);
    } else {
      reply = std::unexpected(std::move(fetched).error());
    }
    asio::post(context_, [this, request_id, reply = std::move(reply)]() mutable {
      link_.reply(request_id, std::move(reply));
    });
  });
}

wire::Heartbeat Agent::heartbeat() {
  auto where = init_.where();
  Result<TaskCounts> counts = fail(ErrorCode::kUnavailable, "there is no cluster init");
  if (!where.proc.empty())
    counts = task_counter_.count(where.init_pid, [&] { return sources_.count(where); });
  wire::Heartbeat load = load_message(cpus_, sources_.load(), counts);
  load.set_jobs(jobs_.running());
  load.set_task_source(sources_.name());
  load.set_task_source_reason(sources_.reason());
  load.set_task_events(sources_.events().name());
  load.set_task_events_reason(sources_.events().reason());
  write_load_file(load);
  return load;
}

void Agent::write_load_file(const wire::Heartbeat& load) {
  std::string path = formatted("{}/{}", config_.paths.load_directory, config_.node.name);
  auto written = replace_file(path, load_file_text(config_.node.name, load), 0644);
  if (!written && !load_file_failed_)
    log::warning("load file not written", log::field("error", written.error().text()));
  load_file_failed_ = !written;
}

}  // namespace gestalt
