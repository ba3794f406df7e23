// The leader: knows all nodes and jobs, places and routes, decides on migrations. Its
// parts are in leader_nodes.cc (agents, joining, un-merging), leader_jobs.cc (jobs and
// their clients), leader_deputies.cc (what stays of
// processes that leave their parents), leader_migration_requests.cc (what users ask about
// migrations) and leader_migrations.cc (what the arbiter wants done).
#pragma once

#include <set>

#include "common/fd.h"
#include "common/unix_socket.h"
#include "daemon/cluster_state_dir.h"
#include "daemon/config.h"
#include "daemon/connection.h"
#include "daemon/job_table.h"
#include "daemon/leader_view.h"
#include "daemon/membership.h"
#include "daemon/migration_arbiter.h"
#include "daemon/pid_slices.h"
#include "daemon/placement.h"
#include "daemon/server.h"
#include "daemon/store.h"

namespace gestalt {

class Leader {
 public:
  // The configuration must outlive it.
  [[nodiscard]] static Result<std::unique_ptr<Leader>> start(asio::io_context& context,
                                                             const Config& config);
  // Listens no more and drops the agents; they come back to the next leader.
  void stop();

  // ------------------------------------------------------------ for the client API
  // Every client connection that may own a job gets a number. `process` is the client's
  // pidfd, if there is one.
  [[nodiscard]] ClientId add_client(std::shared_ptr<Connection> connection, Fd process);
  void remove_client(ClientId client);
  // Stdio, signals and the like of the job that the client owns.
  void client_message(ClientId client, const wire::Message& message);

  [[nodiscard]] Result<wire::NodeListReply> list_nodes(const std::string& set);
  [[nodiscard]] Result<void> drain(const std::string& node, bool drain);
  // The spec is complete and checked, but for its job id and address.
  [[nodiscard]] Result<wire::RunReply> run(ClientId client, wire::RunRequest request);
  // On success the caller replies and then calls attached().
  [[nodiscard]] Result<wire::AttachReply> attach(ClientId client, uid_t uid, std::uint64_t job_id);
  void attached(std::uint64_t job_id);
  // `preflight`: also what speaks against moving the jobs that are `uid`'s to manage.
  [[nodiscard]] Awaitable<Result<wire::TaskListReply>> list_tasks(uid_t uid, bool preflight);
  [[nodiscard]] Awaitable<wire::KillReply> kill(uid_t uid, wire::KillRequest request);
  [[nodiscard]] Awaitable<Result<wire::MigrateReply>> migrate(ClientId client, uid_t uid,
                                                              wire::MigrateRequest request);
  // Those that this user may see; 0: all.
  [[nodiscard]] Result<wire::MigrationListReply> list_migrations(uid_t uid,
                                                                 std::uint64_t migration_id);

 private:
  // For a job that is to have its own.
  [[nodiscard]] Result<std::uint32_t> own_address();
  struct AgentSession {
    std::shared_ptr<Connection> connection;
    ConnectionId id = 0;
  };
  struct NodeFacts {
    NodeRecord record;
    wire::AgentHello hello;  // its jobs and migrations left out
    std::string task_source = {};
    std::string task_source_reason = {};
    std::string task_events = {};
    std::string task_events_reason = {};
  };
  struct Client {
    std::shared_ptr<Connection> connection;
    Fd process;
    pid_t pid = 0;  // of `process`, as the leader's /proc has it; 0: not known
    // Of a deputy: the other member of its group (cli/group_witness.h).
    Fd witness;
    pid_t witness_pid = 0;
  };
  struct Waiting {
    std::shared_ptr<Promise<ArbiterAction>> answer;
    ClientId client = 0;
  };
  struct FoundTask {
    std::string node;
    wire::Task task;
  };
  Leader(asio::io_context& context, const Config& config, ClusterState state,
         std::unique_ptr<Store> store, PidSlices slices);

