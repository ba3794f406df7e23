// Who decides whether a migration happened: the leader. A state machine over the durable
// verdicts in the store; every event returns what is to be done, in order, and the caller
// (leader_migrations.cc) does it. Not thread-safe.
//
//                 source asks, destination alive        destination: resumed
//   UNDECIDED ───────────────────────────────▶ GRANTED ─────────────────────▶ COMPLETED
//       │ failure, timeout, cancel                │ destination failed or gone
//       ▼                                         ▼
//    DENIED  (job goes on at the source)      ROLLED_BACK  (job goes on at the source)
//
// In lazy, post-copy and hybrid mode pages are still at the source then: its frozen copy is
// a store of pages, until the destination has them all (migration_arbiter_paging.cc).
//
//   COMPLETED ── source: SERVING ──▶ paging ── source: DONE ──▶ over
//       │                              │  │
//       │ source: DONE (all there)     │  └ destination failed or the job ended: the source
//       ▼                              │    is told that nobody wants the pages (Cancel)
//     over                             ▼
//                       source failed or its copy ended: the destination is told, which
//                       ends the job (PagesLost); recorded as failed
//
// Paging has no deadline and no place in the limit of concurrent migrations. A job that is
// to move again meanwhile has to have its pages first (Hurry).
//
// A verdict is on disk before anybody hears of it, and never changes except along these
// arrows, so a message that is sent again does no harm. A source that does not know the
// verdict keeps its copy frozen; a destination resumes only after GRANTED.
#pragma once

#include <map>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "common/clock.h"
#include "daemon/migration_history.h"
#include "daemon/store.h"

namespace gestalt {

struct ArbiterAction {
  enum class Kind {
    kPrepare,        // PrepareIncoming to `node`; its answer goes to incoming_ready()
    kStartOutgoing,  // StartOutgoing to `node`
    kVerdict,        // MigrationVerdict to `node`
    kCancel,         // MigrationCancel to `node`
    kHurry,          // MigrationHurry to `node`
    kPagesLost,      // MigrationPagesLost to `node`
    kJobMoved,       // the job runs on `node` now (already in the store)
    kReply,          // to whoever asked: `error`, or `stats`
    kLateSignals,    // to be sent to the job again
    kSourceExited,   // the job went back to a source copy that is gone: it exited
    kOver,           // to whoever waits for its end since hurry(): `error`, or well
  };
  Kind kind;
  std::uint64_t migration_id = 0;
  std::uint64_t job_id = 0;
  std::string node;
  Verdict verdict = Verdict::kUndecided;
  std::string reason;
  std::optional<Error> error;
  wire::MigrationStats stats;
  std::uint32_t pid = 0;
  std::vector<wire::LateSignal> late_signals;
};
using ArbiterActions = std::vector<ArbiterAction>;

struct Migration {
  MigrationRecord record;
  std::uint32_t pid = 0;
  std::uint32_t stand_in_pid = 0;
  std::uint32_t uid = 0;
  std::string command;
  wire::MigrationOptions options;
  std::string secret;  // 32 bytes; never logged, forgotten when the verdict falls
  wire::IncomingReady ready;
  bool outgoing_started = false;
  bool source_gone = false;  // its node failed, or its copy ended
  std::string source_gone_why;
  bool destination_resumed = false;
  bool completion_tried = false;
  bool replied = false;
  bool answer_when_resumed = false;
  bool late_signals_sent = false;
  bool serving = false;   // completed; pages are still at the source
  bool unwanted = false;  // completed; the job has ended since
  bool pages_lost = false;
  bool hurried = false;
  wire::MigrationStats stats;  // as far as the source has told
  // Of one that was denied or rolled back; the reply waits until the source has thawed, so
  // that whoever hears of it finds the process as it was.
  std::optional<Error> failure;
  bool source_settled = false;
  bool only_symptom = false;  // an end knows just that the other is gone: reason may follow
  Clock::time_point began;
  Clock::time_point failed;
  Deadline deadline;  // of the current wait; GRANTED has none: see tick(). Paging: never
};

class MigrationArbiter {
 public:
  // The store must outlive it.
  explicit MigrationArbiter(Store& store, std::size_t max_concurrent)
      : store_(store), max_concurrent_(max_concurrent) {}

  // When the leader starts: undecided becomes denied, granted waits for the agents.
  [[nodiscard]] Result<void> restore(Clock::time_point now);

  struct Plan {
    std::uint64_t job_id = 0;
    std::uint32_t pid = 0;
    std::uint32_t stand_in_pid = 0;
    std::string source;
    std::string destination;
    wire::MigrationOptions options;  // timeout_seconds filled in
    std::string secret;
    std::uint64_t now_unix_seconds = 0;
    std::uint32_t uid = 0;
    std::string command;
    bool answer_when_resumed = false;
  };
  // Records it as undecided. kBusy if the job migrates already or too many do.
  [[nodiscard]] Result<std::uint64_t> begin(Plan plan, Clock::time_point now,
                                            ArbiterActions& actions);

