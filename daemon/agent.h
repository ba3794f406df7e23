// The node agent: one on every node, the leader's included. Ties together the link to
// the leader, the cluster init, and the jobs; answers the leader's questions.
#pragma once

#include "daemon/agent_init.h"
#include "daemon/agent_jobs.h"
#include "daemon/agent_link.h"
#include "daemon/agent_view.h"
#include "daemon/done_signals.h"
#include "daemon/sources/task_sources.h"
#include "daemon/tasks.h"

namespace gestalt {

class Agent {
 public:
  // The configuration must outlive it.
  Agent(asio::io_context& context, const Config& config, std::string criu_version);

  [[nodiscard]] Result<void> start();
  // Tells the leader; jobs and the cluster init stay.
  void stop();

 private:
  static Awaitable<> begin(Agent* self);
  static Awaitable<> start_job(Agent* self, wire::JobSpec spec);
  static Awaitable<> adopt(Agent* self, wire::AdoptProcess request);
  static Awaitable<> prepare_incoming(Agent* self, std::uint64_t request_id,
                                      wire::PrepareIncoming prepare);
  static Awaitable<> preflight(Agent* self, std::uint64_t request_id,
                               wire::PreflightRequest request);
  // `address`: from here to there; empty: to here.
  static Awaitable<> tell_rdma(Agent* self, std::uint64_t request_id, std::string address);
  static Awaitable<> kill_task(Agent* self, std::uint64_t request_id,
                               wire::NodeKillRequest request);
  static Awaitable<> kill_together(Agent* self, std::uint64_t request_id,
                                   wire::NodeKillBatch batch);
  [[nodiscard]] Awaitable<Result<wire::Message>> kill(wire::NodeKillRequest request);
  struct KillTarget {
    Fd process;                            // as open_process() has it
    std::shared_ptr<Connection> stand_in;  // whose job's it is
  };
  [[nodiscard]] Result<KillTarget> kill_target(const wire::NodeKillRequest& request) const;
  [[nodiscard]] Awaitable<Result<std::shared_ptr<Connection>>> incoming_stand_in(
      const wire::PrepareIncoming& prepare);

  void on_welcome(const wire::AgentWelcome& welcome);
  void on_leader_message(wire::Message message);
  static Awaitable<> tell_tasks(Agent* self, std::uint64_t request_id, bool preflight);
  [[nodiscard]] Result<wire::Message> task_list();
  [[nodiscard]] Result<wire::Message> find_pid(std::uint32_t pid) const;
  [[nodiscard]] wire::Heartbeat heartbeat();
  void write_load_file(const wire::Heartbeat& load);
  [[nodiscard]] TaskView task_view() const;
  void fetch(std::uint64_t request_id, wire::ViewFetch request);

  asio::io_context& context_;
  const Config& config_;
  std::string criu_version_;
  double cpus_ = 0;
  AgentJobs jobs_;
  InitClient init_;
  LeaderLink link_;
  TaskSources sources_;
  AgentView view_;
  asio::thread_pool readers_{1};  // of files that may take long
  std::uint32_t pid_first_ = 0;
  std::uint32_t pid_last_ = 0;
  TaskCounter task_counter_;
  DoneSignals done_signals_;
  bool load_file_failed_ = false;
};

}  // namespace gestalt
