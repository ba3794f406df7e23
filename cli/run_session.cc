#include "cli/run_session.h"

#include <sys/wait.h>
#include <unistd.h>

#include <csignal>

#include "cli/exit_codes.h"
#include "cli/job_spec.h"
#include "common/format.h"

namespace gestalt::cli {
namespace {

constexpr std::size_t kMaxHeldSignals = 64;
constexpr Clock::duration kForegroundPoll = milliseconds(250);

// The terminal's own end-of-file character, where the local terminal edits the lines.
std::optional<char> end_character(const wire::Stdio& stdio) {
  if (stdio.in() != wire::STDIO_TTY || is_interactive(stdio)) return std::nullopt;
  termios settings{};
  if (::tcgetattr(STDIN_FILENO, &settings) != 0) return '\x04';
  return static_cast<char>(settings.c_cc[VEOF]);
}

bool expects_output(const wire::Stdio& stdio) { return stdio.out() != wire::STDIO_NULL; }

// A job's terminal has one stream for both.
bool expects_error(const wire::Stdio& stdio) {
  if (stdio.err() == wire::STDIO_NULL || stdio.merge_err()) return false;
  return stdio.err() == wire::STDIO_PIPE || stdio.out() != wire::STDIO_TTY;
}

OutputPump::Acknowledge acknowledger(DaemonLink& link, const std::uint64_t& job_id,
                                     std::uint32_t stream) {
  return [&link, &job_id, stream](std::uint64_t offset, bool closed) {
    wire::Message message;
    auto& ack = *message.mutable_stdio_ack();
    ack.set_job_id(job_id);
    ack.set_stream(stream);
    ack.set_offset(offset);
    ack.set_closed(closed);
    link.send(message);
  };
}

InputPump::Send input_sender(DaemonLink& link, const std::uint64_t& job_id) {
  return [&link, &job_id](const StdioChunk& chunk) {
    wire::Message message;
    auto& data = *message.mutable_stdio_data();
    data.set_job_id(job_id);
    data.set_offset(chunk.offset);
    data.set_data(chunk.data.data(), chunk.data.size());
    data.set_eof(chunk.eof);
    link.send(message);
  };
}

}  // namespace

RunSession::RunSession(EventLoop& loop, std::string socket_path, Fd socket,
                       wire::RunRequest request, std::uint64_t deputy_of)
    : loop_(loop),
      request_(std::move(request)),
      stdio_(request_.spec().stdio()),
      deputy_of_(deputy_of),
      terminal_fd_(terminal_descriptor()),
      home_(loop, {.pause = [this] { return pause(); }, .resume = [this] { go_on(); }}),
      link_(loop, std::move(socket_path), std::move(socket),
            {.on_message = [this](const wire::Message& message) { on_message(message); },
             .on_attached = [this](const wire::JobInfo& job) { on_attached(job); },
             .on_lost = [this](const Error& error) { on_link_lost(error); }}),
      signals_(
          loop, [this](const signalfd_siginfo& info) { on_signal(info); }, deputy_of != 0),
      terminal_(stdio_.in() == wire::STDIO_TTY ? STDIN_FILENO : -1),
      input_(loop, LocalStream(STDIN_FILENO, LocalStream::Direction::kRead), end_character(stdio_),
             input_sender(link_, job_id_), [this] { ask_direct(0); }),
      output_(
          loop, LocalStream(STDOUT_FILENO, LocalStream::Direction::kWrite),
          acknowledger(link_, job_id_, 1), [this] { finish_if_drained(); },
          [this] { ask_direct(1); }),
      error_(
          loop, LocalStream(STDERR_FILENO, LocalStream::Direction::kWrite),
          acknowledger(link_, job_id_, 2), [this] { finish_if_drained(); },
          [this] { ask_direct(2); }) {
  auto twice = [this](wire::StdioKind kind) {
    return kind == wire::STDIO_TTY && !terminal_.is_raw() && Terminal::adds_returns(terminal_fd_);
  };
  output_.drop_returns([this, twice] { return twice(stdio_.out()); });
  error_.drop_returns([this, twice] { return twice(stdio_.err()); });
}

Outcome RunSession::run() {
  if (deputy_of_ != 0) {
    job_id_ = deputy_of_;
    phase_ = Phase::kAccepted;
    if (witness_ != nullptr) witness_->start();
    link_.attach(job_id_);
  } else {
    wire::Message message;
    *message.mutable_run_request() = std::move(request_);
    link_.request(std::move(message), kRequestTimeout,
                  [this](const Result<wire::Message>& reply) { on_reply(reply); });
  }
  loop_.run();
  terminal_.restore();
  return *outcome_;
}

void RunSession::on_reply(const Result<wire::Message>& reply) {
  if (phase_ == Phase::kEnded || !link_.is_up()) return;  // on_link_lost comes next
  if (!reply) {
    fail_with(reply.error(), run_exit_code(reply.error().code));
    return;
  }
  job_id_ = reply->run_reply().job_id();
  node_ = reply->run_reply().node();
  link_.set_job(job_id_);
  phase_ = Phase::kAccepted;
  start_timer_ = loop_.after(kStartTimeout, [this] {
    abandon_job();
    fail_with({ErrorCode::kTimeout, formatted("node {} did not start the job in time", node_),
               "gestalt node list, or another node"},
              kExitGestalt);
  });
}

void RunSession::on_started() {
  if (phase_ != Phase::kAccepted) return;
  loop_.cancel(start_timer_);
  phase_ = Phase::kRunning;
  update_terminal();
  send_window();
}

void RunSession::on_stopped(int signal) {
  if (phase_ != Phase::kRunning) return;
  // Ctrl-Z was typed: of a local program the whole foreground group would have stopped.
  bool whole_group = terminal_.is_raw() && signal == SIGTSTP;
  terminal_.restore();
  stop_as(signal, whole_group);
  resume();
}

void RunSession::resume() {
  update_terminal();
  send_signal(SIGCONT, true);
  send_window();
}

// In the foreground the job has the terminal; in the background nothing is read, as
// reading would stop us, and the shell may bring us back without telling.
void RunSession::update_terminal() {
  bool foreground = terminal_.in_foreground();
  bool running = phase_ == Phase::kRunning && !home_.paused();
  if (running && foreground && is_interactive(stdio_)) terminal_.make_raw();
  if (running) tell_foreground(foreground);
  input_.set_reading(running && foreground && stdio_.in() != wire::STDIO_NULL);
  loop_.cancel(terminal_timer_);
  if (running && !foreground)
    terminal_timer_ = loop_.after(kForegroundPoll, [this] { update_terminal(); });
}

void RunSession::tell_foreground(bool foreground) {
  if (terminal_fd_ < 0 || foreground == foreground_told_ || !link_.is_up()) return;
  foreground_told_ = foreground;
  wire::Message message;
  message.mutable_job_foreground()->set_job_id(job_id_);
  message.mutable_job_foreground()->set_foreground(foreground);
  link_.send(message);
}

void RunSession::resync() {
  for (auto& link : links_) link.reset();
  input_.let_go();
  foreground_told_.reset();
  update_terminal();
  if (stdio_.in() != wire::STDIO_NULL) input_.resync();
  output_.resync();
  error_.resync();
  send_window();
}

void RunSession::send_window() {
  if (terminal_fd_ < 0 || phase_ != Phase::kRunning) return;
  wire::Message message;
  message.mutable_job_window()->set_job_id(job_id_);
  *message.mutable_job_window()->mutable_window() = window_size(terminal_fd_);
  link_.send(message);
}

void RunSession::send_signal(int signal, bool to_group) {
  wire::Message message;
  auto& out = *message.mutable_job_signal();
  out.set_job_id(job_id_);
  out.set_signal(static_cast<std::uint32_t>(signal));
  out.set_to_group(to_group);
  if (link_.is_up()) {
    link_.send(message);
  } else if (held_signals_.size() < kMaxHeldSignals) {
    held_signals_.push_back(std::move(message));
  }
}

// Otherwise the daemon would wait for us to come back.
void RunSession::abandon_job() {
  wire::Message message;
  message.mutable_job_abandon()->set_job_id(job_id_);
  link_.send(message);
}

// From the terminal it always is.
bool RunSession::is_to_group(const signalfd_siginfo& info) {
  bool seen = witness_ != nullptr && witness_->saw(static_cast<int>(info.ssi_signo));
  return seen || info.ssi_code == SI_KERNEL;
}

void RunSession::on_signal(const signalfd_siginfo& info) {
  int signal = static_cast<int>(info.ssi_signo);
  if (signal == SIGWINCH) {
    send_window();
  } else if (phase_ == Phase::kRunning && signal == SIGCONT) {
    resume();
  } else if (phase_ == Phase::kRunning) {
    send_signal(signal, is_to_group(info));
  } else if (deputy_of_ != 0 && phase_ != Phase::kEnded) {
    send_signal(signal, is_to_group(info));  // held until the link is up
  } else if (signal == SIGTSTP) {
    stop_as(signal, false);
  } else if (signal != SIGCONT) {
    // No job to pass it to: it does to us what it would do to any program.
    if (phase_ == Phase::kAccepted) abandon_job();
    end({.signal = signal}, false);
    loop_.stop();
  }
}

void RunSession::on_exited(std::uint32_t wait_status) {
  if (phase_ == Phase::kEnded) return;
  int status = static_cast<int>(wait_status);
  Outcome outcome;
  if (WIFSIGNALED(status)) {
    outcome.signal = WTERMSIG(status);
  } else {
    outcome.exit_code = WEXITSTATUS(status);
  }
  end(std::move(outcome), true);
}

void RunSession::fail_with(Error error, int exit_code) {
  if (phase_ == Phase::kEnded) return;
  end({.exit_code = exit_code, .error = std::move(error)}, false);
}

void RunSession::end(Outcome outcome, bool await_output) {
  loop_.cancel(start_timer_);
  phase_ = Phase::kEnded;
  outcome_ = std::move(outcome);
  await_output_ = await_output;
  update_terminal();
  restart_drain_timer();
  finish_if_drained();
}

void RunSession::restart_drain_timer() {
  if (phase_ != Phase::kEnded || !await_output_) return;
  loop_.cancel(drain_timer_);
  drain_timer_ = loop_.after(kDrainTimeout, [this] {
    // Somebody still holds the job's output open (a daemon it left behind). What we
    // have is written, however long our own reader takes.
    await_output_ = false;
    finish_if_drained();
  });
}

void RunSession::finish_if_drained() {
  if (phase_ != Phase::kEnded || !output_.is_drained() || !error_.is_drained()) return;
  bool complete =
      (!expects_output(stdio_) || output_.at_eof()) && (!expects_error(stdio_) || error_.at_eof());
  if (complete || !await_output_) loop_.stop();
}

}  // namespace gestalt::cli
