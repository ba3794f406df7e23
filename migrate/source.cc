// The phases of a migration at its source, in order. Up to the leader's grant, any
// error ends in roll_back(), after which the unit runs here as if nothing had been.

#include "migrate/source.h"

#include <fcntl.h>

#include <algorithm>

#include "common/fault.h"
#include "common/log.h"
#include "migrate/page_source.h"
#include "migrate/pagemap_image.h"
#include "migrate/timers.h"

namespace gestalt {
namespace {

constexpr auto kFreezeTimeout = std::chrono::seconds(10);
constexpr auto kResumedTimeout = std::chrono::seconds(2);
constexpr std::size_t kHandoverPieceBytes = 1U << 20;

}  // namespace

MigrationSource::MigrationSource(MigrationParameters parameters, SourceUnit unit, SourceHost& host)
    : parameters_(std::move(parameters)),
      unit_(std::move(unit)),
      host_(host),
      state_(parameters_.migration_id) {}

void MigrationSource::enter(SourceState state) {
  state_.change(state_.get(), state);
  host_.progress(name_of(state), 0, 0);
}

Result<MigrationReport> MigrationSource::run() {
  started_ = Clock::now();
  auto granted = move_until_granted();
  if (!granted) return std::unexpected(roll_back(std::move(granted).error()));
  return finish_granted();
}

Result<void> MigrationSource::move_until_granted() {
  GESTALT_TRY(connect());
  GESTALT_TRY(preflight());
  GESTALT_TRY(dump());  // ends frozen
  GESTALT_TRY(send_state());
  GESTALT_TRY(send_pages());
  GESTALT_TRY(await_ready());
  return ask_leader();
}

Result<void> MigrationSource::connect() {
  enter(SourceState::kConnecting);
  GESTALT_TRY(fault_point(Fault::kSourceConnect));
  Deadline deadline = std::min(parameters_.deadline, deadline_in(std::chrono::seconds(10)));
  GESTALT_ASSIGN(auto stream, tcp_transport().connect(unit_.address, unit_.port, deadline));
  {
    std::lock_guard lock(connection_mutex_);
    if (cancelled_) return fail(ErrorCode::kUnavailable, "cancelled");
    connection_ = std::make_unique<PageConnection>(std::move(stream));
  }
  return authenticate(*connection_, PageRole::kSource, parameters_.secret, deadline);
}

Result<void> MigrationSource::preflight() {
  enter(SourceState::kPreflight);
  GESTALT_TRY(fault_point(Fault::kSourcePreflight));
  GESTALT_ASSIGN(tree_, read_tree("/proc", unit_.root));
  GESTALT_ASSIGN(auto blockers, find_blockers("/proc", tree_, *unit_.group));
  return refuse_blockers(blockers);
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
  options.set_ghost_limit(64U << 20);
  // CRIU writes everything but the anonymous pages, then would serve those. We read them
  // ourselves, so it gets a port to serve at that is taken: it gives up at once and lets
  // go of the processes, which by then our control group holds.
  options.set_lazy_pages(true);
  options.mutable_ps()->set_address("127.0.0.1");
  options.mutable_ps()->set_port(taken_port);
  return request;
}

Result<void> MigrationSource::dump() {
  GESTALT_TRY(fault_point(Fault::kSourceDump));
  GESTALT_ASSIGN(auto directory,
                 ImageDirectory::create(parameters_.image_directory,
                                        std::format("m-{}-source", parameters_.migration_id)));
  images_ = std::make_unique<ImageDirectory>(std::move(directory));
  GESTALT_ASSIGN(auto image_fd, open_file(images_->path(), O_RDONLY | O_DIRECTORY));
  GESTALT_ASSIGN(auto taken, tcp_transport().listen("127.0.0.1", 0));
  CriuStart start;
  start.target = unit_.root;
  GESTALT_ASSIGN(auto criu, CriuClient::start(start));

  enter(SourceState::kDumping);
  io_held_ = true;
  host_.before_freeze();
  frozen_at_ = Clock::now();
  forward_timers(tree_.pids);
  auto on_notify = [&](std::string_view script) -> Result<void> {
    // The images are complete, the processes still CRIU's: hold them ourselves.
    return script == "post-dump" ? freeze() : Result<void>();
  };
  auto response = criu.request(dump_request(image_fd.get(), taken->port()), on_notify,
                               images_->path() + "/dump.log", parameters_.deadline);
  // Without a page server CRIU calls the complete dump a failed one.
  if (!response && !held_) return std::unexpected(std::move(response).error());
  return {};
}

Result<void> MigrationSource::freeze() {
  GESTALT_TRY(fault_point(Fault::kSourceFreeze));
  group_frozen_ = true;  // perhaps not entirely, should this fail
  GESTALT_TRY(unit_.group->freeze(deadline_in(kFreezeTimeout)));
  held_ = true;
  return {};
}

Result<void> MigrationSource::send_state() {
  enter(SourceState::kFrozen);
  GESTALT_ASSIGN(handover_, host_.freeze_io());
  if (handover_.size() > kMaxHandoverBytes)
    return fail(ErrorCode::kInternal, "the hand-over is too large");
  enter(SourceState::kSendingState);
  GESTALT_TRY(fault_point(Fault::kSourceSendState));
  GESTALT_ASSIGN([[maybe_unused]] int timers, rearm_expired_timers_in(images_->path()));
  GESTALT_ASSIGN(report_.state_bytes,
                 send_images(*connection_, images_->path(), parameters_.deadline));
  GESTALT_TRY(fault_point(Fault::kSourceSendHandover));
  std::string_view rest = handover_;
  do {
    auto piece = rest.substr(0, kHandoverPieceBytes);
    GESTALT_TRY(
        connection_->send(FrameType::kHandover, handover_.size(), piece, parameters_.deadline));
    rest.remove_prefix(piece.size());
  } while (!rest.empty());
  return {};
}

Result<void> MigrationSource::send_pages() {
  enter(SourceState::kSendingPages);
  GESTALT_TRY(fault_point(Fault::kSourceSendPages));
  GESTALT_ASSIGN(auto pages, read_lazy_pages(images_->path()));
  std::uint64_t total_bytes = 0;
  for (const auto& [pid, ranges] : pages) total_bytes += ranges.bytes();
  std::uint64_t reported = 0;
  auto progress = [&](std::uint64_t done_bytes) {
    if (done_bytes < total_bytes && done_bytes - reported < (16U << 20)) return;
    reported = done_bytes;
    host_.progress(name_of(SourceState::kSendingPages), done_bytes, total_bytes);
  };
  PageSource source(linux_kernel(), *connection_);
  GESTALT_ASSIGN(auto counts, source.send_all(pages, progress, parameters_.deadline));
  report_.pages_sent = counts.sent;
  report_.pages_zero = counts.zero;
  return {};
}

Result<void> MigrationSource::await_ready() {
  enter(SourceState::kAwaitingReady);
  GESTALT_TRY(fault_point(Fault::kSourceAwaitReady));
  std::vector<std::byte> nothing;
  GESTALT_TRY(connection_->expect(FrameType::kReady, nothing, parameters_.deadline));
  return {};
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
Result<MigrationReport> MigrationSource::finish_granted() {
  enter(SourceState::kGranted);
  (void)fault_point(Fault::kSourceCommit);
  std::vector<std::byte> nothing;
  auto resumed = connection_->expect(FrameType::kResumed, nothing, deadline_in(kResumedTimeout));
  auto resumed_at = Clock::now();
  (void)fault_point(Fault::kSourceAwaitResumed);
  if (host_.await_outcome() != Verdict::kCompleted)
    return std::unexpected(roll_back(
        Error{ErrorCode::kUnavailable, "the destination failed before it ran the process", {}}));
  if (!resumed) resumed_at = Clock::now();
  enter(SourceState::kDestroying);
  (void)fault_point(Fault::kSourceDestroy);
  if (auto killed = unit_.group->kill(); !killed)
    log::error("cannot end the source's copy", log::field("error", killed.error().text()));
  state_.change(SourceState::kDestroying, SourceState::kCompleted);
  report_.freeze_seconds = seconds_between(frozen_at_, resumed_at);
  report_.total_seconds = seconds_between(started_, Clock::now());
  report_.wire_bytes = connection_->stream().bytes_sent() + connection_->stream().bytes_received();
  report_.processes = static_cast<std::uint32_t>(tree_.pids.size());
  report_.threads = tree_.threads;
  return report_;
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
}

Error MigrationSource::roll_back(Error cause) {
  log::warning("migration rolled back", log::field("migration", parameters_.migration_id),
               log::field("state", name_of(state_.get())), log::field("error", cause.text()));
  if (group_frozen_) {
    auto thawed = unit_.group->thaw(deadline_in(kFreezeTimeout));
    if (!thawed) log::error("cannot thaw", log::field("error", thawed.error().text()));
    group_frozen_ = false;
  }
  if (io_held_) host_.resume_io();
  state_.finish(SourceState::kRolledBack);
  return cause;
}

}  // namespace gestalt
