#include "daemon/migration_arbiter.h"

#include <algorithm>

#include "common/fault.h"
#include "common/format.h"
#include "common/log.h"

namespace gestalt {
namespace {

using Kind = ArbiterAction::Kind;
using Outcome = wire::MigrationOutcome;

// After a failure, for the source to thaw and say so; the job counts as migrating so long.
constexpr auto kSettleTimeout = std::chrono::seconds(5);
// For the end that caused a failure to give its reason, after the other's complaint.
constexpr auto kReasonTimeout = std::chrono::seconds(1);
// After the commit, for the source to clean up and send its figures.
constexpr auto kDoneTimeout = std::chrono::seconds(30);
// A granted migration whose destination neither resumes nor fails is logged this often.
constexpr auto kGrantedReminder = std::chrono::seconds(30);

Error error_of(const wire::MigrationOutcome& outcome, const char* otherwise) {
  if (!outcome.has_error()) return Error{ErrorCode::kUnavailable, otherwise, {}};
  Error error;
  auto code = outcome.error().code();
  error.code = code >= wire::ERROR_INTERNAL && code <= wire::ERROR_EXEC_DENIED
                   ? static_cast<ErrorCode>(code)
                   : ErrorCode::kInternal;
  error.message = outcome.error().message();
  error.remedy = outcome.error().remedy();
  return error;
}

}  // namespace

ArbiterAction MigrationArbiter::action(Kind kind, const Migration& migration, std::string node) {
  ArbiterAction out{.kind = kind};
  out.migration_id = migration.record.migration_id;
  out.job_id = migration.record.job_id;
  out.node = std::move(node);
  return out;
}

Result<void> MigrationArbiter::restore(Clock::time_point now) {
  GESTALT_ASSIGN(auto records, store_.migrations());
  for (auto& record : records) {
    if (record.verdict == Verdict::kUndecided) {
      GESTALT_ASSIGN(bool changed,
                     store_.compare_and_set_verdict(record.migration_id, Verdict::kUndecided,
                                                    Verdict::kDenied, "the leader restarted"));
      if (changed) log::info("migration denied", log::field("migration", record.migration_id));
    } else if (record.verdict == Verdict::kGranted) {
      Migration migration{.record = record};
      migration.outgoing_started = true;
      migration.replied = true;
      migration.began = now;
      migration.deadline = now + kGrantedReminder;
      live_.emplace(record.migration_id, std::move(migration));
    } else if (record.verdict == Verdict::kCompleted) {
      expect_source(record);
    }
  }
  return {};
}

Result<std::uint64_t> MigrationArbiter::begin(Plan plan, Clock::time_point now,
                                              ArbiterActions& actions) {
  if (const Migration* other = of_job(plan.job_id))
    return fail(ErrorCode::kBusy,
                formatted("process {} is migrating from {} to {} already", plan.pid,
                          other->record.source, other->record.destination),
                "wait until that is over");
  if (under_way() >= max_concurrent_)
    return fail(ErrorCode::kBusy, formatted("{} migrations are under way already", under_way()),
                "wait, or raise migration.max_concurrent in the leader's configuration");
  GESTALT_TRY(fault_point(Fault::kLeaderPrepare));
  Migration migration;
  GESTALT_ASSIGN(migration.record.migration_id, store_.next_id(kMigrationCounter));
  migration.record.job_id = plan.job_id;
  migration.record.source = std::move(plan.source);
  migration.record.destination = std::move(plan.destination);
  migration.record.mode = plan.options.mode();
  migration.record.started_unix_seconds = plan.now_unix_seconds;
  GESTALT_TRY(store_.insert_migration(migration.record));
  migration.pid = plan.pid;
  migration.stand_in_pid = plan.stand_in_pid;
  migration.uid = plan.uid;
  migration.command = std::move(plan.command);
  migration.answer_when_resumed = plan.answer_when_resumed;
  migration.began = now;
  migration.deadline = now + std::chrono::duration_cast<Clock::duration>(
                                 std::chrono::duration<double>(plan.options.timeout_seconds()));
  migration.options = std::move(plan.options);
  migration.secret = std::move(plan.secret);
  auto id = migration.record.migration_id;
  unheard_.erase(plan.job_id);
  log::info("migration begins", log::field("migration", id), log::field("job", plan.job_id),
            log::field("pid", plan.pid), log::field("from", migration.record.source),
            log::field("to", migration.record.destination));
  actions.push_back(action(Kind::kPrepare, migration, migration.record.destination));
  live_.emplace(id, std::move(migration));
  return id;
}

ArbiterActions MigrationArbiter::incoming_ready(std::uint64_t migration_id,
                                                Result<wire::IncomingReady> ready,
                                                Clock::time_point now) {
  ArbiterActions out;
  auto found = live_.find(migration_id);
  if (found == live_.end() || found->second.record.verdict != Verdict::kUndecided) return out;
  Migration& migration = found->second;
  if (!ready) {
    deny(migration,
         std::move(ready).error().in(
             formatted("prepare {} for the process", migration.record.destination)),
         now, out);
  } else if (ready->port() == 0 || ready->port() > 65535 || ready->address().empty()) {
    deny(migration, Error{ErrorCode::kProtocol, "the destination gave no address", {}}, now, out);
  } else {
    migration.ready = std::move(*ready);
    migration.outgoing_started = true;
    out.push_back(action(Kind::kStartOutgoing, migration, migration.record.source));
  }
  sweep();
  return out;
}

ArbiterActions MigrationArbiter::ask(std::uint64_t migration_id, const std::string& node,
                                     bool destination_online, Clock::time_point now) {
  ArbiterActions out;
  auto found = live_.find(migration_id);
  if (found == live_.end()) {  // asked again after a reconnect, when all was over
    Outcome pending;
    pending.set_migration_id(migration_id);
    pending.set_role(Outcome::SOURCE);
    verdict_from_record(pending, node, out);
    return out;
  }
  Migration& migration = found->second;
  if (migration.record.source != node) return out;
  if (migration.record.verdict != Verdict::kUndecided) {
    tell_verdict(migration, node, out);
    return out;
  }
  if (!destination_online) {
    deny(migration,
         Error{ErrorCode::kUnavailable,
               formatted("node {} does not answer any more", migration.record.destination),
               {}},
         now, out);
  } else if (auto fault = fault_point(Fault::kLeaderGrant); !fault) {
    deny(migration, fault.error(), now, out);
  } else if (decide(migration, Verdict::kUndecided, Verdict::kGranted, {})) {
    migration.deadline = now + kGrantedReminder;
    tell_verdict(migration, migration.record.source, out);
    tell_verdict(migration, migration.record.destination, out);
  } else {
    deny(migration, Error{ErrorCode::kSystem, "the verdict could not be recorded", {}}, now, out);
  }
  sweep();
  return out;
}

ArbiterActions MigrationArbiter::outcome(const Outcome& outcome, const std::string& node,
                                         Clock::time_point now) {
  ArbiterActions out;
  auto found = live_.find(outcome.migration_id());
  if (found == live_.end()) {
    if (!adopt(outcome, node, now)) {
      stray_outcome(outcome, node, out);
      return out;
    }
    found = live_.find(outcome.migration_id());
  }
  Migration& migration = found->second;
  if (outcome.role() == Outcome::SOURCE && node == migration.record.source)
    source_outcome(migration, outcome, now, out);
  else if (outcome.role() == Outcome::DESTINATION && node == migration.record.destination)
    destination_outcome(migration, outcome, now, out);
  sweep();
  return out;
}

void MigrationArbiter::source_outcome(Migration& migration, const Outcome& outcome,
                                      Clock::time_point now, ArbiterActions& out) {
  Verdict verdict = migration.record.verdict;
  if (verdict == Verdict::kCompleted) {
    completed_source_outcome(migration, outcome, now, out);
  } else if (outcome.state() == Outcome::FAILED) {
    if (verdict == Verdict::kUndecided || verdict == Verdict::kDenied)
      end_failed(migration, error_of(outcome, "the source failed"), now, out);
    // Denied or rolled back: the source says that it has thawed. Granted: not its to say.
    if (verdict != Verdict::kGranted) source_settled(migration, out);
  } else if (outcome.state() == Outcome::PENDING && verdict != Verdict::kUndecided) {
    tell_verdict(migration, migration.record.source, out);
  }
}

void MigrationArbiter::destination_outcome(Migration& migration, const Outcome& outcome,
                                           Clock::time_point now, ArbiterActions& out) {
  Verdict verdict = migration.record.verdict;
  if (outcome.state() == Outcome::FAILED) {
    Error error = error_of(outcome, "the destination failed");
    if (verdict == Verdict::kUndecided || verdict == Verdict::kDenied)
      end_failed(migration, error, now, out);
    if (verdict == Verdict::kGranted && !migration.destination_resumed)
      roll_back(migration, error, now, out);
  } else if (outcome.state() == Outcome::RESUMED && verdict == Verdict::kGranted) {
    if (outcome.pid() != 0) migration.pid = outcome.pid();
    migration.destination_resumed = true;
    complete(migration, now, out);
  } else if (verdict != Verdict::kUndecided) {
    tell_verdict(migration, migration.record.destination, out);
  }
}

ArbiterActions MigrationArbiter::node_failed(const std::string& node, Clock::time_point now) {
  ArbiterActions out;
  for (auto& [id, migration] : live_) {
    Verdict verdict = migration.record.verdict;
    Error gone{ErrorCode::kUnavailable, formatted("node {} failed", node), {}};
    if (migration.record.source == node) {
      migration.source_gone = true;
      migration.source_gone_why = gone.message;
      if (verdict == Verdict::kUndecided) deny(migration, gone, now, out);
      if (verdict == Verdict::kCompleted) {
        source_lost(migration, gone.message, out);
      } else if (verdict != Verdict::kGranted) {
        source_settled(migration, out);
      }
    } else if (migration.record.destination == node) {
      if (verdict == Verdict::kCompleted)
        destination_gone(
            migration, Error(gone).in(formatted("process {} had moved", migration.pid)), now, out);
      if (verdict == Verdict::kUndecided) deny(migration, gone, now, out);
      // One that resumed before it failed ran the job: the source's copy is old.
      if (verdict == Verdict::kGranted && !migration.destination_resumed)
        roll_back(migration, gone, now, out);
    }
  }
  unheard_source_gone(node, formatted("node {} failed", node), out);
  sweep();
  return out;
}

ArbiterActions MigrationArbiter::node_connected(const std::string& node,
                                                const std::vector<Outcome>& pending,
                                                Clock::time_point now) {
  ArbiterActions out;
  std::set<std::uint64_t> told;
  for (const auto& each : pending) {
    auto actions = outcome(each, node, now);
    out.insert(out.end(), actions.begin(), actions.end());
    told.insert(each.migration_id());
  }
  for (auto& [id, migration] : live_) {
    bool is_source = migration.record.source == node;
    bool is_destination = migration.record.destination == node;
    if ((!is_source && !is_destination) || told.contains(id)) continue;
    Verdict verdict = migration.record.verdict;
    Error lost{ErrorCode::kUnavailable, formatted("node {} has lost the migration", node), {}};
    if (verdict == Verdict::kGranted && is_destination && !migration.destination_resumed)
      roll_back(migration, lost, now, out);
    else if (migration.serving && is_source)
      source_lost(migration, lost.message, out);
    else if (migration.hurried && is_destination)
      out.push_back(action(Kind::kHurry, migration, node));
    else if (verdict == Verdict::kUndecided && (is_destination || migration.outgoing_started))
      deny(migration, lost, now, out);
    else if (verdict != Verdict::kUndecided)
      tell_verdict(migration, node, out);
  }
  unheard_source_gone(node, formatted("node {} has nothing left of it", node), out);
  remind_of_lost_pages(node, out);
  sweep();
  return out;
}

ArbiterActions MigrationArbiter::copy_ended(std::uint64_t job_id, const std::string& node,
                                            Clock::time_point now, bool& moved_on) {
  ArbiterActions out;
  moved_on = false;
  for (auto& [id, migration] : live_) {
    if (migration.record.job_id != job_id) continue;
    Verdict verdict = migration.record.verdict;
    if (migration.record.source == node) {
      migration.source_gone = true;
      migration.source_gone_why = formatted("what was left of it on {} ended", node);
      moved_on = verdict == Verdict::kGranted || verdict == Verdict::kCompleted;
      if (verdict == Verdict::kUndecided)
        deny(migration, Error{ErrorCode::kGone, "the process ended before it had moved", {}}, now,
             out);
      if (verdict == Verdict::kCompleted) {
        source_lost(migration, migration.source_gone_why, out);
      } else if (verdict != Verdict::kGranted) {
        source_settled(migration, out);
      }
    } else if (migration.record.destination == node) {
      // An end before the resumption is an outcome, not an exit.
      moved_on = !migration.destination_resumed;
      if (verdict == Verdict::kCompleted) destination_gone(migration, std::nullopt, now, out);
    }
  }
  sweep();
  return out;
}

ArbiterActions MigrationArbiter::tick(Clock::time_point now) {
  ArbiterActions out;
  for (auto& [id, migration] : live_) {
    if (migration.record.verdict == Verdict::kGranted && migration.destination_resumed) {
      complete(migration, now, out);  // recording it failed before
      continue;
    }
    if (now < migration.deadline) continue;
    switch (migration.record.verdict) {
      case Verdict::kUndecided:
        deny(migration,
             Error{ErrorCode::kTimeout, "the migration took too long",
                   "try again when the nodes are less busy, or give it more time"},
             now, out);
        break;
      case Verdict::kGranted:
        // To roll back while the destination may resume any moment would make two of it.
        log::warning("a granted migration is still not resumed", log::field("migration", id),
                     log::field("destination", migration.record.destination));
        tell_verdict(migration, migration.record.destination, out);
        migration.deadline = now + kGrantedReminder;
        break;
      case Verdict::kCompleted:
      case Verdict::kDenied:
      case Verdict::kRolledBack:
        finish(migration, migration.failure, out);
        break;
    }
  }
  sweep();
  return out;
}

bool MigrationArbiter::decide(Migration& migration, Verdict from, Verdict to,
                              const std::string& reason) {
  auto body = [&]() -> Result<void> {
    GESTALT_ASSIGN(bool changed,
                   store_.compare_and_set_verdict(migration.record.migration_id, from, to, reason));
    if (!changed) return fail(ErrorCode::kInternal, "the record holds another verdict");
    if (to != Verdict::kCompleted) return {};
    GESTALT_ASSIGN(auto job, store_.find_job(migration.record.job_id));
    if (!job) return {};
    job->node = migration.record.destination;
    if (migration.pid != 0) job->root_pid = migration.pid;
    return store_.upsert_job(*job);
  };
  if (auto done = store_.transaction(body); !done) {
    log::error("verdict not recorded", log::field("migration", migration.record.migration_id),
               log::field("verdict", to_string(to)), log::field("error", done.error().text()));
    return false;
  }
  log::info("migration verdict", log::field("migration", migration.record.migration_id),
            log::field("verdict", to_string(to)), log::field("reason", reason));
  migration.record.verdict = to;
  migration.record.reason = reason;
  migration.secret.clear();
  return true;
}

void MigrationArbiter::deny(Migration& migration, const Error& why, Clock::time_point now,
                            ArbiterActions& out) {
  // If even that cannot be recorded, the next start of the leader denies what is undecided.
  if (!decide(migration, Verdict::kUndecided, Verdict::kDenied, why.message))
    migration.record.verdict = Verdict::kDenied;
  migration.record.reason = why.message;
  await_source(migration, why, now);
  for (const auto& node : {migration.record.destination, migration.record.source}) {
    if (node == migration.record.source && migration.source_settled) continue;
    auto cancel = action(Kind::kCancel, migration, node);
    cancel.reason = why.message;
    out.push_back(std::move(cancel));
    tell_verdict(migration, node, out);
  }
  end_if_settled(migration, out);
}

// Both ends fail when one does, and the wrong one may be heard first: kUnavailable is what
// an end says whose peer has gone.
void MigrationArbiter::end_failed(Migration& migration, const Error& why, Clock::time_point now,
                                  ArbiterActions& out) {
  if (migration.record.verdict == Verdict::kUndecided) {
    migration.only_symptom = why.code == ErrorCode::kUnavailable && migration.outgoing_started;
    deny(migration, why, now, out);
  } else if (std::exchange(migration.only_symptom, false)) {
    if (why.code != ErrorCode::kUnavailable) migration.failure = why;
    end_if_settled(migration, out);
  }
}

void MigrationArbiter::roll_back(Migration& migration, const Error& why, Clock::time_point now,
                                 ArbiterActions& out) {
  if (!decide(migration, Verdict::kGranted, Verdict::kRolledBack, why.message)) return;
  await_source(migration, why, now);
  tell_verdict(migration, migration.record.source, out);
  tell_verdict(migration, migration.record.destination, out);
  if (migration.source_gone) {
    auto exited = action(Kind::kSourceExited, migration, migration.record.source);
    exited.reason = why.message;
    out.push_back(std::move(exited));
  }
  end_if_settled(migration, out);
}

void MigrationArbiter::await_source(Migration& migration, const Error& why, Clock::time_point now) {
  migration.failure = why;
  migration.failed = now;
  migration.source_settled = migration.source_gone || !migration.outgoing_started;
  migration.deadline = now + kSettleTimeout;
}

// The source has thawed, or cleaned up, or is gone: nothing more is awaited of it.
void MigrationArbiter::source_settled(Migration& migration, ArbiterActions& out) {
  migration.source_settled = true;
  end_if_settled(migration, out);
}

void MigrationArbiter::end_if_settled(Migration& migration, ArbiterActions& out) {
  if (!migration.source_settled) return;
  if (migration.only_symptom) {
    migration.deadline = std::min<Deadline>(migration.deadline, migration.failed + kReasonTimeout);
    return;
  }
  finish(migration, migration.failure, out);
}

void MigrationArbiter::complete(Migration& migration, Clock::time_point now, ArbiterActions& out) {
  // A failure here is of the first attempt; tick() tries again.
  if (!std::exchange(migration.completion_tried, true) && !fault_point(Fault::kLeaderComplete))
    return;
  if (!decide(migration, Verdict::kGranted, Verdict::kCompleted, {})) return;
  migration.deadline = now + kDoneTimeout;
  auto moved = action(Kind::kJobMoved, migration, migration.record.destination);
  moved.pid = migration.pid;
  out.push_back(std::move(moved));
  tell_verdict(migration, migration.record.destination, out);
  tell_verdict(migration, migration.record.source, out);
  if (migration.source_gone) source_lost(migration, migration.source_gone_why, out);
}

void MigrationArbiter::finish(Migration& migration, const std::optional<Error>& error,
                              ArbiterActions& out) {
  if (!ended_.insert(migration.record.migration_id).second) return;
  migration.serving = false;
  reply(migration, error, out);
  if (migration.hurried) {
    auto over = action(Kind::kOver, migration, {});
    over.error = error;
    out.push_back(std::move(over));
  }
  history_.put(entry(migration, error ? "failed" : "done", error));
}

void MigrationArbiter::reply(Migration& migration, const std::optional<Error>& error,
                             ArbiterActions& out) {
  if (std::exchange(migration.replied, true)) return;
  auto answer = action(Kind::kReply, migration, {});
  answer.error = error;
  std::string_view state = migration.serving ? "paging" : error ? "failed" : "done";
  answer.stats = entry(migration, state, error).stats;
  out.push_back(std::move(answer));
}

void MigrationArbiter::tell_verdict(const Migration& migration, const std::string& node,
                                    ArbiterActions& out) const {
  auto verdict = action(Kind::kVerdict, migration, node);
  verdict.verdict = migration.record.verdict;
  verdict.reason = migration.record.reason;
  out.push_back(std::move(verdict));
}

// For what is not live any more. No record at all: it never was granted.
void MigrationArbiter::verdict_from_record(const Outcome& pending, const std::string& node,
                                           ArbiterActions& out) {
  auto record = store_.find_migration(pending.migration_id());
  if (!record) {
    log::error("migration record not read", log::field("error", record.error().text()));
    return;  // it asks again when it reconnects
  }
  Migration migration;
  migration.record.migration_id = pending.migration_id();
  migration.record.job_id = pending.job_id();
  if (*record) {
    migration.record = **record;
    bool concerned = migration.record.source == node || migration.record.destination == node;
    if (!concerned) return;
  } else {
    migration.record.verdict =
        pending.role() == Outcome::SOURCE ? Verdict::kDenied : Verdict::kRolledBack;
    migration.record.reason = "the leader has no record of it";
  }
  if (migration.record.verdict != Verdict::kUndecided) tell_verdict(migration, node, out);
}

void MigrationArbiter::sweep() {
  for (auto id : ended_) live_.erase(id);
  ended_.clear();
}

const Migration* MigrationArbiter::find(std::uint64_t migration_id) const {
  auto found = live_.find(migration_id);
  return found == live_.end() ? nullptr : &found->second;
}

// If there are two, because the leader restarted, the newer one is the one that matters.
const Migration* MigrationArbiter::of_job(std::uint64_t job_id) const {
  for (auto it = live_.rbegin(); it != live_.rend(); ++it)
    if (it->second.record.job_id == job_id) return &it->second;
  return nullptr;
}

std::size_t MigrationArbiter::under_way() const {
  return static_cast<std::size_t>(
      std::ranges::count_if(live_, [](const auto& each) { return !each.second.serving; }));
}

}  // namespace gestalt