  [[nodiscard]] ArbiterActions incoming_ready(std::uint64_t migration_id,
                                              Result<wire::IncomingReady> ready,
                                              Clock::time_point now);
  // From the agent of `node`; what the migration's ends may not say is ignored.
  [[nodiscard]] ArbiterActions ask(std::uint64_t migration_id, const std::string& node,
                                   bool destination_online, Clock::time_point now);
  [[nodiscard]] ArbiterActions outcome(const wire::MigrationOutcome& outcome,
                                       const std::string& node, Clock::time_point now);
  [[nodiscard]] ArbiterActions node_failed(const std::string& node, Clock::time_point now);
  // The agent of `node` is back, with what its stand-ins have not decided yet: all
  // verdicts that concern it are sent again.
  [[nodiscard]] ArbiterActions node_connected(const std::string& node,
                                              const std::vector<wire::MigrationOutcome>& pending,
                                              Clock::time_point now);
  // The job's copy on `node` ended. Sets `moved_on` if that is the frozen copy of a job
  // that may be running elsewhere: its end is not the job's.
  [[nodiscard]] ArbiterActions copy_ended(std::uint64_t job_id, const std::string& node,
                                          Clock::time_point now, bool& moved_on);
  [[nodiscard]] ArbiterActions tick(Clock::time_point now);

  // If pages of the job's last migration are still at their source: the destination is
  // asked to fetch them, a kOver follows, and that migration's number is returned.
  [[nodiscard]] std::optional<std::uint64_t> hurry(std::uint64_t job_id, ArbiterActions& actions);
  // Before a hello of `node` is compared with the record: completed migrations whose pages
  // it still has, and that a restart of the leader forgot, are live again.
  void adopt_completed(const std::vector<wire::MigrationOutcome>& pending, const std::string& node,
                       Clock::time_point now);
  // The live ones and the last that are over, by number.
  [[nodiscard]] std::vector<MigrationEntry> listing() const;

  [[nodiscard]] const Migration* find(std::uint64_t migration_id) const;
  [[nodiscard]] const Migration* of_job(std::uint64_t job_id) const;
  [[nodiscard]] std::size_t active() const { return live_.size(); }
  // Those that count against the limit.
  [[nodiscard]] std::size_t under_way() const;

 private:
  using Live = std::map<std::uint64_t, Migration>;
  // Completed before the leader restarted; whether the source has pages still, it must say.
  struct Unheard {
    MigrationRecord record;
    std::string source_gone_why;  // empty: not known to be gone
  };
  void deny(Migration& migration, const Error& why, Clock::time_point now, ArbiterActions& out);
  void end_failed(Migration& migration, const Error& why, Clock::time_point now,
                  ArbiterActions& out);
  void roll_back(Migration& migration, const Error& why, Clock::time_point now,
                 ArbiterActions& out);
  void await_source(Migration& migration, const Error& why, Clock::time_point now);
  void end_if_settled(Migration& migration, ArbiterActions& out);
  void complete(Migration& migration, Clock::time_point now, ArbiterActions& out);
  [[nodiscard]] static ArbiterAction action(ArbiterAction::Kind kind, const Migration& migration,
                                            std::string node);
  void finish(Migration& migration, const std::optional<Error>& error, ArbiterActions& out);
  void reply(Migration& migration, const std::optional<Error>& error, ArbiterActions& out);
  void tell_verdict(const Migration& migration, const std::string& node, ArbiterActions& out) const;
  void source_outcome(Migration& migration, const wire::MigrationOutcome& outcome,
                      Clock::time_point now, ArbiterActions& out);
  void destination_outcome(Migration& migration, const wire::MigrationOutcome& outcome,
                           Clock::time_point now, ArbiterActions& out);
  [[nodiscard]] bool decide(Migration& migration, Verdict from, Verdict to,
                            const std::string& reason);
  void verdict_from_record(const wire::MigrationOutcome& pending, const std::string& node,
                           ArbiterActions& out);
  void source_settled(Migration& migration, ArbiterActions& out);
  void sweep();

  // migration_arbiter_paging.cc: after COMPLETED
  void completed_source_outcome(Migration& migration, const wire::MigrationOutcome& outcome,
                                Clock::time_point now, ArbiterActions& out);
  void deliver_late_signals(Migration& migration, const wire::MigrationOutcome& outcome,
                            ArbiterActions& out);
  void serving(Migration& migration, const wire::MigrationOutcome& outcome, Clock::time_point now,
               ArbiterActions& out);
  void source_lost(Migration& migration, const std::string& why, ArbiterActions& out);
  void job_lost_its_pages(Migration& migration, const std::string& why, ArbiterActions& out);
  void destination_gone(Migration& migration, std::optional<Error> failure, Clock::time_point now,
                        ArbiterActions& out);
  void nobody_wants_pages(const Migration& migration, ArbiterActions& out) const;
  void remind_of_lost_pages(const std::string& node, ArbiterActions& out) const;
  void expect_source(const MigrationRecord& record);
  void unheard_source_gone(const std::string& node, const std::string& why, ArbiterActions& out);
  void stray_outcome(const wire::MigrationOutcome& outcome, const std::string& node,
                     ArbiterActions& out);
  [[nodiscard]] bool adopt(const wire::MigrationOutcome& outcome, const std::string& node,
                           Clock::time_point now);
  [[nodiscard]] static MigrationEntry entry(const Migration& migration, std::string_view state,
                                            const std::optional<Error>& error);

  Store& store_;
  std::size_t max_concurrent_;
  Live live_;
  MigrationHistory history_;
  std::map<std::uint64_t, Unheard> unheard_;  // by job: its last move only
  std::set<std::uint64_t> ended_;             // to be swept out of live_
};

}  // namespace gestalt
