// A job seen from the terminal where it was started, from the request to its end:
//
//   start() -> RunReply -> JobStarted -> [JobStopped -> continued]* -> JobExited
//           -> both outputs written to their end -> outcome
//
// Meanwhile input, output, signals and the window's size pass between the caller and
// the job, wherever it moves.
#pragma once

#include <array>
#include <deque>
#include <optional>

#include "cli/daemon_link.h"
#include "cli/group_witness.h"
#include "cli/home_link.h"
#include "cli/input_pump.h"
#include "cli/job_signals.h"
#include "cli/output_pump.h"
#include "cli/terminal.h"
#include "common/direct_link.h"

namespace gestalt::cli {

// How the command is to end.
struct Outcome {
  int exit_code = 0;
  int signal = 0;              // not 0: by this signal
  std::optional<Error> error;  // to be reported first
};

class RunSession {
 public:
  static constexpr Clock::duration kRequestTimeout = std::chrono::seconds(30);
  static constexpr Clock::duration kStartTimeout = std::chrono::seconds(60);
  // After the job's end: without any more of its output.
  static constexpr Clock::duration kDrainTimeout = std::chrono::seconds(5);
  // For output that was lost with a connection to come again.
  static constexpr Clock::duration kGapTimeout = std::chrono::seconds(30);
  // For a process to be frozen on its way home, and to come: else input goes on.
  static constexpr Clock::duration kHoldTimeout = std::chrono::seconds(2);

  // `deputy_of`: not a new job, but this one, whose root this process stands for
  // (cli/deputy_main.cc); of the request only the standard streams count then.
  RunSession(EventLoop& loop, std::string socket_path, Fd socket, wire::RunRequest request,
             std::uint64_t deputy_of = 0);
  RunSession(const RunSession&) = delete;
  RunSession& operator=(const RunSession&) = delete;

  // Of a deputy, before run(): to tell signals to its group. It must outlive this.
  void use(GroupWitness& witness) { witness_ = &witness; }
  // Of a deputy that takes the place of another: before run().
  void go_on_from(const wire::DeputyState& state);
  // Runs the loop until the job is over and done with. Once.
  [[nodiscard]] Outcome run();

 private:
  enum class Phase { kRequested, kAccepted, kRunning, kEnded };

  void on_reply(const Result<wire::Message>& reply);
  void on_message(const wire::Message& message);
  void on_attached(const wire::JobInfo& job);
  void on_link_lost(const Error& error);
  void on_started();
  void on_stopped(int signal);
  void on_exited(std::uint32_t wait_status);
  void on_signal(const signalfd_siginfo& info);
  [[nodiscard]] bool is_to_group(const signalfd_siginfo& info);
  void on_data(const wire::StdioData& data);
  void hold_input();
  void ask_direct(std::uint32_t stream);
  void on_direct_offer(const wire::StdioDirectOffer& offer);
  void go_direct(std::uint32_t stream, Fd socket);
  void await_lost_data(const Error& gap);
  void check(const Result<void>& result);

  void send_signal(int signal, bool to_group);
  void send_window();
  void abandon_job();
  void resync();
  void resume();
  void update_terminal();
  void tell_foreground(bool foreground);
  void fail_with(Error error, int exit_code);
  void end(Outcome outcome, bool await_output);
  void restart_drain_timer();
  void finish_if_drained();

  // run_session_home.cc
  [[nodiscard]] wire::DeputyState pause();
  void go_on();

  EventLoop& loop_;
  wire::RunRequest request_;
  const wire::Stdio stdio_;
  const std::uint64_t deputy_of_;
  const int terminal_fd_;
  GroupWitness* witness_ = nullptr;
  Phase phase_ = Phase::kRequested;
  std::uint64_t job_id_ = 0;
  std::string node_;
  std::optional<Outcome> outcome_;
  bool await_output_ = false;  // until both outputs' ends
  EventLoop::TimerId start_timer_ = 0;
  EventLoop::TimerId drain_timer_ = 0;
  EventLoop::TimerId terminal_timer_ = 0;
  EventLoop::TimerId gap_timer_ = 0;
  EventLoop::TimerId hold_timer_ = 0;
  std::optional<bool> foreground_told_ = true;  // as a job begins; nothing: who listens is new
  std::deque<wire::Message> held_signals_;      // while the link is down
  std::deque<wire::Message> held_messages_;     // while the process may be coming home
  HomeLink home_;
  DaemonLink link_;
  JobSignals signals_;
  Terminal terminal_;
  InputPump input_;
  OutputPump output_;
  OutputPump error_;
  std::array<std::unique_ptr<DirectLink>, 3> links_;  // being made, for each stream
};

}  // namespace gestalt::cli
