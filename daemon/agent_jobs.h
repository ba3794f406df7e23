// The jobs of a node and their stand-ins: which connection serves which job, what is
// known of each, and what the leader must still hear. Messages between the leader and a
// stand-in pass through here.
#pragma once

#include <set>

#include "daemon/connection.h"
#include "daemon/job_cgroup.h"
#include "daemon/server.h"
#include "daemon/task_scanner.h"

namespace gestalt {

class AgentJobs {
 public:
  struct Hooks {
    // False if there is no leader to hear it now; it hears what matters when it is back.
    std::function<bool(const wire::Message&)> to_leader;
  };
  AgentJobs(asio::io_context& context, std::string node, JobCgroups cgroups, Hooks hooks);

  [[nodiscard]] Result<void> listen(const std::string& socket_path);
  void close();
  // After a restart of the daemon: jobs whose processes are there and whose stand-ins
  // did not come within `timeout` are ended.
  [[nodiscard]] Awaitable<> readopt(Clock::duration timeout);

  // A new job: registers it, and its stand-in when that says hello.
  [[nodiscard]] Result<void> expect(const wire::JobSpec& spec);
  [[nodiscard]] Awaitable<Result<std::shared_ptr<Connection>>> wait_for_job(std::uint64_t job_id);
  void start_failed(std::uint64_t job_id, const Error& error);
  // A process of another job that is to become one of its own.
  [[nodiscard]] Result<void> expect_adopted(const wire::AdoptProcess& request);
  // The same for a process that is to come here from another node.
  [[nodiscard]] Result<void> expect_incoming(const wire::PrepareIncoming& prepare);
  [[nodiscard]] Awaitable<Result<std::shared_ptr<Connection>>> wait_for_incoming(
      std::uint64_t migration_id);
  void incoming_failed(std::uint64_t migration_id, const Error& error);

  // From the leader. False: nobody here handles this message.
  bool from_leader(const wire::Message& message);
  // Not on the leader's record: ended without a report.
  void discard(std::uint64_t job_id, std::string_view why);
  // The cluster pid namespace is gone, and all jobs with it.
  void all_gone();
  // New connection to the leader: stand-ins send again what is not acknowledged.
  void resync();
  void fill_hello(wire::AgentHello& hello) const;
  // What the last hello carried has arrived.
  void hello_delivered();

  // The stand-in that has this job; null: none here.
  [[nodiscard]] std::shared_ptr<Connection> stand_in_of(std::uint64_t job_id) const;
  [[nodiscard]] std::uint32_t stand_in_pid_of(std::uint64_t job_id) const;
  [[nodiscard]] std::map<std::uint64_t, std::uint32_t> roots() const;
  [[nodiscard]] std::uint32_t running() const;
  // What runs on another node by now. Its processes here, frozen, only keep pages for it.
  struct Departed {
    std::set<std::uint64_t> jobs;
    std::set<std::uint32_t> stand_in_pids;
  };
  [[nodiscard]] Departed departed() const;
  // Stand-ins that have the pid of a parent on the leader.
  [[nodiscard]] std::set<std::uint32_t> borrowed_pids() const;
  // What the single view must not show of this node: also what is only just moving in.
  [[nodiscard]] TaskScanner::Hidden not_shown() const;

 private:
  using ConnectionPromise = std::shared_ptr<Promise<std::shared_ptr<Connection>>>;
  struct LocalJob {
    wire::JobInfo info;
    std::shared_ptr<Connection> stand_in;
    ConnectionPromise waiting;
    bool adopted = false;  // of another job: not ours to end
  };
  struct LocalMigration {
    wire::MigrationOutcome outcome;
    std::shared_ptr<Connection> stand_in;
    ConnectionPromise waiting;
    std::uint32_t stand_in_pid = 0;
    bool arriving = false;  // a destination that has not resumed
    bool departed = false;  // a source that has heard COMPLETED: the job is not here any more
    bool heard = false;     // the leader got its final outcome
    wire::PrepareIncoming prepare;  // what is of interest later
    std::unique_ptr<Watchdog> clean_up;
  };

  [[nodiscard]] Result<void> expect_job(wire::JobInfo info);
  void on_connection(std::shared_ptr<Connection> connection);
  void on_hello(const std::shared_ptr<Connection>& connection, const wire::StandInHello& hello);
  void adopt_job(const std::shared_ptr<Connection>& connection, const wire::StandInHello& hello);
  void on_message(const std::shared_ptr<Connection>& connection, wire::Message message);
  void on_outcome(const std::shared_ptr<Connection>& connection,
                  const wire::MigrationOutcome& outcome);
  void on_closed(const std::shared_ptr<Connection>& connection, const Error& reason);
  void arrived(LocalMigration& migration);
  void depart(LocalMigration& migration);
  void departed_copy_ended(std::uint64_t migration_id, const std::string& why);
  [[nodiscard]] bool departed_exit(const std::shared_ptr<Connection>& connection,
                                   const wire::JobExited& exited);
  void ended(std::uint64_t job_id, std::uint32_t wait_status);
  void forget_job(std::uint64_t job_id);
  void remove_cgroup(std::uint64_t job_id);
  static Awaitable<> remove_later(AgentJobs* self, std::uint64_t job_id);
  [[nodiscard]] bool is_here(std::uint64_t job_id) const;
  bool verdict(const wire::Message& message);
  bool to_job(std::uint64_t job_id, const wire::Message& message);
  bool to_migration(std::uint64_t migration_id, const wire::Message& message);
  bool cancel(const wire::Message& message);
  void started_outgoing(const wire::StartOutgoing& start);

  asio::io_context& context_;
  std::string node_;
  JobCgroups cgroups_;
  Hooks hooks_;
  std::unique_ptr<LocalServer> server_;
  std::map<std::uint64_t, LocalJob> jobs_;
  std::map<std::uint64_t, LocalMigration> migrations_;
  std::map<const Connection*, std::set<std::uint32_t>> borrowed_;  // by stand-in
  std::set<std::uint64_t> cancelled_;  // the latest: a cancellation may overtake what it is of
};

}  // namespace gestalt
