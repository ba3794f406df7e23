// MigrationArbiter: after COMPLETED. The process runs at the destination; what the source
// still has of it is pages, until it reports DONE. Whatever happens from here on, there is
// no way back: the source's copy is older than what the destination has done since.

#include "common/format.h"
#include "common/log.h"
#include "common/migration_modes.h"
#include "daemon/migration_arbiter.h"

namespace gestalt {
namespace {

using Kind = ArbiterAction::Kind;
using Outcome = wire::MigrationOutcome;

// For a source whose pages nobody wants any more to free them and say so.
constexpr auto kSettleTimeout = std::chrono::seconds(5);
// For an adopted one to say what it still has.
constexpr auto kDoneTimeout = std::chrono::seconds(30);
constexpr char kNobodyWants[] = "nobody wants the pages any more";

bool has_ended(const JobRecord& job) {
  return job.state == wire::JOB_EXITED || job.state == wire::JOB_LOST;
}

}  // namespace

void MigrationArbiter::completed_source_outcome(Migration& migration, const Outcome& outcome,
                                                Clock::time_point now, ArbiterActions& out) {
  switch (outcome.state()) {
    case Outcome::PENDING:
      return tell_verdict(migration, migration.record.source, out);
    case Outcome::SERVING:
      return serving(migration, outcome, now, out);
    case Outcome::DONE:
      deliver_late_signals(migration, outcome, out);
      migration.stats = outcome.stats();
      return finish(migration, migration.failure, out);
    case Outcome::FAILED:
      return source_lost(migration,
                         outcome.error().message().empty()
                             ? formatted("{} has lost them", migration.record.source)
                             : outcome.error().message(),
                         out);
    default:
      return;
  }
}

// Once, though the outcome that carries them may come again after a reconnect.
void MigrationArbiter::deliver_late_signals(Migration& migration, const Outcome& outcome,
                                            ArbiterActions& out) {
  if (std::exchange(migration.late_signals_sent, true) || outcome.late_signals_size() == 0) return;
  auto late = action(Kind::kLateSignals, migration, migration.record.destination);
  late.late_signals.assign(outcome.late_signals().begin(), outcome.late_signals().end());
  out.push_back(std::move(late));
}

void MigrationArbiter::serving(Migration& migration, const Outcome& outcome, Clock::time_point now,
                               ArbiterActions& out) {
  deliver_late_signals(migration, outcome, out);
  migration.stats = outcome.stats();
  bool is_first = !std::exchange(migration.serving, true);
  if (migration.unwanted) {
    if (is_first) migration.deadline = now + kSettleTimeout;
    return nobody_wants_pages(migration, out);
  }
  migration.deadline = Deadline::max();
  if (is_first)
    log::info("pages follow", log::field("migration", migration.record.migration_id),
              log::field("from", migration.record.source),
              log::field("to", migration.record.destination));
  if (migration.answer_when_resumed) reply(migration, std::nullopt, out);
}

// In eager and pre-copy mode there is nothing to lose any more.
void MigrationArbiter::source_lost(Migration& migration, const std::string& why,
                                   ArbiterActions& out) {
  bool needed = migration.serving || pages_follow(migration.record.mode);
  if (needed && !migration.unwanted) return job_lost_its_pages(migration, why, out);
  finish(migration, migration.failure, out);
}

// Nothing brings the missing pages back. Here a job that has a checkpoint is to be started
// from it; one that has none ends, by the hand of its stand-in when that hears of it.
void MigrationArbiter::job_lost_its_pages(Migration& migration, const std::string& why,
                                          ArbiterActions& out) {
  if (ended_.contains(migration.record.migration_id)) return;
  migration.pages_lost = true;
  auto lost = action(Kind::kPagesLost, migration, migration.record.destination);
  lost.reason = why;
  out.push_back(std::move(lost));
  log::error("pages lost", log::field("migration", migration.record.migration_id),
             log::field("job", migration.record.job_id), log::field("pid", migration.pid),
             log::field("reason", why));
  finish(migration,
         Error{ErrorCode::kUnavailable,
               formatted("process {} ran on {} already, but pages it still needed were on {}: {}",
                         migration.pid, migration.record.destination, migration.record.source, why),
               "start it again; modes eager and pre-copy leave nothing behind at the source"},
         out);
}

// `failure`: of its node; none if the job just ended.
void MigrationArbiter::destination_gone(Migration& migration, std::optional<Error> failure,
                                        Clock::time_point now, ArbiterActions& out) {
  if (std::exchange(migration.unwanted, true)) return;
  migration.failure = std::move(failure);
  if (!migration.serving) return;  // DONE or SERVING is on its way
  migration.deadline = now + kSettleTimeout;
  nobody_wants_pages(migration, out);
}

void MigrationArbiter::nobody_wants_pages(const Migration& migration, ArbiterActions& out) const {
  auto cancel = action(Kind::kCancel, migration, migration.record.source);
  cancel.reason = kNobodyWants;
  out.push_back(std::move(cancel));
}

// Of what is not live: a verdict from the record, or an end to what serves nobody.
void MigrationArbiter::stray_outcome(const Outcome& outcome, const std::string& node,
                                     ArbiterActions& out) {
  if (outcome.state() == Outcome::PENDING || outcome.state() == Outcome::RESUMED)
    verdict_from_record(outcome, node, out);
  if (outcome.state() != Outcome::SERVING || outcome.role() != Outcome::SOURCE) return;
  Migration migration;
  migration.record.migration_id = outcome.migration_id();
  migration.record.job_id = outcome.job_id();
  migration.record.source = node;
  nobody_wants_pages(migration, out);
}

// After a restart of the leader: a job may need pages of a source that is not there any
// more to say so.
void MigrationArbiter::expect_source(const MigrationRecord& record) {
  unheard_.erase(record.job_id);
  if (!pages_follow(record.mode)) return;
  auto job = store_.find_job(record.job_id);
  if (job && *job && !has_ended(**job) && (*job)->node == record.destination)
    unheard_[record.job_id] = {.record = record, .source_gone_why = {}};
}

// Most likely the job has all its pages, and ignores what it is told here.
void MigrationArbiter::unheard_source_gone(const std::string& node, const std::string& why,
                                           ArbiterActions& out) {
  for (auto& [job_id, unheard] : unheard_) {
    if (unheard.record.source != node || !unheard.source_gone_why.empty()) continue;
    unheard.source_gone_why = why;
    Migration migration{.record = unheard.record};
    auto lost = action(Kind::kPagesLost, migration, unheard.record.destination);
    lost.reason = why;
    out.push_back(std::move(lost));
  }
}

// The destination may have been away when it was told.
void MigrationArbiter::remind_of_lost_pages(const std::string& node, ArbiterActions& out) const {
  for (const auto& [job_id, unheard] : unheard_) {
    if (unheard.source_gone_why.empty() || unheard.record.destination != node) continue;
    Migration migration{.record = unheard.record};
    auto lost = action(Kind::kPagesLost, migration, node);
    lost.reason = unheard.source_gone_why;
    out.push_back(std::move(lost));
  }
  for (const auto& [id, past] : history_.entries()) {
    if (!past.pages_lost || past.stats.destination() != node) continue;
    ArbiterAction lost{.kind = Kind::kPagesLost};
    lost.migration_id = id;
    lost.job_id = past.job_id;
    lost.node = node;
    lost.reason = past.stats.error();
    out.push_back(std::move(lost));
  }
}

std::optional<std::uint64_t> MigrationArbiter::hurry(std::uint64_t job_id,
                                                     ArbiterActions& actions) {
  for (auto& [id, migration] : live_) {
    if (migration.record.job_id != job_id || !migration.serving) continue;
    migration.hurried = true;
    actions.push_back(action(Kind::kHurry, migration, migration.record.destination));
    return id;
  }
  return std::nullopt;
}

void MigrationArbiter::adopt_completed(const std::vector<Outcome>& pending, const std::string& node,
                                       Clock::time_point now) {
  for (const auto& each : pending)
    if (!live_.contains(each.migration_id()))
      (void)adopt(each, node, now);  // if not, node_connected() tells the node what to do
}

// Only while the job still runs where that migration brought it.
bool MigrationArbiter::adopt(const Outcome& outcome, const std::string& node,
                             Clock::time_point now) {
  auto id = outcome.migration_id();
  const auto* past = history_.find(id);
  bool again = outcome.state() == Outcome::PENDING || outcome.state() == Outcome::SERVING;
  bool for_the_first_time = outcome.state() == Outcome::DONE && past == nullptr;
  if (outcome.role() != Outcome::SOURCE || (!again && !for_the_first_time)) return false;
  if (past != nullptr && past->stats.state() == "failed") return false;
  auto record = store_.find_migration(id);
  if (!record || !*record || (*record)->verdict != Verdict::kCompleted || (*record)->source != node)
    return false;
  auto job = store_.find_job((*record)->job_id);
  if (!job || !*job || has_ended(**job) || (*job)->node != (*record)->destination) return false;
  Migration migration{.record = **record};
  migration.pid = (*job)->root_pid;
  migration.stand_in_pid = (*job)->stand_in_pid;
  migration.uid = (*job)->uid;
  migration.command = (*job)->command;
  migration.outgoing_started = true;
  migration.destination_resumed = true;
  migration.completion_tried = true;
  migration.replied = true;
  migration.began = now;
  migration.deadline = now + kDoneTimeout;
  log::info("migration taken up again", log::field("migration", id),
            log::field("job", migration.record.job_id), log::field("source", node));
  history_.remove(id);
  unheard_.erase(migration.record.job_id);
  live_.emplace(id, std::move(migration));
  return true;
}

MigrationEntry MigrationArbiter::entry(const Migration& migration, std::string_view state,
                                       const std::optional<Error>& error) {
  MigrationEntry out{.uid = migration.uid,
                     .job_id = migration.record.job_id,
                     .pages_lost = migration.pages_lost,
                     .stats = migration.stats};
  auto& stats = out.stats;
  stats.set_migration_id(migration.record.migration_id);
  stats.set_source(migration.record.source);
  stats.set_destination(migration.record.destination);
  stats.set_mode(migration.record.mode);
  if (stats.pid() == 0) stats.set_pid(migration.pid);
  stats.set_command(migration.command);
  stats.set_started_unix_seconds(migration.record.started_unix_seconds);
  stats.set_state(std::string(state));
  if (error) stats.set_error(error->message);
  return out;
}

std::vector<MigrationEntry> MigrationArbiter::listing() const {
  std::map<std::uint64_t, MigrationEntry> all = history_.entries();
  for (const auto& [id, migration] : live_) {
    bool failed = migration.record.verdict == Verdict::kDenied ||
                  migration.record.verdict == Verdict::kRolledBack;
    std::string_view state = failed ? "failed" : migration.serving ? "paging" : "migrating";
    all.insert_or_assign(id, entry(migration, state, migration.failure));
  }
  std::vector<MigrationEntry> out;
  out.reserve(all.size());
  for (auto& [id, each] : all) out.push_back(std::move(each));
  return out;
}

}  // namespace gestalt
