// The phases of a migration at its source, in order. Up to the leader's grant, any
// error ends in roll_back(), after which the unit runs here as if nothing had been.

#include "migrate/source.h"

#include <fcntl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>

#include "common/fault.h"
#include "common/format.h"
#include "common/log.h"
#include "migrate/blockers.h"
#include "migrate/criu_limits.h"
#include "migrate/file_cache.h"
#include "migrate/pagemap_image.h"
#include "migrate/timers.h"
#include "migrate/traits.h"
#include "migrate/zero_copy_probe.h"

namespace gestalt {
namespace {

constexpr auto kFreezeTimeout = std::chrono::seconds(10);
constexpr auto kResumedTimeout = std::chrono::seconds(2);
constexpr auto kReconnectTimeout = std::chrono::seconds(3);
constexpr auto kReconnectPause = std::chrono::milliseconds(200);
constexpr int kNiceAfterResume = 10;
constexpr auto kProgressInterval = std::chrono::milliseconds(200);
constexpr std::size_t kHandoverPieceBytes = 1U << 20;

PrecopyLimits limits_of(const wire::MigrationOptions& options, const Strategy& strategy) {
  PrecopyLimits limits;
  limits.max_rounds = options.max_rounds() > 0 ? options.max_rounds() : strategy.default_rounds;
  limits.downtime_goal_seconds = options.downtime_goal_seconds() > 0
                                     ? options.downtime_goal_seconds()
                                     : kDefaultDowntimeGoalSeconds;
  return limits;
}

}  // namespace

MigrationSource::MigrationSource(MigrationParameters parameters, SourceUnit unit, SourceHost& host)
    : parameters_(std::move(parameters)),
      unit_(std::move(unit)),
      host_(host),
      state_(parameters_.migration_id) {}

void MigrationSource::enter(SourceState state) {
  state_.change(state_.get(), state);
  wire::MigrationProgress progress;
  progress.set_phase(std::string(name_of(state)));
  host_.progress(progress);
}

void MigrationSource::mark(std::string_view step) {
  timeline_ += formatted("{}{} {:.1f}", timeline_.empty() ? "" : ", ", step,
                         seconds_between(frozen_at_, Clock::now()) * 1e3);
}

bool MigrationSource::is_cancelled() {
  std::lock_guard lock(connection_mutex_);
  return cancelled_;
}

Result<wire::MigrationStats> MigrationSource::run() {
  started_ = Clock::now();
  cpu_seconds_at_start_ = cpu_seconds();
  auto granted = move_until_granted();
  if (!granted) return std::unexpected(roll_back(std::move(granted).error()));
  return finish_granted();
}

Result<void> MigrationSource::move_until_granted() {
  GESTALT_ASSIGN(strategy_, strategy_of(parameters_.options.mode()));
  GESTALT_TRY(connect());
  GESTALT_TRY(preflight());
  GESTALT_TRY(send_file_cache());
  GESTALT_TRY(prepare_dump());
  GESTALT_TRY(send_rounds());
  GESTALT_TRY(dump());  // ends frozen
  GESTALT_TRY(send_state());
  GESTALT_TRY(await_ready());
  GESTALT_TRY(finish_dump());
  return ask_leader();
}

Result<void> MigrationSource::preflight() {
  enter(SourceState::kPreflight);
  GESTALT_TRY(fault_point(Fault::kSourcePreflight));
  GESTALT_ASSIGN(tree_, read_tree("/proc", unit_.root));
  UnitTies ties{
      .network = unit_.network, .mounts = unit_.mounts, .deputy = unit_.deputy_group >= 0};
  GESTALT_ASSIGN(auto blockers, find_blockers("/proc", tree_, *unit_.group, ties));
  std::ranges::copy(
      destination_blockers("/proc", tree_, unit_.destination, parameters_.options.any_cpu()),
      std::back_inserter(blockers));
  return refuse_blockers(blockers);
}

// Early: while the unit still runs here, the destination has time to read ahead.
Result<void> MigrationSource::send_file_cache() {
  std::vector<CachedFile> files;
  if (!parameters_.options.no_file_cache()) files = cached_files("/proc", tree_);
  connection_->cork();
  std::uint64_t bytes = 0;
  for (const auto& file : files) {
    bytes += file.bytes();
    GESTALT_TRY(connection_->send(FrameType::kFileCache, 0, encode_cached_file(file),
                                  parameters_.deadline));
  }
  GESTALT_TRY(connection_->send(FrameType::kFileCacheEnd, files.size(), std::string_view(),
                                parameters_.deadline));
  stats_.set_file_cache_bytes(bytes);
  return connection_->uncork(parameters_.deadline);
}

// What need not be done in the freeze.
Result<void> MigrationSource::prepare_dump() {
  GESTALT_ASSIGN(auto directory,
                 ImageDirectory::create(parameters_.image_directory,
                                        formatted("m-{}-source", parameters_.migration_id)));
  images_ = std::make_unique<ImageDirectory>(std::move(directory));
  GESTALT_ASSIGN(image_fd_, open_file(images_->path(), O_RDONLY | O_DIRECTORY));
  CriuStart start;
  start.target = unit_.root;
  start.mounts = unit_.mounts;
  state_dump_ = known_state_dump();
  stats_.set_state_dump(std::string(name_of(state_dump_)));
  if (state_dump_ == StateDump::kStateOnly) {
    start.state_only = true;
    start.smaps_directory = smaps_directory();
    if (::mkdir(start.smaps_directory.c_str(), 0700) != 0)
      return fail_errno(errno, formatted("make {}", start.smaps_directory));
  }
  GESTALT_ASSIGN(auto criu, CriuClient::start(start));
  criu_.emplace(std::move(criu));
  return {};
}

Result<void> MigrationSource::send_rounds() {
  if (!strategy_.rounds) {
    for (std::uint64_t i = 0; i < server_->bulk_links(); ++i)
      GESTALT_TRY(server_->bulk_link(i).send(FrameType::kPushEnd, 0, std::string_view(),
                                             parameters_.deadline));
    return {};
  }
  enter(SourceState::kPrecopy);
  GESTALT_ASSIGN(tracker_, make_dirty_tracker(probe_tracker(), *unit_.group));
  stats_.set_tracker(std::string(tracker_->name()));
  auto pids = [this]() -> Result<std::vector<pid_t>> {
    if (is_cancelled()) return fail(ErrorCode::kUnavailable, "cancelled");
    GESTALT_ASSIGN(auto tree, read_tree("/proc", unit_.root));
    return std::move(tree.pids);
  };
  precopy_ = std::make_unique<Precopy>(
      *server_, *tracker_, limits_of(parameters_.options, strategy_), pids,
      [this](const wire::MigrationProgress& progress) { host_.progress(progress); });
  GESTALT_ASSIGN(auto end, precopy_->run(parameters_.deadline));
  stats_.set_rounds_end_reason(std::string(name_of(end)));
  stats_.set_rounds(static_cast<std::uint32_t>(precopy_->rounds().size()));
  for (const auto& round : precopy_->rounds()) {
    auto& detail = *stats_.add_rounds_detail();
    detail.set_pages(round.sent_bytes / kPageBytes);
    detail.set_seconds(round.seconds);
    detail.set_dirty_pages(round.dirty_bytes / kPageBytes);
  }
  return preflight();  // as it is now
}

// While the unit still runs. Where it cannot be had, pages are staged.
void MigrationSource::prepare_zero_copy() {
  if (!domain_) return;
  auto why_not = known_zero_copy();
  auto device = why_not.find(domain_->name());
  if (device == why_not.end() || !device->second.empty()) return;
  zero_copy_.prepare(tree_.pids, domain_);
}

// As CRIU names what it need not save.
std::string MigrationSource::external_network(int descriptor) {
  struct stat info{};
  (void)::fstat(descriptor, &info);
  return formatted("net[{}]:{}", info.st_ino, kUnitNetworkKey);
}

// CRIU takes image_fd for a descriptor of ours.
criu_req MigrationSource::dump_request(int image_fd, std::uint16_t taken_port) const {
  criu_req request;
  request.set_type(DUMP);
  auto& options = *request.mutable_opts();
  options.set_images_dir_fd(image_fd);
  options.set_pid(unit_.root);
  options.set_log_level(2);
  options.set_log_file("dump.log");
  options.set_notify_scripts(true);
  options.set_leave_running(true);
  // The session leader, our host, stays outside.
  options.set_shell_job(true);
  options.set_manage_cgroups_mode(IGNORE);
  options.set_manage_cgroups(true);
  options.set_file_locks(true);
  options.set_link_remap(true);
  options.set_ghost_limit(kMaxDeletedFileBytes);
  if (unit_.network != nullptr) {
    options.set_tcp_established(true);
    options.set_network_lock(SKIP);  // hold() is quicker, and lasts
    options.add_external(external_network(unit_.network->descriptor()));
  }
  if (state_dump_ == StateDump::kStateOnly) return request;
  // CRIU writes everything but the anonymous pages, then would serve those. We read them
  // ourselves, so it gets a port to serve at that is taken: it gives up at once and lets
  // go of the processes, which by then our control group holds.
  options.set_lazy_pages(true);
  options.mutable_ps()->set_address("127.0.0.1");
  options.mutable_ps()->set_port(taken_port);
  return request;
}

// Returns once the images are complete and the processes are held. CRIU then lets go of
// them, which nobody needs to wait for until the end: finish_dump().
Result<void> MigrationSource::dump() {
  GESTALT_TRY(fault_point(Fault::kSourceDump));
  prepare_zero_copy();
  if (state_dump_ == StateDump::kStateOnly)
    GESTALT_TRY(snapshot_smaps(tree_.pids, smaps_directory()));
  GESTALT_ASSIGN(taken_port_, tcp_transport().listen("127.0.0.1", 0));
  enter(SourceState::kDumping);
  io_held_ = true;
  host_.before_freeze();
  frozen_at_ = Clock::now();
  forward_timers(tree_.pids);
  auto held = std::make_shared<std::promise<Result<void>>>();
  auto outcome = held->get_future();
  dumping_ = std::async(std::launch::async, [this, held]() -> Result<void> {
    bool told = false;
    auto on_notify = [&](std::string_view script) -> Result<void> {
      if (script == "network-lock") return hold_network();
      if (script != "post-dump") return {};
      auto frozen = freeze();
      told = true;
      held->set_value(frozen);
      return frozen;
    };
    auto response = criu_->request(dump_request(image_fd_.get(), taken_port_->port()), on_notify,
                                   images_->path() + "/dump.log", parameters_.deadline);
    Result<void> result;
    if (!response) result = std::unexpected(std::move(response).error());
    if (!told) held->set_value(result);
    return result;
  });
  GESTALT_TRY(outcome.get());
  stats_.set_dump_seconds(seconds_between(frozen_at_, Clock::now()));
  return {};
}

// The processes have just stopped. What came until now is in their sockets.
Result<void> MigrationSource::hold_network() {
  if (unit_.network == nullptr) return {};
  network_held_ = true;
  GESTALT_TRY(unit_.network->hold());
  mark("held");
  return {};
}

// Without a page server CRIU calls a complete lazy dump a failed one: `held_` counts.
Result<void> MigrationSource::finish_dump() {
  if (!dumping_.valid()) return {};
  auto done = dumping_.get();
  criu_.reset();
  return held_ ? Result<void>() : done;
}

Result<void> MigrationSource::freeze() {
  GESTALT_TRY(fault_point(Fault::kSourceFreeze));
  group_frozen_ = true;  // perhaps not entirely, should this fail
  mark("post-dump");
  if (unit_.network != nullptr && !network_held_)
    return fail(ErrorCode::kInternal, "CRIU has not let us hold the network");
  GESTALT_TRY(unit_.group->freeze(deadline_in(kFreezeTimeout)));
  GESTALT_TRY(refuse_strays());
  held_ = true;
  mark("frozen");
  return {};
}

// CRIU dumped the tree; what left it since the pre-flight would end with the source's copy.
Result<void> MigrationSource::refuse_strays() {
  GESTALT_ASSIGN(auto grouped, unit_.group->processes());
  std::vector<Blocker> blockers;
  for (pid_t pid : find_strays("/proc", tree_, grouped)) blockers.push_back(stray_blocker(pid));
  return refuse_blockers(blockers);
}

Result<void> MigrationSource::send_state() {
  enter(SourceState::kFrozen);
  GESTALT_ASSIGN(handover_, host_.freeze_io());
  mark("io");
  if (handover_.size() > kMaxHandoverBytes)
    return fail(ErrorCode::kInternal, "the hand-over is too large");
  enter(SourceState::kSendingState);
  GESTALT_TRY(fault_point(Fault::kSourceSendState));
  GESTALT_ASSIGN([[maybe_unused]] int timers, rearm_expired_timers_in(images_->path()));
  GESTALT_TRY(write_traits());
  connection_->cork();
  GESTALT_ASSIGN(auto state_bytes,
                 send_images(*connection_, images_->path(), parameters_.deadline));
  stats_.set_state_bytes(state_bytes);
  GESTALT_TRY(fault_point(Fault::kSourceSendHandover));
  GESTALT_TRY(send_handover());
  GESTALT_TRY(connection_->uncork(parameters_.deadline));
  mark("sent");
  // The larger the process, the longer this takes: CRIU restores meanwhile.
  GESTALT_ASSIGN(auto present, read_missing_pages(images_->path()));
  std::map<std::uint32_t, PageSet> fresh;
  if (precopy_) {
    GESTALT_ASSIGN(fresh, precopy_->fresh());
  }
  connection_->cork();
  GESTALT_TRY(send_sets(present, fresh));
  GESTALT_TRY(connection_->uncork(parameters_.deadline));
  server_->serve(std::move(present));
  mark("sets");
  return {};
}

Result<void> MigrationSource::write_traits() {
  auto text = encode_traits(read_traits(tree_.pids));
  GESTALT_ASSIGN(auto file, open_file(formatted("{}/{}", images_->path(), kTraitsFile),
                                      O_WRONLY | O_CREAT | O_EXCL, 0600));
  return write_all(file.get(), std::as_bytes(std::span(text)), parameters_.deadline);
}

Result<void> MigrationSource::send_sets(const std::map<std::uint32_t, PageSet>& present,
                                        const std::map<std::uint32_t, PageSet>& fresh) {
  std::uint64_t frames = 0;
  std::uint64_t resident_bytes = 0;
  std::uint64_t fresh_bytes = 0;
  for (const auto& [pid, pages] : present) {
    resident_bytes += pages.pages() * kPageBytes;
    for (const auto& frame : encode_page_set(pages)) {
      GESTALT_TRY(connection_->send(FrameType::kPresent, pid, frame, parameters_.deadline));
      ++frames;
    }
    auto known = fresh.find(pid);
    if (known == fresh.end()) continue;
    PageSet good = known->second;
    good.intersect(pages);
    fresh_bytes += good.pages() * kPageBytes;
    for (const auto& frame : encode_page_set(good)) {
      GESTALT_TRY(connection_->send(FrameType::kFresh, pid, frame, parameters_.deadline));
      ++frames;
    }
  }
  auto missing = present;
  for (auto& [pid, pages] : missing)
    if (auto known = fresh.find(pid); known != fresh.end()) pages.remove(known->second);
  GESTALT_ASSIGN(auto remote, send_remote_memory(missing));
  frames += remote;
  stats_.set_resident_bytes(resident_bytes);
  missing_bytes_ = resident_bytes - fresh_bytes;
  return connection_->send(FrameType::kSetsEnd, frames, std::string_view(), parameters_.deadline);
}

// Returns how many frames that took.
Result<std::uint64_t> MigrationSource::send_remote_memory(
    const std::map<std::uint32_t, PageSet>& missing) {
  std::uint64_t frames = 0;
  for (const auto& [link, staging] : server_->staging()) {
    GESTALT_TRY(connection_->send(FrameType::kStaging, link, encode_staging(staging),
                                  parameters_.deadline));
    ++frames;
  }
  auto ranges = zero_copy_.register_pages(missing, kMaxRemoteRanges, parameters_.deadline);
  stats_.set_zero_copy_pages(zero_copy_.pages());
  stats_.set_zero_copy_regions(ranges.size());
  mark("registered");
  for (const auto& frame : encode_remote_ranges(ranges)) {
    GESTALT_TRY(connection_->send(FrameType::kRemoteRanges, 0, frame, parameters_.deadline));
    ++frames;
  }
  return frames;
}

Result<void> MigrationSource::send_handover() {
  std::string_view rest = handover_;
  do {
    auto piece = rest.substr(0, kHandoverPieceBytes);
    GESTALT_TRY(
        connection_->send(FrameType::kHandover, handover_.size(), piece, parameters_.deadline));
    rest.remove_prefix(piece.size());
  } while (!rest.empty());
  return {};
}

Result<void> MigrationSource::await_ready() {
  enter(SourceState::kAwaitingReady);
  GESTALT_TRY(fault_point(Fault::kSourceAwaitReady));
  auto asked_at = Clock::now();
  // There is time for it, other than where the freeze ends as soon as CRIU has restored.
  bool checked = strategy_.fetch_before_resume && !strategy_.rounds;
  if (checked) GESTALT_TRY(check_memory_advice());
  while (true) {
    auto waited =
        connection_->wait_readable(std::min(parameters_.deadline, deadline_in(kProgressInterval)));
    if (waited || waited.error().code != ErrorCode::kTimeout) break;
    if (Clock::now() >= parameters_.deadline) break;
    report_served(SourceState::kAwaitingReady);
  }
  std::vector<std::byte> nothing;
  GESTALT_TRY(connection_->expect(FrameType::kReady, nothing, parameters_.deadline));
  stats_.set_restore_seconds(seconds_between(asked_at, Clock::now()));
  mark("ready");
  if (unit_.network != nullptr)
    GESTALT_TRY(connection_->send(FrameType::kPackets, 0, encode_packets(unit_.network->held()),
                                  parameters_.deadline));
  return {};
}

// CRIU was given what /proc/PID/smaps said just before the freeze (migrate/state_dump.h). An
// madvise(2) over exactly one whole mapping in between would have been missed. To look again
// takes 5 to 7 ms for each GiB.
Result<void> MigrationSource::check_memory_advice() {
  if (state_dump_ != StateDump::kStateOnly) return {};
  GESTALT_ASSIGN(bool unchanged, smaps_unchanged(tree_.pids, smaps_directory()));
  if (unchanged) return {};
  return fail(ErrorCode::kBusy,
              "the process gave advice about its memory in the very moment of the freeze",
              "try again");
}

void MigrationSource::tell_memory_advice() {
  bool checked = strategy_.fetch_before_resume && !strategy_.rounds;
  if (auto same = checked ? Result<void>() : check_memory_advice(); !same)
    log::warning("an madvise(2) of the moment of the freeze is lost",
                 log::field("migration", parameters_.migration_id),
                 log::field("error", same.error().text()));
}

Result<void> MigrationSource::ask_leader() {
  enter(SourceState::kAsking);
  GESTALT_TRY(fault_point(Fault::kSourceAsk));
  auto verdict = host_.ask(parameters_.deadline);
  if (!verdict && verdict.error().code == ErrorCode::kTimeout) {
    // The leader may have granted without our hearing of it: only it knows.
    verdict = host_.await_outcome();
  }
  if (!verdict) return std::unexpected(std::move(verdict).error());
  if (*verdict == Verdict::kDenied || *verdict == Verdict::kRolledBack)
    return fail(ErrorCode::kUnavailable, "the leader denied the migration");
  return {};
}

// From here on the leader's word alone counts. Faults and lost connections between the
// two ends only delay.
Result<wire::MigrationStats> MigrationSource::finish_granted() {
  auto granted_at = Clock::now();
  mark("granted");
  enter(SourceState::kGranted);
  (void)fault_point(Fault::kSourceCommit);
  std::vector<std::byte> payload;
  auto resumed = connection_->expect(FrameType::kResumed, payload, deadline_in(kResumedTimeout));
  auto resumed_at = Clock::now();
  mark("resumed");
  (void)fault_point(Fault::kSourceAwaitResumed);
  if (host_.await_outcome() != Verdict::kCompleted)
    return std::unexpected(roll_back(
        Error{ErrorCode::kUnavailable, "the destination failed before it ran the process", {}}));
  if (!resumed) resumed_at = Clock::now();
  // Before the copy ends, of which the peers are to hear nothing.
  if (network_held_)
    if (auto done = unit_.network->disconnect(); !done)
      log::error("cannot disconnect", log::field("error", done.error().text()));
  wire::MigrationStats seen;
  if (resumed && seen.ParseFromArray(payload.data(), static_cast<int>(payload.size())))
    take_paging_stats(seen);
  stats_.set_freeze_seconds(seconds_between(frozen_at_, resumed_at));
  log::info("freeze", log::field("migration", parameters_.migration_id),
            log::field("milliseconds", timeline_));
  stats_.set_commit_seconds(seconds_between(granted_at, resumed_at));
  // Nobody waits for what this thread does from now on.
  (void)::setpriority(PRIO_PROCESS, static_cast<id_t>(::gettid()), kNiceAfterResume);
  end_copy(missing_bytes_ > 0 && strategy_.pages_stay_behind());
  enter(SourceState::kDestroying);
  (void)fault_point(Fault::kSourceDestroy);
  server_->stop();
  zero_copy_.release();
  tracker_.reset();
  killed_ = unit_.group->threads().value_or(std::vector<pid_t>());
  unit_.group->yield_to_others();
  if (auto killed = unit_.group->kill(); !killed)
    log::error("cannot end the source's copy", log::field("error", killed.error().text()));
  state_.change(SourceState::kDestroying, SourceState::kCompleted);
  fill_stats();
  return stats_;
}

// All but what is left to be killed.
void MigrationSource::end_copy(bool pages_stay) {
  bool leaves_deputy = unit_.deputy_group >= 0;
  if (leaves_deputy) {
    tell_memory_advice();  // while the root still has its memory
    leave_deputy(pages_stay);
  }
  if (pages_stay) serve_pages();
  if (!leaves_deputy) tell_memory_advice();
}

// Should it fail, its parent hears of the end of what is killed here, and the leader that nobody
// stands for the process.
void MigrationSource::leave_deputy(bool pages_stay) {
  auto began = Clock::now();
  DeputyPlan plan{.program = host_.deputy(),
                  .group = unit_.deputy_group,
                  .frozen_group = unit_.group->directory_fd()};
  if (pages_stay)
    plan.on_keeper = [this](pid_t keeper) { server_->keep_memory(unit_.root, keeper); };
  auto done = fault_point(Fault::kSourceDeputy);
  if (done) done = deputize(unit_.root, plan);
  if (!done) {
    log::error("no deputy", log::field("migration", parameters_.migration_id),
               log::field("pid", unit_.root), log::field("error", done.error().text()));
    return;
  }
  log::info("deputy", log::field("migration", parameters_.migration_id),
            log::field("pid", unit_.root),
            log::field("milliseconds", seconds_between(began, Clock::now()) * 1e3));
}

void MigrationSource::fill_stats() {
  std::uint64_t wire_bytes = old_wire_bytes_ + server_->wire_bytes();
  if (connection_)
    wire_bytes += connection_->stream().bytes_sent() + connection_->stream().bytes_received();
  stats_.set_total_seconds(seconds_between(started_, Clock::now()));
  stats_.set_source_free_seconds(stats_.total_seconds());
  // The source does not notice what is read of its memory.
  stats_.set_wire_bytes(wire_bytes + stats_.rdma_read_bytes());
  std::uint64_t in_place = std::max(pages_in_place_, server_->pages_in_place());
  stats_.set_pages_sent(server_->pages_sent() + (precopy_ ? precopy_->pages_sent() : 0) + in_place);
  stats_.set_pages_zero(server_->pages_zero() + (precopy_ ? precopy_->pages_zero() : 0));
  stats_.set_processes(static_cast<std::uint32_t>(tree_.pids.size()));
  stats_.set_threads(tree_.threads);
  stats_.set_streams(static_cast<std::uint32_t>(server_->bulk_links()));
  stats_.set_mode(parameters_.options.mode());
  stats_.set_source_cpu_seconds(cpu_seconds() - cpu_seconds_at_start_);
}

// The frozen copy is the only place where some pages are. It ends when the destination
// has them all, or when the leader says that nobody wants them any more.
void MigrationSource::serve_pages() {
  enter(SourceState::kServing);
  (void)fault_point(Fault::kSourceServe);
  server_->keep_alive();
  fill_stats();
  host_.serving(stats_);
  while (!is_cancelled()) {
    auto done = await_done();
    if (done) break;
    if (server_->pages_lost()) {
      stats_.set_error("the frozen copy of the process was ended before all its pages had moved");
      break;
    }
    log::info("control connection lost", log::field("migration", parameters_.migration_id),
              log::field("error", done.error().text()));
    if (!reconnect_control()) break;
  }
}

void MigrationSource::report_served(SourceState state) {
  wire::MigrationProgress progress;
  progress.set_phase(std::string(name_of(state)));
  progress.set_bytes_done(
      (server_->pages_sent() + server_->pages_zero() + server_->pages_in_place()) * kPageBytes);
  progress.set_bytes_total(missing_bytes_);
  host_.progress(progress);
}

Result<void> MigrationSource::await_done() {
  std::vector<std::byte> payload;
  while (true) {
    auto waited = connection_->wait_readable(deadline_in(kProgressInterval));
    if (!waited && waited.error().code != ErrorCode::kTimeout) return waited;
    report_served(SourceState::kServing);
    if (server_->pages_lost()) return fail(ErrorCode::kGone, "the frozen copy has ended");
    if (waited) break;
  }
  GESTALT_TRY(connection_->expect(FrameType::kDone, payload, Deadline::max()));
  wire::MigrationStats seen;
  if (!seen.ParseFromArray(payload.data(), static_cast<int>(payload.size())))
    return fail(ErrorCode::kProtocol, "a report that makes no sense");
  take_paging_stats(seen);
  (void)connection_->send(FrameType::kDoneAck, 0, std::string_view(),
                          deadline_in(kReconnectTimeout));
  return {};
}

void MigrationSource::take_paging_stats(const wire::MigrationStats& seen) {
  stats_.set_faults_demand(seen.faults_demand());
  stats_.set_faults_avoided(seen.faults_avoided());
  stats_.set_faults_local(seen.faults_local());
  stats_.set_faults_zero(seen.faults_zero());
  stats_.set_pages_duplicate(seen.pages_duplicate());
  stats_.set_destination_cpu_seconds(seen.destination_cpu_seconds());
  *stats_.mutable_fault_latency_seconds() = seen.fault_latency_seconds();
  pages_in_place_ = seen.pages_sent();
  stats_.set_rdma_reads(seen.rdma_reads());
  stats_.set_rdma_read_bytes(seen.rdma_read_bytes());
  stats_.set_rdma_demand_reads(seen.rdma_demand_reads());
}

// False when cancelled.
bool MigrationSource::reconnect_control() {
  while (true) {
    {
      std::unique_lock lock(connection_mutex_);
      if (cancelled_changed_.wait_for(lock, kReconnectPause, [this] { return cancelled_; }))
        return false;
    }
    auto connection = open_link(kControlLink, deadline_in(kReconnectTimeout));
    if (!connection) continue;
    std::lock_guard lock(connection_mutex_);
    old_wire_bytes_ += connection_->stream().bytes_sent() + connection_->stream().bytes_received();
    connection_ = std::move(*connection);
    if (cancelled_) connection_->stream().shut_down();
    return !cancelled_;
  }
}

void MigrationSource::tell_destination(const Error& error) {
  if (!connection_) return;
  (void)connection_->send(FrameType::kAbort, 0, error.message.substr(0, 1000),
                          deadline_in(std::chrono::seconds(1)));
  connection_->stream().shut_down();
}

void MigrationSource::cancel() {
  std::lock_guard lock(connection_mutex_);
  cancelled_ = true;
  if (connection_) connection_->stream().shut_down();
  if (server_) server_->cancel();
  cancelled_changed_.notify_all();
}

void MigrationSource::reconnect_network() {
  auto packets = unit_.network->held();
  if (auto connected = unit_.network->connect(); !connected)
    log::error("the unit's network is down", log::field("error", connected.error().text()));
  unit_.network->deliver(std::move(packets));
}

Error MigrationSource::roll_back(Error cause) {
  log::warning("migration rolled back", log::field("migration", parameters_.migration_id),
               log::field("state", name_of(state_.get())), log::field("error", cause.text()));
  if (server_) server_->stop();
  zero_copy_.release();
  tracker_.reset();
  (void)finish_dump();
  if (network_held_) reconnect_network();
  if (group_frozen_) {
    auto thawed = unit_.group->thaw(deadline_in(kFreezeTimeout));
    if (!thawed) log::error("cannot thaw", log::field("error", thawed.error().text()));
    group_frozen_ = false;
  }
  zero_copy_.clean_up();
  if (io_held_) host_.resume_io();
  state_.finish(SourceState::kRolledBack);
  return cause;
}

}  // namespace gestalt