  // leader.cc
  [[nodiscard]] Result<void> restore();
  static Awaitable<> tick_loop(Leader* self);
  bool send_to(const std::string& node, const wire::Message& message);
  [[nodiscard]] Awaitable<Result<wire::Message>> ask(std::string node, wire::Message message,
                                                     Clock::duration timeout);
  void send_to_client(ClientId client, const wire::Message& message);
  // A client stops with its job (Ctrl-Z), and then cannot read that the job goes on.
  void wake_client(ClientId client);
  [[nodiscard]] std::string known_nodes() const;
  [[nodiscard]] std::string unknown_node_remedy() const;
  [[nodiscard]] Result<void> check_usable(const std::string& node) const;
  [[nodiscard]] wire::NodeInfo node_info(const Member& member, Clock::time_point now);
  [[nodiscard]] std::vector<std::string> reachable_nodes() const;
  [[nodiscard]] std::vector<wire::ViewNode> merged_nodes() const;

  // leader_nodes.cc
  void on_peer(std::shared_ptr<Connection> connection, TlsPeer peer,
               std::shared_ptr<UnauthenticatedSlot> slot);
  void serve_joining(std::shared_ptr<Connection> connection, std::string address,
                     std::shared_ptr<UnauthenticatedSlot> slot);
  void serve_agent(std::shared_ptr<Connection> connection, TlsPeer peer);
  [[nodiscard]] Result<wire::JoinReply> join(const wire::JoinRequest& request,
                                             const std::string& address);
  [[nodiscard]] Result<NodeRecord> record_node(const std::string& name, const std::string& address,
                                               const std::string& fingerprint);
  void on_hello(const std::shared_ptr<Connection>& connection, const TlsPeer& peer,
                const wire::Message& message);
  [[nodiscard]] std::vector<std::uint32_t> pids_of_jobs();
  [[nodiscard]] Result<wire::AgentWelcome> admit(const std::shared_ptr<Connection>& connection,
                                                 const TlsPeer& peer, const wire::AgentHello& hello,
                                                 bool& same_boot);
  void on_agent_message(const std::string& node, ConnectionId id, wire::Message message);
  void on_heartbeat(const std::string& node, ConnectionId id, const wire::Heartbeat& heartbeat);
  void on_view_delta(const std::string& node, wire::Message message);
  void act(const Transitions& transitions);
  void un_merge(const std::string& node);
  void remember_leaving(const std::string& node, bool cleanly);

  // leader_jobs.cc
  void reconcile(const std::string& node, const wire::AgentHello& hello, bool same_boot,
                 wire::AgentWelcome& welcome);
  void reconcile_one(const std::string& node, const wire::JobInfo& info,
                     wire::AgentWelcome& welcome);
  void missing_job(Job& job, const std::string& node, bool same_boot);
  void resync_clients(const std::string& node);
  void from_job(const std::string& node, std::uint64_t job_id, const wire::Message& message);
  void on_job_started(const std::string& node, const wire::JobStarted& started);
  void on_job_returned(const std::string& node, std::uint64_t job_id);
  void on_job_start_failed(const std::string& node, const wire::JobStartFailed& failed);
  void on_job_exited(const std::string& node, std::uint64_t job_id, std::uint32_t wait_status);
  void lose(Job& job, const std::string& node);
  void acknowledge_exit(const std::string& node, std::uint64_t job_id);
  // kNotFound; kUnavailable if a node that may have it did not say.
  [[nodiscard]] Awaitable<Result<FoundTask>> find_task(std::uint32_t pid);
  [[nodiscard]] Awaitable<std::optional<FoundTask>> find_task_on(
      std::vector<std::string> nodes, std::uint32_t pid, std::set<std::string>* silent = nullptr);
  [[nodiscard]] Awaitable<Result<void>> kill_one(uid_t uid, std::uint32_t pid,
                                                 std::uint32_t signal);

