#include "daemon/job_table.h"

#include <set>

#include "common/format.h"
#include "common/log.h"

namespace gestalt {

wire::JobInfo Job::info() const {
  wire::JobInfo out;
  out.set_job_id(record.job_id);
  out.set_pid(record.root_pid);
  out.set_stand_in_pid(record.stand_in_pid);
  out.set_node(record.node);
  out.set_uid(record.uid);
  out.set_command(record.command);
  out.set_state(record.state);
  out.set_wait_status(record.wait_status);
  out.set_started_unix_seconds(record.started_unix_seconds);
  out.set_network_address(record.network_address);
  out.set_has_deputy(record.has_deputy);
  out.set_session_pid(record.session_pid);
  out.set_group_pid(record.group_pid);
  return out;
}

Result<std::uint32_t> JobTable::free_address(const Ipv4Range& range) {
  std::set<std::uint32_t> used;
  for (const auto& [id, job] : jobs_) used.insert(job.record.network_address);
  for (std::uint32_t i = 0; i < range.count; ++i) {
    auto address = range.first + next_address_++ % range.count;
    if (!used.contains(address)) return address;
  }
  return fail(ErrorCode::kNoSpace, formatted("all {} addresses are taken by jobs", range.count),
              "wait for a job to end, or give jobs.network a larger range");
}

Result<void> JobTable::load(Clock::time_point now) {
  GESTALT_ASSIGN(auto records, store_.jobs());
  for (auto& record : records) {
    if (record.state == wire::JOB_MIGRATING) record.state = wire::JOB_RUNNING;
    auto id = record.job_id;
    jobs_[id] = Job{.record = std::move(record), .unowned_until = now + reattach_};
  }
  return {};
}

Result<Job*> JobTable::create(JobRecord record, ClientId owner) {
  GESTALT_ASSIGN(record.job_id, store_.next_id(kJobCounter));
  GESTALT_TRY(store_.upsert_job(record));
  auto id = record.job_id;
  // A deputy attaches when there is one.
  auto unowned_until = owner == 0 ? Deadline::max() : Deadline{};
  return &(jobs_[id] =
               Job{.record = std::move(record), .owner = owner, .unowned_until = unowned_until});
}

Job* JobTable::find(std::uint64_t job_id) {
  auto found = jobs_.find(job_id);
  return found == jobs_.end() ? nullptr : &found->second;
}

Job* JobTable::owned_by(ClientId client) {
  for (auto& [id, job] : jobs_)
    if (job.owner == client && client != 0) return &job;
  return nullptr;
}

Job* JobTable::with_deputy(std::uint32_t pid) {
  for (auto& [id, job] : jobs_)
    if (job.record.has_deputy && job.record.root_pid == pid && !job.ended()) return &job;
  return nullptr;
}

std::set<std::uint32_t> JobTable::deputies() const {
  std::set<std::uint32_t> out;
  for (const auto& [id, job] : jobs_)
    if (job.record.has_deputy && !job.ended()) out.insert(job.record.root_pid);
  return out;
}

std::vector<Job*> JobTable::running_on(const std::string& node) {
  std::vector<Job*> out;
  for (auto& [id, job] : jobs_)
    if (!job.ended() && job.record.node == node) out.push_back(&job);
  return out;
}

Result<void> JobTable::started(Job& job, std::uint32_t pid, std::uint32_t stand_in_pid) {
  job.record.root_pid = pid;
  job.record.stand_in_pid = stand_in_pid;
  job.record.state = wire::JOB_RUNNING;
  return store_.upsert_job(job.record);
}

Result<void> JobTable::exited(Job& job, std::uint32_t wait_status, Clock::time_point now) {
  JobRecord record = job.record;
  record.state = wire::JOB_EXITED;
  record.wait_status = wait_status;
  GESTALT_TRY(store_.upsert_job(record));
  job.record = std::move(record);
  if (job.owner == 0) job.unowned_until = now + reattach_;
  return {};
}

Result<void> JobTable::lost(Job& job, Clock::time_point now) {
  job.record.state = wire::JOB_LOST;
  if (job.owner == 0) job.unowned_until = now + reattach_;
  return store_.upsert_job(job.record);
}

void JobTable::moved(Job& job, const std::string& node, std::uint32_t pid, Clock::time_point now) {
  if (job.record.has_deputy && job.owner == 0) {  // there is one from now on
    job.unowned_until = now + reattach_;
    job.abandoned = false;
  }
  job.record.node = node;
  if (pid != 0) job.record.root_pid = pid;
}

void JobTable::returned(Job& job) {
  job.returned = true;
  job.unowned_until = Deadline::max();
}

void JobTable::forget(std::uint64_t job_id) {
  jobs_.erase(job_id);
  if (auto removed = store_.remove_job(job_id); !removed)
    log::error("job not removed from the record", log::field("job", job_id),
               log::field("error", removed.error().text()));
}

void JobTable::detach(Job& job, Clock::time_point now) {
  job.owner = 0;
  job.unowned_until = now + reattach_;
}

std::vector<Job*> JobTable::tick(Clock::time_point now) {
  std::vector<Job*> out;
  std::vector<std::uint64_t> over;
  for (auto& [id, job] : jobs_) {
    if (job.owner != 0 || job.abandoned || now < job.unowned_until) continue;
    if (job.ended()) {
      over.push_back(id);
    } else {
      job.abandoned = true;
      out.push_back(&job);
    }
  }
  for (auto id : over) forget(id);
  return out;
}

}  // namespace gestalt
