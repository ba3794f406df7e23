// A job's parent stand-in: the process that represents the job's absent parent (the
// user's `gestalt run`) on the node where the job runs. It starts the job's root, is
// its session's leader, relays its stdio, delivers its signals, collects its exit
// status, and owns both ends of its migrations. One job, one stand-in; at the
// destination of a migration a new one takes over under the same pid.
#pragma once

#include <list>
#include <memory>
#include <optional>
#include <thread>
#include <vector>

#include "common/cgroup.h"
#include "common/event_loop.h"
#include "common/proto/control.pb.h"
#include "common/proto/handover.pb.h"
#include "daemon/stand_in/adopted_process.h"
#include "daemon/stand_in/agent_link.h"
#include "daemon/stand_in/home_streams.h"
#include "daemon/stand_in/job_launcher.h"
#include "daemon/stand_in/job_network.h"
#include "daemon/stand_in/loop_caller.h"
#include "daemon/stand_in/stdio_relay.h"
#include "daemon/stand_in/verdict_box.h"
#include "migrate/destination.h"
#include "migrate/source.h"

namespace gestalt {

class StandIn final : public SourceHost, public DestinationHost {
 public:
  // `migration_id` 0: for a new job; else made for that incoming migration. `terminal`: the master
  // of its session's, if it is not to be that session's leader (session_holder.h).
  StandIn(std::uint64_t job_id, std::uint64_t migration_id, Fd terminal);
  ~StandIn() override;

  [[nodiscard]] Result<void> start();
  void run() { loop_.run(); }

 private:
  // The job is gone for good; what is left here is being removed.
  struct Departure {
    wire::MigrationStats stats;
    std::vector<pid_t> threads;  // that have been killed and may still hold their ids
    Clock::time_point began;
  };
  struct Migration {
    std::uint64_t id = 0;
    wire::MigrationOutcome::Role role = wire::MigrationOutcome::SOURCE;
    wire::MigrationOutcome::State reported = wire::MigrationOutcome::PENDING;
    std::unique_ptr<MigrationSource> source;
    std::unique_ptr<MigrationDestination> destination;
    bool comes_home = false;  // SOURCE
    bool asked = false;
    VerdictBox verdict;
    std::jthread thread;
    std::optional<Departure> departure;
  };

  // stand_in.cc: the job
  void on_message(wire::Message message);
  [[nodiscard]] wire::Message make_hello();
  [[nodiscard]] wire::JobInfo job_info() const;
  void start_job(const wire::JobSpec& spec);
  void report_start_failure(const Error& error);
  void report_terminal();
  void deliver(const wire::LateSignal& signal);
  void signal_now(const wire::LateSignal& signal);
  void deliver_held_signals();
  void on_node_kill(const wire::Message& message);
  void on_node_kill_batch(const wire::Message& message);
  void on_child_events();
  void on_root_status(int status);
  void root_ended();
  void send_exit();
  void abandon();
  void kill_after_grace();
  void leave_when_empty();
  void leave();
  void reply(const wire::Message& request, wire::Message answer);

  // stand_in_migration.cc: moving it
  void adopt_process(const wire::AdoptProcess& request);
  void give_back(const Error& why);
  void start_outgoing(const wire::Message& message);
  void start_incoming(const wire::Message& message);
  void ask_again();
  void hold_input();
  void cancel_migration(std::uint64_t migration_id);
  void answer_preflight(const wire::Message& message);
  void answer_home_preflight(const wire::Message& message);
  void outgoing_finished(Result<wire::MigrationStats> outcome);
  void depart(wire::MigrationStats stats);
  void departed_when_free();
  void departed();
  void pages_lost(const wire::MigrationPagesLost& lost);
  void end_paging();
  void incoming_finished(Result<void> outcome);
  void forget_job();
  void report_outcome(wire::MigrationOutcome::State state, const Error* error,
                      const wire::MigrationStats* stats);
  [[nodiscard]] wire::MigrationOutcome pending_outcome() const;
  [[nodiscard]] MigrationParameters parameters_of(std::uint64_t id, const std::string& secret,
                                                  const wire::MigrationOptions& options) const;

  // stand_in_home.cc: one that comes home
  [[nodiscard]] Result<RestorePlan> prepare_home(wire::HandOver hand_over);
  void watch_returned();
  void process_returned();

  // SourceHost, DestinationHost: on the engine's thread
  void before_freeze() override;
  Result<std::string> freeze_io() override;
  void resume_io() override;
  Result<Verdict> ask(Deadline deadline) override;
  Verdict await_outcome() override;
  void progress(const wire::MigrationProgress& progress) override;
  void serving(const wire::MigrationStats& so_far) override;
  InjectedProgram deputy() override;
  void listening(const ListeningPorts& ports) override;
  Result<RestorePlan> prepare_io(const std::string& handover) override;
  Result<Verdict> await_verdict(Deadline deadline) override;
  Result<void> before_resume(pid_t root) override;
  Result<void> granted() override;
  void resumed(pid_t root) override;
  Result<Verdict> await_confirmation(Deadline deadline) override;
  void paging_finished() override;

  EventLoop loop_;
  LoopCaller caller_;
  AgentLink agent_;
  Fd signals_;
  std::uint64_t job_id_;
  std::uint64_t incoming_id_;
  Fd held_terminal_;
  std::optional<Cgroup> group_;
  std::unique_ptr<StdioRelay> stdio_;
  std::unique_ptr<AdoptedProcess> adopted_;  // the root, until it has left
  std::unique_ptr<HomePlace> home_;          // of one that comes home
  std::unique_ptr<HomeStreams> home_streams_;
  ViewSession view_;                     // of a session
  std::unique_ptr<JobNetwork> network_;  // if it has one to itself
  wire::JobInfo job_;
  wire::Identity identity_;
  pid_t root_ = 0;
  std::uint32_t group_pid_ = 0;  // the root's process group, of one that has a deputy
  std::optional<int> root_status_;
  std::string root_node_;
  bool exit_ready_ = false;  // root ended and its output is with the client
  bool exit_acknowledged_ = false;
  bool abandoned_ = false;
  bool io_frozen_ = false;
  bool holding_signals_ = false;
  std::list<wire::LateSignal> held_signals_;
  std::optional<Migration> migration_;
  // Moved in, and still bringing pages.
  std::unique_ptr<MigrationDestination> paging_;
  std::unique_ptr<FileWarmer> warmer_;  // of the last move here
  std::uint64_t paging_id_ = 0;
  wire::MigrationPagesLost early_loss_;  // heard of before the migration was over here
  bool paging_done_ = false;             // but a migration's thread may still look at it
  bool leaving_ = false;
  std::optional<Clock::time_point> leaving_since_;
  wire::Message incoming_request_;  // PrepareIncoming, answered once we listen
};

}  // namespace gestalt
