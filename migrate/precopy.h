// Pre-copy: sends all pages of a running unit, then in rounds those that were written
// meanwhile, until it pays no more. After Clark et al., "Live Migration of Virtual
// Machines", NSDI 2005.
#pragma once

#include <functional>
#include <map>
#include <mutex>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "common/proto/migration.pb.h"
#include "migrate/dirty_tracker.h"
#include "migrate/page_server.h"

namespace gestalt {

struct PrecopyLimits {
  std::uint32_t max_rounds = 5;
  double downtime_goal_seconds = 0.005;  // for what would be sent after the freeze
};

// Why the rounds ended: name_of() is what users see.
enum class RoundsEnd { kDowntimeGoal, kNoConvergence, kRoundLimit, kTimeout };
[[nodiscard]] std::string_view name_of(RoundsEnd reason);

// What one round cost and left, for the decision.
struct RoundResult {
  std::uint64_t sent_bytes = 0;
  std::uint64_t dirty_bytes = 0;  // written while it was being sent
  double seconds = 0;
  std::uint64_t dirty_ranges = 0;  // in how many pieces that is
};
// Empty: another round. Pure.
[[nodiscard]] std::optional<RoundsEnd> rounds_end(const PrecopyLimits& limits,
                                                  const std::vector<RoundResult>& rounds);

class Precopy {
 public:
  using Progress = std::function<void(const wire::MigrationProgress&)>;
  // All must outlive it. `pids` is asked before each round: processes come and go.
  Precopy(PageServer& server, DirtyTracker& tracker, PrecopyLimits limits,
          std::function<Result<std::vector<pid_t>>()> pids, Progress progress);

  // Sends rounds on the server's bulk links; ends them (kPushEnd) unless it fails. The
  // deadline ends the rounds; only a lost connection, or pids() failing, is an error.
  [[nodiscard]] Result<RoundsEnd> run(Deadline deadline);

  // Of frozen processes: what the destination holds and is still good.
  [[nodiscard]] Result<std::map<std::uint32_t, PageSet>> fresh();

  [[nodiscard]] const std::vector<RoundResult>& rounds() const { return rounds_; }
  [[nodiscard]] std::uint64_t pages_sent() const { return pages_sent_; }
  [[nodiscard]] std::uint64_t pages_zero() const { return pages_zero_; }
  [[nodiscard]] std::uint64_t pages_again() const { return pages_again_; }

 private:
  using Pages = std::map<std::uint32_t, PageSet>;
  [[nodiscard]] Result<Pages> harvest();
  [[nodiscard]] Result<void> send_round(const Pages& pages, Deadline deadline);
  [[nodiscard]] Result<void> send_share(PageConnection& connection,
                                        const std::function<std::optional<PageRun>()>& next,
                                        Deadline deadline);
  void report(std::uint64_t done_bytes);

  PageServer& server_;
  DirtyTracker& tracker_;
  PrecopyLimits limits_;
  std::function<Result<std::vector<pid_t>>()> pids_;
  Progress progress_;
  Pages sent_;     // at least once, in the version before `unsent_`
  Pages unsent_;   // harvested, but not sent any more
  Pages skipped_;  // of this round: could not be read
  std::vector<RoundResult> rounds_;
  std::uint64_t round_bytes_ = 0;
  double dirty_bytes_per_second_ = 0;
  Clock::time_point round_began_;
  std::mutex mutex_;  // what the senders share
  std::uint64_t pages_sent_ = 0;
  std::uint64_t pages_zero_ = 0;
  std::uint64_t pages_again_ = 0;
  std::uint64_t done_bytes_ = 0;
  Clock::time_point reported_;
};

}  // namespace gestalt
