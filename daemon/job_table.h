// The leader's jobs: in memory for routing, in the store for restarts. Not thread-safe.
#pragma once

#include <map>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "common/clock.h"
#include "common/ipv4.h"
#include "daemon/store.h"

namespace gestalt {

using ClientId = std::uint64_t;  // 0: nobody

struct Job {
  JobRecord record;
  ClientId owner = 0;        // the client connection that has its stdio
  Deadline unowned_until{};  // valid while there is no owner: abandoned after it
  bool abandoned = false;
  bool recalled = false;        // its deputy was asked to make room, and may be replaced
  bool returned = false;        // home again: there is no deputy, and soon no job
  bool deputy_stopped = false;  // known from the deputy's own state: its job's stop is no news
  [[nodiscard]] bool ended() const {
    return record.state == wire::JOB_EXITED || record.state == wire::JOB_LOST;
  }
  [[nodiscard]] wire::JobInfo info() const;
};

class JobTable {
 public:
  // The store must outlive it. A job without a client is kept for `reattach`.
  JobTable(Store& store, Clock::duration reattach) : store_(store), reattach_(reattach) {}

  // After a restart nobody owns any job.
  [[nodiscard]] Result<void> load(Clock::time_point now);
  // Gives the record its id and records it.
  [[nodiscard]] Result<Job*> create(JobRecord record, ClientId owner);

  // That no job has. kNoSpace.
  [[nodiscard]] Result<std::uint32_t> free_address(const Ipv4Range& range);

  // Null if unknown. Valid until the job is forgotten.
  [[nodiscard]] Job* find(std::uint64_t job_id);
  [[nodiscard]] Job* owned_by(ClientId client);
  // The one that has its root's deputy under this pid on the leader, or is to have it.
  [[nodiscard]] Job* with_deputy(std::uint32_t pid);
  // Of all jobs: the pids of these.
  [[nodiscard]] std::set<std::uint32_t> deputies() const;
  [[nodiscard]] std::vector<Job*> running_on(const std::string& node);

  [[nodiscard]] Result<void> started(Job& job, std::uint32_t pid, std::uint32_t stand_in_pid);
  [[nodiscard]] Result<void> exited(Job& job, std::uint32_t wait_status, Clock::time_point now);
  [[nodiscard]] Result<void> lost(Job& job, Clock::time_point now);
  // It is where its deputy was, and needs no client any more.
  void returned(Job& job);
  // The arbiter has recorded the move already.
  void moved(Job& job, const std::string& node, std::uint32_t pid, Clock::time_point now);
  // It never ran, or its end was delivered.
  void forget(std::uint64_t job_id);

  void attach(Job& job, ClientId client) {
    job.owner = client;
    job.recalled = false;
  }
  void detach(Job& job, Clock::time_point now);
  // Jobs whose client did not come back: running ones are marked as abandoned and
  // returned, ended ones forgotten.
  [[nodiscard]] std::vector<Job*> tick(Clock::time_point now);

 private:
  Store& store_;
  Clock::duration reattach_;
  std::map<std::uint64_t, Job> jobs_;
  std::uint32_t next_address_ = 0;  // used ones come again late
};

}  // namespace gestalt
