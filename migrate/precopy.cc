#include "migrate/precopy.h"

#include <fcntl.h>

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <future>
#include <optional>

#include "common/fault.h"
#include "common/fd.h"
#include "common/format.h"
#include "common/log.h"

namespace gestalt {
namespace {

constexpr std::uint64_t kChunkBytes = 128 * kPageBytes;
constexpr auto kReportInterval = std::chrono::milliseconds(100);
// A round that leaves more than this share of what it sent is not worth another.
constexpr double kWorthwhileShare = 0.7;
// After the freeze each piece is asked for by itself. Measured: 860 single pages took 12 ms
// more than none, with the restore beside them.
constexpr double kSecondsPerRange = 10e-6;

std::uint64_t ranges_of(const std::map<std::uint32_t, PageSet>& pages) {
  std::uint64_t sum = 0;
  for (const auto& [pid, set] : pages) set.for_each([&](std::uint64_t, std::uint64_t) { ++sum; });
  return sum;
}

std::uint64_t bytes_of(const std::map<std::uint32_t, PageSet>& pages) {
  std::uint64_t sum = 0;
  for (const auto& [pid, set] : pages) sum += set.pages() * kPageBytes;
  return sum;
}

// A device writes into pages that were pinned before without anybody noticing, so what such
// a process reads could be missed. It is asked after each harvest: a transfer that was under
// way then still has its file open.
bool uses_direct_io(pid_t pid) {
  std::error_code error;  // it may have ended
  for (const auto& entry :
       std::filesystem::directory_iterator(formatted("/proc/{}/fdinfo", pid), error)) {
    auto text = read_file(entry.path());
    auto at = text ? text->find("flags:\t") : std::string::npos;
    if (at == std::string::npos) continue;
    if ((std::strtoul(text->c_str() + at + 7, nullptr, 8) & O_DIRECT) != 0) return true;
  }
  return false;
}

}  // namespace

std::string_view name_of(RoundsEnd reason) {
  switch (reason) {
    case RoundsEnd::kDowntimeGoal:
      return "downtime-goal";
    case RoundsEnd::kNoConvergence:
      return "no-convergence";
    case RoundsEnd::kRoundLimit:
      return "round-limit";
    case RoundsEnd::kTimeout:
      return "timeout";
  }
  return "unknown";
}

std::optional<RoundsEnd> rounds_end(const PrecopyLimits& limits,
                                    const std::vector<RoundResult>& rounds) {
  const auto& last = rounds.back();
  double bandwidth = static_cast<double>(last.sent_bytes) / std::max(last.seconds, 1e-6);
  double expected_seconds = static_cast<double>(last.dirty_bytes) / std::max(bandwidth, 1.0) +
                            static_cast<double>(last.dirty_ranges) * kSecondsPerRange;
  // Too little to measure a bandwidth by is little enough.
  if (last.dirty_bytes == 0 || expected_seconds <= limits.downtime_goal_seconds)
    return RoundsEnd::kDowntimeGoal;
  if (rounds.size() >= limits.max_rounds) return RoundsEnd::kRoundLimit;
  // The first round sends everything, so it says nothing about the next.
  auto sent = static_cast<double>(last.sent_bytes);
  if (rounds.size() > 1 && static_cast<double>(last.dirty_bytes) > sent * kWorthwhileShare)
    return RoundsEnd::kNoConvergence;
  return std::nullopt;
}

Precopy::Precopy(PageServer& server, DirtyTracker& tracker, PrecopyLimits limits,
                 std::function<Result<std::vector<pid_t>>()> pids, Progress progress)
    : server_(server),
      tracker_(tracker),
      limits_(limits),
      pids_(std::move(pids)),
      progress_(std::move(progress)) {}

Result<Precopy::Pages> Precopy::harvest() {
  GESTALT_ASSIGN(auto pids, pids_());
  Pages out;
  for (pid_t pid : pids) {
    auto pages = tracker_.harvest(pid);
    if (pages && uses_direct_io(pid))
      pages = fail(ErrorCode::kBlocked, "it has a file open for direct I/O");
    if (!pages) {
      // Its pages stay behind until the freeze.
      if (pages.error().code != ErrorCode::kGone)
        log::warning("not tracked", log::field("pid", pid),
                     log::field("error", pages.error().text()));
      sent_.erase(static_cast<std::uint32_t>(pid));
      continue;
    }
    if (!pages->empty()) out[static_cast<std::uint32_t>(pid)] = std::move(*pages);
  }
  return out;
}

Result<RoundsEnd> Precopy::run(Deadline deadline) {
  // Half of the time is kept for what follows.
  Deadline rounds_deadline = Clock::now() + (deadline - Clock::now()) / 2;
  GESTALT_ASSIGN(Pages pages, harvest());
  std::optional<RoundsEnd> end;
  while (!end) {
    GESTALT_TRY(fault_point(Fault::kSourceRound));
    round_began_ = Clock::now();
    RoundResult round;
    round.sent_bytes = bytes_of(pages);
    round_bytes_ = round.sent_bytes;
    GESTALT_TRY(send_round(pages, deadline));
    for (auto& [pid, set] : pages) sent_[pid].add(set);
    for (auto& [pid, set] : std::exchange(skipped_, {})) sent_[pid].remove(set);
    round.seconds = seconds_between(round_began_, Clock::now());
    GESTALT_ASSIGN(pages, harvest());
    round.dirty_bytes = bytes_of(pages);
    round.dirty_ranges = ranges_of(pages);
    dirty_bytes_per_second_ =
        static_cast<double>(round.dirty_bytes) / std::max(round.seconds, 1e-6);
    rounds_.push_back(round);
    end = rounds_end(limits_, rounds_);
    if (!end && Clock::now() >= rounds_deadline) end = RoundsEnd::kTimeout;
  }
  unsent_ = std::move(pages);
  for (std::uint64_t i = 0; i < server_.bulk_links(); ++i)
    GESTALT_TRY(server_.bulk_link(i).send(FrameType::kPushEnd, rounds_.size(), std::string_view(),
                                          deadline));
  log::info("pre-copy rounds", log::field("rounds", rounds_.size()),
            log::field("end", name_of(*end)),
            log::field("dirty_bytes", rounds_.back().dirty_bytes));
  return *end;
}

Result<void> Precopy::send_round(const Pages& pages, Deadline deadline) {
  auto set = pages.begin();
  std::uint64_t cursor = 0;
  done_bytes_ = 0;
  std::function<std::optional<PageRun>()> next = [&]() -> std::optional<PageRun> {
    std::lock_guard lock(mutex_);
    while (set != pages.end()) {
      auto range = set->second.next(cursor, kChunkBytes);
      if (range.empty()) {
        ++set;
        cursor = 0;
        continue;
      }
      cursor = range.end;
      return PageRun{set->first, range.start,
                     static_cast<std::uint32_t>(range.bytes() / kPageBytes)};
    }
    return std::nullopt;
  };
  std::vector<std::future<Result<void>>> senders;
  for (std::uint64_t i = 0; i < server_.bulk_links(); ++i)
    senders.push_back(std::async(
        std::launch::async, [&, i] { return send_share(server_.bulk_link(i), next, deadline); }));
  Result<void> result;
  for (auto& sender : senders) {
    auto done = sender.get();
    if (!done && result) result = std::move(done);
  }
  return result;
}

Result<void> Precopy::send_share(PageConnection& connection,
                                 const std::function<std::optional<PageRun>()>& next,
                                 Deadline deadline) {
  ChunkWriter writer(server_.kernel(), server_.chunk_options());
  while (auto run = next()) {
    server_.limiter().take(run->count * kPageBytes);
    auto counts = writer.send(connection, *run, deadline);
    if (!counts && counts.error().code == ErrorCode::kGone) {  // the process ended
      std::lock_guard lock(mutex_);
      skipped_[run->pid].add(run->address, run->end());
      continue;
    }
    if (!counts) return std::unexpected(std::move(counts).error());
    std::lock_guard lock(mutex_);
    if (counts->absent > 0) skipped_[run->pid].add(run->address, run->end());
    pages_sent_ += counts->sent;
    pages_zero_ += counts->zero;
    if (!rounds_.empty()) pages_again_ += counts->sent + counts->zero;
    done_bytes_ += run->count * kPageBytes;
    report(done_bytes_);
  }
  // All of it must be there before a newer version of a page comes by another link.
  auto round = static_cast<std::uint64_t>(rounds_.size() + 1);
  GESTALT_TRY(connection.send(FrameType::kRoundEnd, round, std::string_view(), deadline));
  std::vector<std::byte> nothing;
  GESTALT_ASSIGN(auto answer, connection.expect(FrameType::kRoundAck, nothing, deadline));
  if (answer.argument != round) return fail(ErrorCode::kProtocol, "the end of another round");
  return {};
}

// Under mutex_.
void Precopy::report(std::uint64_t done_bytes) {
  auto now = Clock::now();
  if (now - reported_ < kReportInterval) return;
  reported_ = now;
  wire::MigrationProgress progress;
  progress.set_phase("pre-copy");
  progress.set_bytes_done(done_bytes);
  progress.set_bytes_total(round_bytes_);
  progress.set_round(static_cast<std::uint32_t>(rounds_.size() + 1));
  progress.set_bytes_per_second(static_cast<double>(done_bytes) /
                                std::max(seconds_between(round_began_, now), 1e-6));
  progress.set_dirty_bytes_per_second(dirty_bytes_per_second_);
  progress_(progress);
}

Result<std::map<std::uint32_t, PageSet>> Precopy::fresh() {
  Pages out;
  for (auto& [pid, sent] : sent_) {
    auto dirty = tracker_.harvest_frozen(static_cast<pid_t>(pid));
    if (!dirty && dirty.error().code == ErrorCode::kGone) continue;
    if (!dirty) return std::unexpected(std::move(dirty).error());
    PageSet good = sent;
    good.remove(*dirty);
    if (auto left = unsent_.find(pid); left != unsent_.end()) good.remove(left->second);
    if (!good.empty()) out[pid] = std::move(good);
  }
  return out;
}

}  // namespace gestalt
