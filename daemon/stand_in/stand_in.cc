#include "daemon/stand_in/stand_in.h"

#include <fcntl.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <csignal>

#include "common/format.h"
#include "common/log.h"
#include "common/paths.h"
#include "daemon/command_text.h"
#include "daemon/stand_in/job_launcher.h"
#include "daemon/wall_clock.h"

namespace gestalt {
namespace {

constexpr auto kHangUpGrace = std::chrono::seconds(2);
constexpr auto kViewTimeout = std::chrono::seconds(10);
constexpr auto kLastWordTimeout = std::chrono::seconds(3);
constexpr auto kDrainTimeout = std::chrono::seconds(10);

// Those that are dying are in no control group any more.
bool has_children() {
  siginfo_t info;
  return ::waitid(P_ALL, 0, &info, WEXITED | WNOHANG | WNOWAIT) == 0;
}

}  // namespace

StandIn::StandIn(std::uint64_t job_id, std::uint64_t migration_id, Fd terminal)
    : caller_(loop_),
      agent_(
          loop_, [this](wire::Message message) { on_message(std::move(message)); },
          [this] { return make_hello(); }),
      job_id_(job_id),
      incoming_id_(migration_id),
      held_terminal_(std::move(terminal)) {
  job_.set_job_id(job_id);
  job_.set_stand_in_pid(static_cast<std::uint32_t>(::getpid()));
}

StandIn::~StandIn() = default;

Result<void> StandIn::start() {
  // Orphans of the job stay below us, so that their end is seen.
  if (::prctl(PR_SET_CHILD_SUBREAPER, 1) != 0) return fail_errno(errno, "become a subreaper");
  sigset_t blocked;
  sigfillset(&blocked);
  (void)::sigprocmask(SIG_SETMASK, &blocked, nullptr);
  sigset_t read;
  sigemptyset(&read);
  sigaddset(&read, SIGCHLD);
  signals_ = Fd(::signalfd(-1, &read, SFD_CLOEXEC | SFD_NONBLOCK));
  if (!signals_) return fail_errno(errno, "make a signal descriptor");
  loop_.watch(signals_.get(), EPOLLIN, [this](std::uint32_t) { on_child_events(); });
  GESTALT_ASSIGN(auto group, Cgroup::create(job_cgroup_name(job_id_)));
  group_ = std::move(group);
  stdio_ = std::make_unique<StdioRelay>(
      loop_, job_id_, [this](const wire::Message& message) { agent_.send(message); });
  if (held_terminal_) {
    if (::fcntl(held_terminal_.get(), F_SETFD, FD_CLOEXEC) != 0)
      return fail_errno(errno, "take the session's terminal");
    stdio_->set_terminal(std::move(held_terminal_));
    // As a parent's in the session would be, to be that of those it starts.
    if (::setpgid(0, 0) != 0) return fail_errno(errno, "make a process group");
  }
  agent_.connect();
  return {};
}

wire::JobInfo StandIn::job_info() const {
  wire::JobInfo info = job_;
  info.set_pid(static_cast<std::uint32_t>(root_));
  info.set_state(exit_ready_  ? wire::JOB_EXITED
                 : migration_ ? wire::JOB_MIGRATING
                 : root_ != 0 ? wire::JOB_RUNNING
                              : wire::JOB_STARTING);
  if (root_status_) info.set_wait_status(static_cast<std::uint32_t>(*root_status_));
  return info;
}

wire::Message StandIn::make_hello() {
  wire::Message message;
  auto& hello = *message.mutable_stand_in_hello();
  hello.set_job_id(job_id_);
  hello.set_stand_in_pid(static_cast<std::uint32_t>(::getpid()));
  hello.set_migration_id(root_ == 0 ? incoming_id_ : 0);
  *hello.mutable_job() = job_info();
  if (adopted_ || home_) hello.mutable_job()->clear_has_deputy();  // its parent is here, itself
  hello.set_exited(exit_ready_ && !exit_acknowledged_);
  if (migration_) *hello.add_migrations() = pending_outcome();
  if (migration_ && migration_->asked)
    // The question may have been lost with the old connection.
    loop_.defer([this] { ask_again(); });
  return message;
}

void StandIn::reply(const wire::Message& request, wire::Message answer) {
  if (request.request_id() == 0) return;
  answer.set_request_id(request.request_id());
  answer.set_is_reply(true);
  agent_.send(answer);
}

void StandIn::on_message(wire::Message message) {
  switch (message.body_case()) {
    case wire::Message::kStartJob:
      return start_job(message.start_job().spec());
    case wire::Message::kAdoptProcess:
      return adopt_process(message.adopt_process());
    case wire::Message::kGiveBack:
      if (adopted_ && !migration_) give_back({ErrorCode::kGone, "it does not leave", {}});
      return;
    case wire::Message::kStdioData:
      return stdio_->on_data(message.stdio_data());
    case wire::Message::kStdioAck:
      return stdio_->on_ack(message.stdio_ack());
    case wire::Message::kStdioDirectRequest:
      return stdio_->on_direct_request(message.stdio_direct_request());
    case wire::Message::kStdioHeld:
      return stdio_->on_held(message.stdio_held().offset());
    case wire::Message::kJobForeground:
      return stdio_->set_foreground(message.job_foreground().foreground());
    case wire::Message::kJobWindow:
      return stdio_->resize(message.job_window().window());
    case wire::Message::kJobResync:
      return stdio_->resync();
    case wire::Message::kJobSignal: {
      wire::LateSignal signal;
      signal.set_signal(message.job_signal().signal());
      signal.set_to_group(message.job_signal().to_group());
      return deliver(signal);
    }
    case wire::Message::kNodeKillRequest:
      return on_node_kill(message);
    case wire::Message::kNodeKillBatch:
      return on_node_kill_batch(message);
    case wire::Message::kJobAbandon:
      return abandon();
    case wire::Message::kJobExitAck:
      exit_acknowledged_ = true;
      return leave_when_empty();
    case wire::Message::kStartOutgoing:
      return start_outgoing(message);
    case wire::Message::kPrepareIncoming:
      return start_incoming(message);
    case wire::Message::kMigrationVerdict:
      if (migration_ && migration_->id == message.migration_verdict().migration_id())
        migration_->verdict.put(from_wire(message.migration_verdict().verdict()));
      return;
    case wire::Message::kPreflightRequest:
      return answer_preflight(message);
    case wire::Message::kMigrationHurry:
      if (paging_ && paging_id_ == message.migration_hurry().migration_id()) paging_->hurry();
      return;
    case wire::Message::kMigrationPagesLost:
      return pages_lost(message.migration_pages_lost());
    case wire::Message::kMigrationCancel:
      return cancel_migration(message.migration_cancel().migration_id());
    default:
      return;
  }
}

void StandIn::start_job(const wire::JobSpec& spec) {
  if (root_ != 0) return;  // asked twice
  identity_ = spec.identity();
  job_.set_uid(identity_.uid());
  job_.set_command(command_text(spec));
  job_.set_started_unix_seconds(unix_seconds());
  auto made = stdio_->create(spec.stdio(), identity_.uid());
  if (!made) return report_start_failure(made.error());
  int terminal = stdio_->terminal() != nullptr ? stdio_->terminal()->slave() : -1;
  if (spec.in_session()) {
    auto view = enter_view(identity_.uid(), deadline_in(kViewTimeout));
    if (!view) return report_start_failure(view.error());
    view_ = std::move(*view);
  }
  if (spec.network_address() != 0) {
    job_.set_network_address(spec.network_address());
    auto network = JobNetwork::create(spec.network_address(), group_->directory_fd());
    auto connected =
        network ? (*network)->connect() : Result<void>(std::unexpected(network.error()));
    if (!connected) return report_start_failure(connected.error());
    network_ = std::move(*network);
  }
  auto pid =
      launch_job(spec, *stdio_, terminal, *group_,
                 {.mounts = view_.mounts.get(), .network = network_ ? network_->descriptor() : -1});
  if (!pid) return report_start_failure(pid.error());
  root_ = *pid;
  stdio_->start();
  log::info("job started", log::field("job", job_id_), log::field("pid", root_),
            log::field("uid", identity_.uid()));
  wire::Message message;
  message.mutable_job_started()->set_job_id(job_id_);
  message.mutable_job_started()->set_pid(static_cast<std::uint32_t>(root_));
  message.mutable_job_started()->set_stand_in_pid(static_cast<std::uint32_t>(::getpid()));
  agent_.send(message);
}

void StandIn::report_start_failure(const Error& error) {
  wire::Message message;
  message.mutable_job_start_failed()->set_job_id(job_id_);
  *message.mutable_job_start_failed()->mutable_error() = to_wire(error);
  agent_.send(message);
  leave();
}

void StandIn::deliver(const wire::LateSignal& signal) {
  if (holding_signals_) {
    held_signals_.push_back(signal);
  } else {
    signal_now(signal);
  }
}

void StandIn::signal_now(const wire::LateSignal& signal) {
  int number = static_cast<int>(signal.signal());
  if (number <= 0 || number > SIGRTMAX) return;
  pid_t pid = signal.pid() != 0 ? static_cast<pid_t>(signal.pid()) : root_;
  // The root's pid is only ours to signal until its status has been collected.
  if (pid <= 0 || (pid == root_ && root_status_)) return;
  if (!signal.to_group() || pid != root_ || ::getpgid(root_) == root_) {
    (void)::kill(signal.to_group() ? -pid : pid, number);
    return;
  }
  // A group whose leader stayed at home. This process may be in it, too.
  pid_t group = ::getpgid(root_);
  for (pid_t member : group_->processes().value_or(std::vector<pid_t>()))
    if (::getpgid(member) == group) (void)::kill(member, number);
}

void StandIn::deliver_held_signals() {
  holding_signals_ = false;
  for (const auto& signal : std::exchange(held_signals_, {})) signal_now(signal);
}

void StandIn::on_node_kill(const wire::Message& message) {
  const auto& request = message.node_kill_request();
  wire::LateSignal signal;
  signal.set_pid(request.pid());
  signal.set_signal(request.signal());
  wire::Message answer;
  answer.mutable_empty();
  auto members = group_->processes();
  auto pid = static_cast<pid_t>(request.pid());
  if (!members || std::ranges::find(*members, pid) == members->end()) {
    *answer.mutable_error() =
        to_wire(Error{ErrorCode::kGone, formatted("process {} does not exist", request.pid()), {}});
  } else if (request.signal() != 0) {
    deliver(signal);
  }
  reply(message, std::move(answer));
}

void StandIn::on_node_kill_batch(const wire::Message& message) {
  const auto& kills = message.node_kill_batch().kills();
  auto members = group_->processes();
  wire::Message answer;
  auto& reply = *answer.mutable_node_kill_batch_reply();
  std::vector<wire::LateSignal> signals;
  for (const auto& each : kills) {
    bool is_there =
        members && std::ranges::find(*members, static_cast<pid_t>(each.pid())) != members->end();
    reply.add_done(is_there);
    if (!is_there || each.signal() == 0) continue;
    signals.emplace_back().set_pid(each.pid());
    signals.back().set_signal(each.signal());
  }
  for (const auto& signal : signals) deliver(signal);
  this->reply(message, std::move(answer));
}

void StandIn::on_child_events() {
  signalfd_siginfo info;
  while (::read(signals_.get(), &info, sizeof info) == sizeof info) {
  }
  int status = 0;
  if (root_ > 0 && !root_status_)
    while (!root_status_ && ::waitpid(root_, &status, WNOHANG | WUNTRACED | WCONTINUED) > 0)
      on_root_status(status);
  // Other children are the job's orphans, or CRIU's, for which the engine waits itself.
  bool departing = migration_ && migration_->departure;
  if (!migration_ || departing)
    while (::waitpid(-1, &status, WNOHANG) > 0) {
    }
  if (departing && !has_children()) departed_when_free();
  leave_when_empty();
}

void StandIn::report_terminal() {
  if (stdio_->terminal() == nullptr) return;
  wire::Message message;
  message.mutable_job_terminal()->set_job_id(job_id_);
  message.mutable_job_terminal()->set_termios(stdio_->terminal()->settings());
  agent_.send(message);
}

void StandIn::on_root_status(int status) {
  wire::Message message;
  if (WIFSTOPPED(status)) {
    report_terminal();
    message.mutable_job_stopped()->set_job_id(job_id_);
    message.mutable_job_stopped()->set_signal(static_cast<std::uint32_t>(WSTOPSIG(status)));
    agent_.send(message);
  } else if (WIFCONTINUED(status)) {
    message.mutable_job_continued()->set_job_id(job_id_);
    agent_.send(message);
  } else {
    root_status_ = status;
    report_terminal();
    // While it moves, only the engine knows whether this was the end of the job.
    if (!migration_) root_ended();
  }
}

void StandIn::root_ended() {
  log::info("job ended", log::field("job", job_id_), log::field("status", *root_status_));
  // The source hears how its pages were used before the leader hears of the end.
  if (auto members = group_->processes(); paging_ && members && members->empty())
    paging_->processes_ended();
  stdio_->finish([this] {
    exit_ready_ = true;
    send_exit();
  });
}

void StandIn::send_exit() {
  if (!exit_ready_ || exit_acknowledged_) return;
  wire::Message message;
  message.mutable_job_exited()->set_job_id(job_id_);
  message.mutable_job_exited()->set_wait_status(static_cast<std::uint32_t>(*root_status_));
  agent_.send(message);
}

void StandIn::abandon() {
  if (adopted_) {  // it is not ours to end; if it is moving, what comes of that decides
    if (!migration_) give_back({ErrorCode::kUnavailable, "nobody wants it to move any more", {}});
    return;
  }
  if (abandoned_ || home_) return;
  abandoned_ = true;
  log::info("client gone: ending the job", log::field("job", job_id_));
  stdio_->abandon();
  wire::LateSignal hang_up;
  hang_up.set_signal(SIGHUP);
  hang_up.set_to_group(true);
  deliver(hang_up);
  kill_after_grace();
}

void StandIn::kill_after_grace() {
  (void)loop_.after(kHangUpGrace, [this] {
    if (root_ != 0 && !root_status_ && !migration_) (void)group_->kill();
  });
}

// What is left of the job when its root has ended keeps its stand-in, as its parent.
void StandIn::leave_when_empty() {
  if (!exit_acknowledged_) return;
  auto members = group_->processes();
  if (members && !members->empty()) return;
  if (paging_) {
    // The source is told, or learns from the leader that nobody needs its pages.
    paging_->processes_ended();
    if (!std::exchange(leaving_, true))
      (void)loop_.after(kLastWordTimeout, [this] { end_paging(); });
    return;
  }
  // A new stand-in of the job may be waiting for the pids here.
  if (!has_children()) leave();
}

void StandIn::leave() {
  (void)group_->remove();
  // What was sent last has to reach gestaltd; it does at once, if it lives. And the job's peers,
  // for whom its network is there a while longer.
  if (!leaving_since_) leaving_since_ = Clock::now();
  bool drained = !network_ || network_->drained() || Clock::now() - *leaving_since_ > kDrainTimeout;
  if (agent_.flushed() && drained) {
    loop_.stop();
  } else {
    (void)loop_.after(milliseconds(20), [this] { leave(); });
  }
}

}  // namespace gestalt
