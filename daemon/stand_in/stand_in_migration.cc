// The stand-in's part in migrations, at both ends.

#include <csignal>

#include "common/fault.h"
#include "common/log.h"
#include "common/paths.h"
#include "common/pid_probe.h"
#include "common/proc.h"
#include "daemon/stand_in/stand_in.h"
#include "migrate/preflight.h"

namespace gestalt {
namespace {

constexpr double kDefaultTimeoutSeconds = 60;
// For what was killed to be gone.
constexpr auto kDepartureTimeout = std::chrono::seconds(10);
constexpr auto kFreeIdPoll = std::chrono::milliseconds(2);
// For the process to read what is on its way to it; it may have no mind to.
constexpr auto kHeldInputTimeout = std::chrono::milliseconds(100);
constexpr auto kHeldInputPoll = std::chrono::milliseconds(1);
// For an adopted process to be asked to leave.
constexpr auto kAdoptionTimeout = std::chrono::seconds(30);
// For the pages of the move before to arrive.
constexpr auto kPagingTimeout = std::chrono::seconds(60);

wire::Message error_answer(const Error& error) {
  wire::Message message;
  *message.mutable_error() = to_wire(error);
  return message;
}

}  // namespace

MigrationParameters StandIn::parameters_of(std::uint64_t id, const std::string& secret,
                                           const wire::MigrationOptions& options) const {
  MigrationParameters parameters;
  parameters.migration_id = id;
  parameters.secret = secret;
  parameters.options = options;
  parameters.image_directory =
      options.image_directory().empty() ? paths::kImageDirectory : options.image_directory();
  double seconds =
      options.timeout_seconds() > 0 ? options.timeout_seconds() : kDefaultTimeoutSeconds;
  parameters.deadline = deadline_in(
      std::chrono::duration_cast<Clock::duration>(std::chrono::duration<double>(seconds)));
  return parameters;
}

// ------------------------------------------------------------------ source

void StandIn::adopt_process(const wire::AdoptProcess& request) {
  if (root_ != 0) return;  // asked twice
  auto pid = static_cast<pid_t>(request.pid());
  auto adopted = AdoptedProcess::adopt(pid, *group_);
  if (!adopted) return report_start_failure(adopted.error());
  adopted_ = std::move(*adopted);
  root_ = pid;
  identity_ = adopted_->identity();
  job_.set_uid(identity_.uid());
  auto command = command_line("/proc", pid);
  for (char& c : command)
    if (static_cast<unsigned char>(c) >= 128 || static_cast<unsigned char>(c) < 32) c = '?';
  job_.set_command(command);
  job_.set_has_deputy(true);
  job_.set_session_pid(static_cast<std::uint32_t>(adopted_->session_pid()));
  job_.set_group_pid(static_cast<std::uint32_t>(adopted_->group_pid()));
  log::info("process adopted", log::field("job", job_id_), log::field("pid", pid),
            log::field("parent", adopted_->parent_pid()));
  wire::Message message;
  auto& started = *message.mutable_job_started();
  started.set_job_id(job_id_);
  started.set_pid(request.pid());
  started.set_stand_in_pid(static_cast<std::uint32_t>(::getpid()));
  started.set_parent_pid(static_cast<std::uint32_t>(adopted_->parent_pid()));
  started.set_session_pid(static_cast<std::uint32_t>(adopted_->session_pid()));
  started.set_group_pid(static_cast<std::uint32_t>(adopted_->group_pid()));
  agent_.send(message);
  (void)loop_.after(kAdoptionTimeout, [this] {
    if (adopted_ && !migration_)
      give_back({ErrorCode::kTimeout, "the process was not asked to move", {}});
  });
}

// It stays what it was: no job.
void StandIn::give_back(const Error& why) {
  log::info("process given back", log::field("job", job_id_), log::field("pid", root_),
            log::field("why", why.text()));
  adopted_->give_back();
  adopted_.reset();
  root_ = 0;
  report_start_failure(why);
}

InjectedProgram StandIn::deputy() {
  return caller_.call([this] { return adopted_->deputy(job_id_); });
}

void StandIn::start_outgoing(const wire::Message& message) {
  const auto& request = message.start_outgoing();
  wire::Message accepted;
  accepted.mutable_empty();
  if (migration_)
    return reply(message, error_answer({ErrorCode::kBusy, "a migration is under way", {}}));
  if (root_ == 0 || root_status_) {
    return reply(message, error_answer({ErrorCode::kGone, "the process has ended", {}}));
  }
  reply(message, accepted);
  migration_.emplace();
  migration_->id = request.migration_id();
  root_node_ = request.destination();
  migration_->comes_home = request.comes_home();
  SourceUnit unit;
  unit.root = root_;
  unit.group = &*group_;
  unit.address = request.address();
  unit.port = static_cast<std::uint16_t>(request.port());
  unit.rdma_port = static_cast<std::uint16_t>(request.rdma_port());
  unit.rdma_reason = request.rdma_reason();
  unit.destination = request.facts();
  unit.network = network_.get();
  if (adopted_) {
    unit.mounts = adopted_->mounts();
    unit.deputy_group = adopted_->home_group();
  }
  migration_->source = std::make_unique<MigrationSource>(
      parameters_of(request.migration_id(), request.secret(), request.options()), std::move(unit),
      *this);
  Deadline deadline = deadline_in(kPagingTimeout);
  migration_->thread = std::jthread([this, source = migration_->source.get(), deadline] {
    // CRIU would take pages that are still to come for pages that never were.
    Result<wire::MigrationStats> outcome;
    auto ready = paging_ ? paging_->finish_paging(deadline) : Result<void>();
    if (ready)
      outcome = source->run();
    else
      outcome = std::unexpected(std::move(ready).error());
    caller_.post(
        [this, outcome = std::move(outcome)]() mutable { outgoing_finished(std::move(outcome)); });
  });
}

void StandIn::outgoing_finished(Result<wire::MigrationStats> outcome) {
  migration_->thread.join();
  if (!outcome) {
    report_outcome(wire::MigrationOutcome::FAILED, &outcome.error(), nullptr);
    migration_->source->tell_destination(outcome.error());
    migration_.reset();
    if (adopted_) return give_back(outcome.error());
    if (paging_done_) end_paging();
    if (root_status_) {
      root_ended();
    } else if (abandoned_) {
      kill_after_grace();
    }
    return on_child_events();
  }
  log::info("job moved away", log::field("job", job_id_), log::field("to", root_node_),
            log::field("freeze_seconds", outcome->freeze_seconds()));
  depart(std::move(*outcome));
}

// A job may come back at once, and then needs each of its pids and thread ids. So it has not
// left before all that was killed here has been reaped and given back its ids.
void StandIn::depart(wire::MigrationStats stats) {
  if (paging_) paging_->close();  // its keeper is a child, too
  paging_.reset();
  migration_->departure = Departure{std::move(stats), migration_->source->killed(), Clock::now()};
  (void)loop_.after(kDepartureTimeout, [this, id = migration_->id] {
    if (!migration_ || migration_->id != id) return;
    log::error("the job's processes do not end", log::field("job", job_id_));
    departed();
  });
  on_child_events();
}

void StandIn::departed_when_free() {
  if (!migration_ || !migration_->departure) return;
  std::erase_if(migration_->departure->threads, [](pid_t id) {
    auto free = pid_is_free(id);
    return !free || *free;
  });
  if (migration_->departure->threads.empty()) return departed();
  (void)loop_.after(kFreeIdPoll, [this] { departed_when_free(); });
}

void StandIn::departed() {
  auto stats = std::move(migration_->departure->stats);
  double seconds = seconds_between(migration_->departure->began, Clock::now());
  stats.set_total_seconds(stats.total_seconds() + seconds);
  stats.set_source_free_seconds(stats.source_free_seconds() + seconds);
  if (stats.error().empty()) {
    report_outcome(wire::MigrationOutcome::DONE, nullptr, &stats);
  } else {
    Error lost{ErrorCode::kGone, stats.error(), {}};
    report_outcome(wire::MigrationOutcome::FAILED, &lost, &stats);
  }
  migration_.reset();
  forget_job();
}

// The job is not here (any more): what was killed is reaped, not reported.
void StandIn::forget_job() {
  root_ = 0;
  exit_acknowledged_ = true;
  on_child_events();
}

void StandIn::before_freeze() {
  if (migration_->comes_home) hold_input();
  caller_.call([this] { holding_signals_ = true; });
}

// What the process reads now need not be put back into its pipe at home.
void StandIn::hold_input() {
  caller_.call([this] { stdio_->hold_input(); });
  for (auto deadline = deadline_in(kHeldInputTimeout); Clock::now() < deadline;) {
    if (caller_.call([this] { return stdio_->held_input_is_read(); })) return;
    std::this_thread::sleep_for(kHeldInputPoll);
  }
}

Result<std::string> StandIn::freeze_io() {
  return caller_.call([this]() -> Result<std::string> {
    io_frozen_ = !adopted_;
    wire::HandOver hand_over;
    *hand_over.mutable_job() = job_info();
    *hand_over.mutable_identity() = identity_;
    if (adopted_) {
      GESTALT_TRY(adopted_->describe(hand_over));
      return hand_over.SerializeAsString();
    }
    GESTALT_ASSIGN(auto pids, group_->processes());
    GESTALT_TRY(stdio_->freeze(pids, hand_over));
    return hand_over.SerializeAsString();
  });
}

void StandIn::resume_io() {
  caller_.call([this] {
    if (std::exchange(io_frozen_, false)) stdio_->thaw();
    deliver_held_signals();
  });
}

Result<Verdict> StandIn::ask(Deadline deadline) {
  caller_.call([this] {
    migration_->asked = true;
    ask_again();
  });
  auto verdict = migration_->verdict.await_decision(deadline);
  if (!verdict) return fail(ErrorCode::kTimeout, "the leader did not decide in time");
  return *verdict;
}

void StandIn::ask_again() {
  if (!migration_) return;
  wire::Message message;
  message.mutable_migration_ask()->set_migration_id(migration_->id);
  agent_.send(message);
}

Verdict StandIn::await_outcome() {
  return migration_->verdict.await_final(Deadline::max()).value_or(Verdict::kRolledBack);
}

void StandIn::progress(const wire::MigrationProgress& progress) {
  caller_.post([this, progress] {
    if (!migration_) return;
    wire::Message message;
    *message.mutable_migration_progress() = progress;
    message.mutable_migration_progress()->set_migration_id(migration_->id);
    agent_.send(message);
  });
}

void StandIn::serving(const wire::MigrationStats& so_far) {
  caller_.call([this, &so_far] {
    log::info("job moved away, pages follow", log::field("job", job_id_),
              log::field("to", root_node_), log::field("freeze_seconds", so_far.freeze_seconds()));
    migration_->reported = wire::MigrationOutcome::SERVING;
    report_outcome(wire::MigrationOutcome::SERVING, nullptr, &so_far);
  });
}

// What is in the way at home; asked of the stand-in of the session.
void StandIn::answer_home_preflight(const wire::Message& message) {
  auto pid = message.preflight_request().pid();
  wire::Message answer;
  auto& report = *answer.mutable_preflight_report();
  if (auto free = HomePlace::check(static_cast<pid_t>(pid)); !free) {
    auto& blocker = *report.add_blockers();
    blocker.set_pid(pid);
    blocker.set_what(free.error().message);
    blocker.set_remedy(free.error().remedy);
  }
  reply(message, std::move(answer));
}

void StandIn::answer_preflight(const wire::Message& message) {
  if (message.preflight_request().comes_home()) return answer_home_preflight(message);
  if (root_ == 0 || root_status_)
    return reply(message, error_answer({ErrorCode::kGone, "the process has ended", {}}));
  const auto& request = message.preflight_request();
  UnitTies ties{.network = network_.get()};
  pid_t root = root_;
  bool of_another = request.pid() != 0 && request.pid() != static_cast<std::uint32_t>(root_);
  if (of_another) {
    root = static_cast<pid_t>(request.pid());
    ties.network = nullptr;
    ties.mounts = view_.mounts.get();
    ties.deputy = true;
  }
  auto report = preflight_report(root, of_another ? nullptr : &*group_, ties, request.facts(),
                                 request.options().any_cpu());
  if (!report) return reply(message, error_answer(report.error()));
  wire::Message answer;
  *answer.mutable_preflight_report() = std::move(*report);
  reply(message, std::move(answer));
}

void StandIn::cancel_migration(std::uint64_t migration_id) {
  if (!migration_ || migration_->id != migration_id) return;
  migration_->verdict.put(Verdict::kDenied);
  if (migration_->source) migration_->source->cancel();
  if (migration_->destination) migration_->destination->cancel();
}

// ------------------------------------------------------------- destination

void StandIn::start_incoming(const wire::Message& message) {
  const auto& request = message.prepare_incoming();
  if (migration_ || root_ != 0)
    return reply(message, error_answer({ErrorCode::kBusy, "this stand-in has a job", {}}));
  if (request.network_address() != 0) {
    auto network = JobNetwork::create(request.network_address(), group_->directory_fd());
    if (!network) {
      reply(message, error_answer(network.error()));
      return forget_job();  // there will never be one here
    }
    network_ = std::move(*network);
  }
  if (request.comes_home()) {
    auto home = HomePlace::create(job_id_, static_cast<pid_t>(request.root_pid()));
    if (!home) {
      reply(message, error_answer(home.error()));
      return forget_job();
    }
    home_ = std::move(*home);
  }
  incoming_request_ = message;
  group_pid_ = request.group_pid();
  migration_.emplace();
  migration_->id = request.migration_id();
  migration_->role = wire::MigrationOutcome::DESTINATION;
  migration_->destination = std::make_unique<MigrationDestination>(
      parameters_of(request.migration_id(), request.secret(), request.options()),
      request.listen_address(), static_cast<std::uint16_t>(request.listen_port()), *group_, *this);
  migration_->thread = std::jthread([this, destination = migration_->destination.get()] {
    auto outcome = destination->run();
    caller_.post(
        [this, outcome = std::move(outcome)]() mutable { incoming_finished(std::move(outcome)); });
  });
}

void StandIn::listening(const ListeningPorts& ports) {
  caller_.post([this, ports] {
    wire::Message answer;
    auto& ready = *answer.mutable_incoming_ready();
    ready.set_migration_id(migration_->id);
    ready.set_address(incoming_request_.prepare_incoming().listen_address());
    ready.set_port(ports.tcp);
    ready.set_rdma_port(ports.rdma);
    ready.set_rdma_reason(ports.rdma_reason);
    reply(incoming_request_, std::move(answer));
    incoming_request_.Clear();
  });
}

Result<RestorePlan> StandIn::prepare_io(const std::string& handover) {
  return caller_.call([this, &handover]() -> Result<RestorePlan> {
    wire::HandOver hand_over;
    if (!hand_over.ParseFromString(handover) || hand_over.job().job_id() != job_id_)
      return fail(ErrorCode::kProtocol, "the hand-over makes no sense");
    auto stand_in_pid = job_.stand_in_pid();
    job_ = hand_over.job();
    job_.set_stand_in_pid(stand_in_pid);
    identity_ = hand_over.identity();
    if (home_) return prepare_home(std::move(hand_over));
    GESTALT_ASSIGN(auto plan, stdio_->restore(hand_over));
    plan.root = static_cast<pid_t>(hand_over.job().pid());
    plan.network = network_.get();
    plan.group = static_cast<pid_t>(group_pid_);
    return plan;
  });
}

Result<Verdict> StandIn::await_verdict(Deadline deadline) {
  auto verdict = migration_->verdict.await_decision(deadline);
  if (!verdict) return fail(ErrorCode::kTimeout, "the leader did not decide in time");
  return *verdict;
}

Result<void> StandIn::before_resume(pid_t root) {
  return caller_.call([this, root]() -> Result<void> {
    root_ = root;
    return home_ ? Result<void>() : stdio_->before_resume(root);
  });
}

void StandIn::resumed(pid_t) {
  caller_.call([this] {
    migration_->reported = wire::MigrationOutcome::RESUMED;
    wire::Message message;
    *message.mutable_migration_outcome() = pending_outcome();
    agent_.send(message);
  });
}

Result<Verdict> StandIn::await_confirmation(Deadline deadline) {
  auto verdict = migration_->verdict.await_final(deadline);
  if (!verdict) return fail(ErrorCode::kTimeout, "the leader did not confirm in time");
  return *verdict;
}

void StandIn::incoming_finished(Result<void> outcome) {
  migration_->thread.join();
  if (!outcome) {
    if (incoming_request_.has_prepare_incoming())
      reply(incoming_request_, error_answer(outcome.error()));
    report_outcome(wire::MigrationOutcome::FAILED, &outcome.error(), nullptr);
    migration_->destination->tell_source(outcome.error());
    migration_.reset();
    home_.reset();
    return forget_job();
  }
  log::info("job moved in", log::field("job", job_id_), log::field("pid", root_));
  paging_id_ = migration_->id;
  paging_ = std::move(migration_->destination);
  warmer_ = paging_->take_warmer();
  migration_.reset();
  if (home_) {
    if (paging_done_) return end_paging();
    paging_->hurry();  // nothing is to be left elsewhere, in no mode
    watch_returned();
    return pages_lost(early_loss_);
  }
  stdio_->start();
  stdio_->resync();
  if (root_status_) root_ended();
  pages_lost(early_loss_);
  if (paging_done_) end_paging();  // they were here before this was over
  on_child_events();
}

void StandIn::paging_finished() {
  caller_.post([this] {
    paging_done_ = true;
    end_paging();
  });
}

// Every page is here, or nobody needs any.
void StandIn::end_paging() {
  if (!paging_ || migration_) return;  // the migration's thread may wait for it
  paging_->close();
  paging_.reset();
  if (home_) return process_returned();
  leave_when_empty();
}

// The hand-over point for a restart from a checkpoint: what the process still needed was
// only there.
void StandIn::pages_lost(const wire::MigrationPagesLost& lost) {
  if (migration_ && migration_->id == lost.migration_id()) early_loss_ = lost;
  if (!paging_ || paging_id_ != lost.migration_id() || !paging_->paging()) return;
  log::error("the job's pages are lost: it ends", log::field("job", job_id_),
             log::field("reason", lost.reason()));
  if (auto killed = group_->kill(); !killed)
    log::error("cannot end the job", log::field("error", killed.error().text()));
  paging_->processes_ended();
}

// ------------------------------------------------------------------- both

wire::MigrationOutcome StandIn::pending_outcome() const {
  wire::MigrationOutcome outcome;
  outcome.set_migration_id(migration_->id);
  outcome.set_job_id(job_id_);
  outcome.set_role(migration_->role);
  outcome.set_state(migration_->reported);
  outcome.set_pid(static_cast<std::uint32_t>(root_));
  return outcome;
}

void StandIn::report_outcome(wire::MigrationOutcome::State state, const Error* error,
                             const wire::MigrationStats* stats) {
  wire::Message message;
  auto& outcome = *message.mutable_migration_outcome();
  outcome = pending_outcome();
  outcome.set_state(state);
  if (error != nullptr) *outcome.mutable_error() = to_wire(*error);
  if (stats != nullptr) {
    *outcome.mutable_stats() = *stats;
    outcome.mutable_stats()->set_migration_id(migration_->id);
    outcome.mutable_stats()->set_pid(static_cast<std::uint32_t>(root_));
    for (const auto& signal : std::exchange(held_signals_, {}))
      *outcome.add_late_signals() = signal;
  }
  agent_.send_surely(std::move(message));
}

}  // namespace gestalt