  // leader_deputies.cc
  [[nodiscard]] bool would_leave_deputy(const FoundTask& found);
  [[nodiscard]] Result<void> may_leave(const FoundTask& found, uid_t uid,
                                       const wire::MigrateRequest& request);
  // Makes it a job of its own, as which `found` has it then.
  [[nodiscard]] Awaitable<Result<void>> adopt(FoundTask& found);
  // Unless it is leaving.
  void give_back(std::uint64_t job_id);
  void adopted(std::uint64_t job_id, Result<void> outcome);
  [[nodiscard]] Awaitable<Result<wire::MigrateReply>> preflight_of(FoundTask found,
                                                                   wire::MigrateRequest request);
  [[nodiscard]] bool comes_home(const Job& job, const std::string& node) const;
  // So that it can be paused, and make room.
  void recall_deputy(std::uint64_t job_id);
  // After a migration home: until there is a deputy again, or none is needed; not for ever.
  Awaitable<> await_deputy(std::uint64_t job_id);
  // Of what has come home with pages to follow, until it is no job any more.
  Awaitable<> await_returned(std::uint32_t pid);
  static void find_witness(Client& client);
  static Awaitable<> deputy_gone(Leader* self, std::uint64_t job_id, Client client);
  void look_at_deputies();

  // leader_migration_requests.cc
  [[nodiscard]] Result<Job*> migratable_job(const FoundTask& found, uid_t uid);
  [[nodiscard]] Result<MigrationArbiter::Plan> plan_migration(const FoundTask& found, uid_t uid,
                                                              const wire::MigrateRequest& request);
  [[nodiscard]] Awaitable<Result<wire::MigrateReply>> migrate_found(ClientId client, uid_t uid,
                                                                    FoundTask found,
                                                                    wire::MigrateRequest request);
  [[nodiscard]] Awaitable<Result<wire::MigrateReply>> migrate_now(ClientId client,
                                                                  MigrationArbiter::Plan plan);
  [[nodiscard]] Awaitable<Result<bool>> pages_first(const MigrationArbiter::Plan& plan);
  [[nodiscard]] Awaitable<Result<wire::MigrateReply>> preflight(MigrationArbiter::Plan plan);
  [[nodiscard]] Awaitable<Result<void>> look_for_rdma(std::string source, std::string destination);
  [[nodiscard]] Awaitable<> add_transport(std::string wanted, std::uint32_t pid,
                                          wire::PreflightReport& report);
  [[nodiscard]] Awaitable<> add_home_blockers(std::uint32_t pid, wire::PreflightReport& report);

  // leader_migrations.cc
  void perform(const ArbiterActions& actions);
  void perform_one(const ArbiterAction& action);
  static Awaitable<> prepare(Leader* self, std::string node, wire::PrepareIncoming request);
  [[nodiscard]] wire::MigrationDestination destination_facts(const std::string& source,
                                                             const std::string& destination);
  void start_outgoing(const ArbiterAction& action);
  void job_moved(const ArbiterAction& action);
  void late_signals(const ArbiterAction& action);
  void source_exited(const ArbiterAction& action);
  void forward_progress(const wire::Message& message);

  asio::io_context& context_;
  const Config& config_;
  ClusterState state_;
  std::unique_ptr<Store> store_;
  PidSlices slices_;
  Membership membership_;
  Placement placement_;
  JobTable jobs_;
  MigrationArbiter arbiter_;
  LeaderView view_;
  std::unique_ptr<TlsServer> server_;
  std::map<std::string, AgentSession> agents_;
  std::map<std::string, NodeFacts> facts_;
  std::map<ClientId, Client> clients_;
  ClientId next_client_ = 1;
  std::map<std::uint64_t, Waiting> waiting_;                                  // by migration
  std::map<std::uint64_t, std::shared_ptr<Promise<Result<void>>>> adopting_;  // by job
  Clock::time_point deputies_looked_at_{};
  // Who waits for a migration's last pages, to move the job again.
  std::multimap<std::uint64_t, std::shared_ptr<Promise<ArbiterAction>>> settling_;
  bool stopped_ = false;
};

}  // namespace gestalt
