// What the daemon says to a RunSession.
#include "cli/exit_codes.h"
#include "cli/run_session.h"
#include "common/format.h"
#include "common/frame.h"

namespace gestalt::cli {

void RunSession::on_message(const wire::Message& message) {
  if (home_.paused()) {
    held_messages_.push_back(message);
    return;
  }
  switch (message.body_case()) {
    case wire::Message::kStdioData:
      on_data(message.stdio_data());
      break;
    case wire::Message::kStdioAck:
      if (message.stdio_ack().stream() == 0)
        check(input_.acknowledge(message.stdio_ack().offset(), message.stdio_ack().closed()));
      break;
    case wire::Message::kStdioHold:
      hold_input();
      break;
    case wire::Message::kStdioDirectOffer:
      on_direct_offer(message.stdio_direct_offer());
      break;
    case wire::Message::kJobStarted:
      on_started();
      break;
    case wire::Message::kJobStartFailed: {
      auto error = from_wire(message.job_start_failed().error());
      int exit_code = run_exit_code(error.code);
      fail_with(std::move(error), exit_code);
      break;
    }
    case wire::Message::kJobStopped:
      on_stopped(static_cast<int>(message.job_stopped().signal()));
      break;
    case wire::Message::kJobTerminal:
      // A job of `gestalt run` leaves the caller's as it was.
      if (deputy_of_ != 0) terminal_.set_saved(message.job_terminal().termios());
      break;
    case wire::Message::kDeputyRecall:
      if (deputy_of_ != 0) home_.connect(message.deputy_recall().socket());
      break;
    case wire::Message::kJobExited:
      on_exited(message.job_exited().wait_status());
      break;
    case wire::Message::kJobNodeLost:
      fail_with({ErrorCode::kUnavailable,
                 formatted("node {} failed; the job is lost", message.job_node_lost().node()),
                 {}},
                kExitGestalt);
      break;
    case wire::Message::kJobResync:
      if (!message.job_resync().node().empty()) node_ = message.job_resync().node();
      resync();
      break;
    default:  // JobContinued, and what later versions say
      break;
  }
}

void RunSession::on_data(const wire::StdioData& data) {
  restart_drain_timer();
  for (auto [stream, output] : {std::pair(1U, &output_), std::pair(2U, &error_)}) {
    if (data.stream() != stream) continue;
    auto accepted = output->accept(data.offset(), data.data(), data.eof());
    bool gap = !accepted && accepted.error().code == ErrorCode::kUnavailable;
    if (gap)
      await_lost_data(accepted.error());
    else
      check(accepted);
    if (!gap) loop_.cancel(std::exchange(gap_timer_, 0));
  }
}

// So that the process can read what is on the way: less to be put back.
void RunSession::hold_input() {
  wire::Message message;
  message.mutable_stdio_held()->set_job_id(job_id_);
  message.mutable_stdio_held()->set_offset(input_.hold());
  link_.send(message);
  loop_.cancel(hold_timer_);
  hold_timer_ = loop_.after(kHoldTimeout, [this] { input_.let_go(); });
}

void RunSession::ask_direct(std::uint32_t stream) {
  if (phase_ != Phase::kRunning || home_.paused()) return;
  wire::Message message;
  message.mutable_stdio_direct_request()->set_job_id(job_id_);
  message.mutable_stdio_direct_request()->set_stream(stream);
  link_.send(message);
}

// Without such a connection the stream goes on by messages.
void RunSession::on_direct_offer(const wire::StdioDirectOffer& offer) {
  auto stream = offer.stream();
  if (stream >= links_.size() || phase_ != Phase::kRunning) return;
  auto link = DirectLink::connect(loop_, offer, [this, stream](Result<Fd> socket) {
    links_[stream].reset();
    if (socket && phase_ == Phase::kRunning && !home_.paused())
      go_direct(stream, std::move(*socket));
  });
  if (link) links_[stream] = std::move(*link);
}

void RunSession::go_direct(std::uint32_t stream, Fd socket) {
  if (stream == 0) return input_.go_direct(std::move(socket));
  (stream == 1 ? output_ : error_).go_direct(std::move(socket));
}

// What was lost with a connection comes again, but newer data may overtake it.
void RunSession::await_lost_data(const Error& gap) {
  if (gap_timer_ != 0) return;
  gap_timer_ = loop_.after(kGapTimeout, [this, gap] { check(std::unexpected(gap)); });
}

void RunSession::check(const Result<void>& result) {
  if (result) return;
  auto error = result.error();
  if (phase_ == Phase::kRunning) abandon_job();
  fail_with(std::move(error).in("the job's standard streams are out of step"), kExitGestalt);
}

void RunSession::on_attached(const wire::JobInfo& job) {
  node_ = job.node();
  if (job.state() == wire::JOB_LOST) {
    fail_with({ErrorCode::kUnavailable, formatted("node {} failed; the job is lost", node_), {}},
              kExitGestalt);
    return;
  }
  if (job.state() == wire::JOB_RUNNING || job.state() == wire::JOB_MIGRATING) on_started();
  for (const auto& message : held_signals_) link_.send(message);
  held_signals_.clear();
  resync();
  if (job.state() == wire::JOB_EXITED) on_exited(job.wait_status());
}

void RunSession::on_link_lost(const Error& error) {
  if (phase_ == Phase::kEnded) {  // how the job ended is known; its output's end is lost
    await_output_ = false;
    finish_if_drained();
    return;
  }
  Error lost = error;
  lost = std::move(lost).in("the connection to gestaltd was lost");
  lost.remedy = "systemctl status gestaltd; gestalt ps tells whether the job still runs";
  fail_with(std::move(lost), kExitGestalt);
}

}  // namespace gestalt::cli
