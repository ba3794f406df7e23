// The phases of a migration at its destination, in order. Any error up to the resume
// kills what was restored; after it, only the leader's verdict does.

#include "migrate/destination.h"

#include <fcntl.h>
#include <sys/statvfs.h>

#include <algorithm>
#include <array>
#include <future>
#include <sstream>

#include "common/fault.h"
#include "common/format.h"
#include "common/log.h"
#include "migrate/files_image.h"
#include "migrate/group_holder.h"
#include "migrate/registered_areas.h"
#include "migrate/tcp_probe.h"

namespace gestalt {
namespace {

constexpr int kFirstInheritedDescriptor = 20;
constexpr std::uint64_t kMaxPid = 1U << 22;
// A node is un-merged after five seconds of silence, and then the source may go on. An
// unconfirmed copy must have stopped by then: three seconds, and one for the resume.
constexpr auto kConfirmTimeout = std::chrono::seconds(3);
constexpr auto kResumeTimeout = std::chrono::seconds(1);
constexpr auto kFreezeTimeout = std::chrono::seconds(10);

// Arguments and environment: proc_pid_stat(5), fields 48 to 51.
std::vector<std::pair<std::uint64_t, std::uint64_t>> argument_areas(pid_t pid) {
  auto text = read_file(formatted("/proc/{}/stat", pid));
  auto name_end = text ? text->rfind(')') : std::string::npos;
  if (name_end == std::string::npos) return {};
  std::istringstream fields(text->substr(name_end + 1));
  std::string skipped;
  for (int field = 3; field < 48; ++field) fields >> skipped;
  std::array<std::uint64_t, 4> ends{};
  for (auto& each : ends) fields >> each;
  if (!fields) return {};
  return {{ends[0], ends[1]}, {ends[2], ends[3]}};
}

std::uint64_t free_bytes(const std::string& path) {
  struct statvfs info{};
  if (::statvfs(path.c_str(), &info) != 0) return 0;
  return static_cast<std::uint64_t>(info.f_bavail) * info.f_frsize;
}

}  // namespace

MigrationDestination::MigrationDestination(MigrationParameters parameters,
                                           std::string listen_address, std::uint16_t port,
                                           Cgroup& group, DestinationHost& host)
    : parameters_(std::move(parameters)),
      listen_address_(std::move(listen_address)),
      port_(port),
      group_(group),
      host_(host),
      state_(parameters_.migration_id) {}

MigrationDestination::~MigrationDestination() { close(); }

Result<void> MigrationDestination::run() {
  cpu_seconds_at_start_ = cpu_seconds();
  auto moved = receive_unit();
  if (moved) moved = confirm();
  if (moved && home_ != nullptr) home_->finish();
  if (moved) {
    enter(DestinationState::kPaging);
    (void)fault_point(Fault::kDestinationPaging);
    start_finisher();
    return {};
  }
  log::warning("migration failed here", log::field("migration", parameters_.migration_id),
               log::field("state", name_of(state_.get())),
               log::field("error", moved.error().text()));
  destroy();
  if (sink_) sink_->stop();
  if (home_ != nullptr) home_->give_up();
  state_.finish(DestinationState::kRolledBack);
  return moved;
}

Result<void> MigrationDestination::receive_unit() {
  GESTALT_ASSIGN(strategy_, strategy_of(parameters_.options.mode()));
  PageSinkOptions options;
  if (parameters_.options.has_prefetch_pages())
    options.max_prefetch_pages = parameters_.options.prefetch_pages();
  options.bandwidth_bytes_per_second = parameters_.options.bandwidth_bytes_per_second();
  GESTALT_TRY(keeper_.start(group_.directory_fd()));
  sink_ = std::make_unique<PageSink>(linux_kernel(), options, &keeper_);
  GESTALT_TRY(listen());
  GESTALT_TRY(await_control());
  GESTALT_TRY(receive_file_cache());
  enter(DestinationState::kReceivingState);
  GESTALT_TRY(fault_point(Fault::kDestinationReceiveState));
  GESTALT_ASSIGN(auto directory,
                 ImageDirectory::create(parameters_.image_directory,
                                        formatted("m-{}-destination", parameters_.migration_id)));
  images_ = std::make_unique<ImageDirectory>(std::move(directory));
  GESTALT_ASSIGN(image_fd_, open_file(images_->path(), O_RDONLY | O_DIRECTORY));
  GESTALT_ASSIGN([[maybe_unused]] auto bytes,
                 receive_images(*connection_, images_->path(), free_bytes(images_->path()),
                                parameters_.deadline));
  GESTALT_ASSIGN(auto text, read_file(formatted("{}/{}", images_->path(), kTraitsFile), 64U << 20));
  GESTALT_ASSIGN(traits_, decode_traits(text));
  GESTALT_ASSIGN(auto handover, receive_handover());
  GESTALT_ASSIGN(auto plan, host_.prepare_io(handover));
  root_ = plan.root;
  network_ = plan.network;
  home_ = plan.home;
  return restore(plan);
}

Result<void> MigrationDestination::receive_file_cache() {
  std::vector<CachedFile> files;
  std::vector<std::byte> payload;
  while (true) {
    GESTALT_ASSIGN(auto header, connection_->receive_header(parameters_.deadline));
    GESTALT_TRY(connection_->receive_payload(header, payload, parameters_.deadline));
    if (header.type == FrameType::kFileCacheEnd && header.argument == files.size()) break;
    if (header.type != FrameType::kFileCache || files.size() >= kMaxCachedFiles)
      return fail(ErrorCode::kProtocol, "unexpected frame among the cached files");
    GESTALT_ASSIGN(auto file, decode_cached_file(payload));
    files.push_back(std::move(file));
  }
  if (!files.empty()) warmer_ = std::make_unique<FileWarmer>(std::move(files));
  return {};
}

Result<void> MigrationDestination::receive_sets() {
  std::map<std::uint32_t, PageSet> fresh;
  RemoteMemory remote;
  std::vector<RemoteRange> ranges;
  std::vector<std::byte> payload;
  for (std::uint64_t frames = 0;; ++frames) {
    GESTALT_ASSIGN(auto header, connection_->receive_header(parameters_.deadline));
    GESTALT_TRY(connection_->receive_payload(header, payload, parameters_.deadline));
    if (header.type == FrameType::kSetsEnd) {
      if (header.argument != frames) return fail(ErrorCode::kProtocol, "page sets are missing");
      break;
    }
    if (header.type == FrameType::kStaging && header.argument >= kDemandLink &&
        header.argument <= kLastLink) {
      GESTALT_ASSIGN(remote.staging[header.argument], decode_staging(payload));
      continue;
    }
    if (header.type == FrameType::kRemoteRanges) {
      GESTALT_TRY(decode_remote_ranges(payload, ranges));
      continue;
    }
    bool known = header.type == FrameType::kPresent || header.type == FrameType::kFresh;
    if (!known || header.argument == 0 || header.argument > kMaxPid)
      return fail(ErrorCode::kProtocol, "unexpected frame among the page sets");
    auto& sets = header.type == FrameType::kPresent ? present_ : fresh;
    GESTALT_TRY(decode_page_set(payload, sets[static_cast<std::uint32_t>(header.argument)]));
  }
  GESTALT_ASSIGN(remote.ranges, RemoteRangeTable::make(std::move(ranges)));
  sink_->set_remote(std::move(remote));
  return sink_->set_pages(present_, fresh);
}

Result<std::string> MigrationDestination::receive_handover() {
  std::string handover;
  std::vector<std::byte> piece;
  while (true) {
    GESTALT_ASSIGN(auto header,
                   connection_->expect(FrameType::kHandover, piece, parameters_.deadline));
    if (header.argument > kMaxHandoverBytes || piece.size() > header.argument - handover.size())
      return fail(ErrorCode::kProtocol, "hand-over beyond its announced size");
    handover.append(reinterpret_cast<const char*>(piece.data()), piece.size());
    if (handover.size() == header.argument) return handover;
    if (piece.empty()) return fail(ErrorCode::kProtocol, "hand-over that does not advance");
  }
}

criu_req MigrationDestination::restore_request(const RestorePlan& plan) const {
  criu_req request;
  request.set_type(RESTORE);
  auto& options = *request.mutable_opts();
  // CRIU takes this number for one of ours, the others for its own.
  options.set_images_dir_fd(image_fd_.get());
  options.set_log_level(2);
  options.set_log_file("restore.log");
  options.set_notify_scripts(true);
  options.set_rst_sibling(true);
  options.set_shell_job(true);
  options.set_manage_cgroups_mode(IGNORE);
  options.set_manage_cgroups(true);
  options.set_file_locks(true);
  options.set_link_remap(true);
  options.set_lazy_pages(true);
  if (plan.network != nullptr) options.set_tcp_established(true);
  int number = kFirstInheritedDescriptor;
  for (const auto& [key, fd] : plan.inherited) {
    auto& entry = *options.add_inherit_fd();
    entry.set_key(key);
    entry.set_fd(number++);
  }
  if (plan.network != nullptr) {
    auto& entry = *options.add_inherit_fd();
    entry.set_key(kUnitNetworkKey);
    entry.set_fd(number);
  }
  return request;
}

Result<void> MigrationDestination::restore(const RestorePlan& plan) {
  enter(DestinationState::kRestoring);
  GESTALT_TRY(fault_point(Fault::kDestinationRestore));
  const char* terminal = plan.terminal >= 0 ? ::ttyname(plan.terminal) : nullptr;
  GESTALT_TRY(adapt_files_in(images_->path(), terminal != nullptr ? plan.terminal_name : "",
                             terminal != nullptr ? terminal : ""));
  GESTALT_TRY(sink_->start(images_->path()));
  if (network_ != nullptr) {
    GESTALT_TRY(network_->hold());
    GESTALT_TRY(network_->prepare());
  }
  // They follow the state, and CRIU's first fault waits for them.
  auto sets = std::async(std::launch::async, [this] {
                auto done = receive_sets();
                if (!done) (void)group_.kill();
                return done;
              }).share();
  CriuStart start;
  start.cgroup_fd = group_.directory_fd();
  start.personality = common_personality(traits_);
  start.group = plan.group;
  if (plan.terminal >= 0) start.descriptors.emplace_back(plan.terminal, 0);
  int number = kFirstInheritedDescriptor;
  for (const auto& [key, fd] : plan.inherited) start.descriptors.emplace_back(fd, number++);
  if (plan.network != nullptr) start.descriptors.emplace_back(plan.network->descriptor(), number);
  // CRIU gives the root its own group, if the group's leader is not among the restored.
  std::optional<GroupHolder> group;
  if (plan.group != 0 && plan.group != root_ && plan.group != ::getpgrp())
    if (auto held = GroupHolder::make(plan.group)) group.emplace(std::move(*held));
  auto criu = start_criu(start);
  group.reset();
  std::future<Result<void>> fetched;
  if (!criu) return restore_failed(std::unexpected(std::move(criu).error()), sets, fetched);

  // Pages may arrive while CRIU restores. If either fails, the other must not wait.
  if (strategy_.fetch_before_resume)
    fetched = std::async(std::launch::async, [this, sets]() -> Result<void> {
      auto done = sets.get();
      if (done) done = sink_->fetch_all(parameters_.deadline);
      if (!done) (void)group_.kill();
      return done;
    });
  auto notify = [&](std::string_view script) -> Result<void> {
    Result<void> done;
    if (script == "pre-resume" && home_ != nullptr) done = home_->occupied();
    if (done && script == "pre-resume") done = sets.get();
    if (done && script == "pre-resume" && fetched.valid()) {
      enter(DestinationState::kFetching);
      done = fetched.get();
    }
    if (done) done = on_notify(script);
    // CRIU resumes whatever we answer: leave it nothing to resume.
    if (!done) destroy();
    return done;
  };
  auto response = criu->request(restore_request(plan), notify, images_->path() + "/restore.log",
                                parameters_.deadline);
  if (resumed_) return {};
  return restore_failed(std::move(response), sets, fetched);
}

Result<void> MigrationDestination::restore_failed(Result<criu_resp> response,
                                                  const std::shared_future<Result<void>>& sets,
                                                  std::future<Result<void>>& fetched) {
  // From here on the source hears of it, and the leader may cancel what has failed already.
  bool was_cancelled = is_cancelled();
  // CRIU did not come as far as pre-resume, or not beyond it.
  auto received = sets.wait_for(std::chrono::seconds(0)) == std::future_status::ready
                      ? sets.get()
                      : Result<void>();
  connection_->stream().shut_down();
  sink_->stop();
  (void)sets.get();
  if (fetched.valid()) (void)fetched.get();
  // Whichever failed first took the other along; the lost connection is the less telling.
  auto failure = sink_->failure();
  if (was_cancelled) return fail(ErrorCode::kUnavailable, "the migration was cancelled");
  if (failure && (response || failure->code != ErrorCode::kUnavailable))
    return std::unexpected(*failure);
  if (!received && received.error().code != ErrorCode::kUnavailable) return received;
  if (!response) return std::unexpected(std::move(response).error());
  return fail(ErrorCode::kInternal, "CRIU restored the processes, but did not let them run");
}

Result<CriuClient> MigrationDestination::start_criu(const CriuStart& start) {
  if (home_ == nullptr) return CriuClient::start(start);
  GESTALT_ASSIGN(auto criu, home_->start_criu(start));
  GESTALT_TRY(fault_point(Fault::kDestinationHomeRoom));
  GESTALT_TRY(home_->make_room(parameters_.deadline));
  GESTALT_TRY(fault_point(Fault::kDestinationHomeRestore));
  return criu;
}

Result<void> MigrationDestination::on_notify(std::string_view script) {
  if (script == "pre-resume") return on_restored();
  if (script == "post-resume") on_resumed();
  return {};
}

// CRIU holds the processes at their last instruction.
Result<void> MigrationDestination::on_restored() {
  GESTALT_TRY(sink_->await_restored(parameters_.deadline));
  GESTALT_TRY(check_registered());
  GESTALT_ASSIGN(auto threads, group_.threads());
  set_traits(traits_, {threads.begin(), threads.end()});
  // What `ps` and the process itself read by /proc.
  for (const auto& [pid, pages] : present_)
    for (auto [start, end] : argument_areas(static_cast<pid_t>(pid)))
      GESTALT_TRY(sink_->bring(pid, start, end, parameters_.deadline));
  enter(DestinationState::kReady);
  GESTALT_TRY(fault_point(Fault::kDestinationReady));
  GESTALT_TRY(host_.before_resume(root_));
  GESTALT_TRY(connection_->send(FrameType::kReady, 0, std::string_view(), parameters_.deadline));
  GESTALT_TRY(fault_point(Fault::kDestinationAwaitCommit));
  GESTALT_ASSIGN(auto verdict, host_.await_verdict(parameters_.deadline));
  if (verdict != Verdict::kGranted)
    return fail(ErrorCode::kUnavailable, "the leader denied the migration");
  GESTALT_TRY(fault_point(Fault::kDestinationResume));
  GESTALT_TRY(host_.granted());
  return connect_network();
}

// The last thing before it runs: what this copy acknowledges the source's will never see.
Result<void> MigrationDestination::connect_network() {
  if (network_ == nullptr) return {};
  // The source has sent them before it asked the leader.
  std::vector<std::byte> payload;
  GESTALT_TRY(connection_->expect(FrameType::kPackets, payload, parameters_.deadline));
  GESTALT_ASSIGN(auto packets, decode_packets(payload));
  GESTALT_TRY(network_->connect());
  GESTALT_ASSIGN(auto pids, group_.processes());
  probe_tcp_peers(pids);
  network_->deliver(std::move(packets));
  return {};
}

// A page of a mapping that CRIU did not give to us would be a zero page for ever.
Result<void> MigrationDestination::check_registered() {
  for (const auto& [pid, pages] : present_) {
    GESTALT_ASSIGN(auto registered, read_registered_areas(static_cast<pid_t>(pid)));
    for (auto [start, end] : registered) {
      if (pages.pages_in(start, end) > 0) present_[pid].remove(start, end);
    }
    if (!present_[pid].empty())
      return fail(ErrorCode::kInternal,
                  formatted("CRIU restored {} pages of process {} in mappings that are not lazy",
                            present_[pid].pages(), pid));
  }
  return {};
}

void MigrationDestination::on_resumed() {
  resumed_ = true;
  enter(DestinationState::kResumed);
  wire::MigrationStats stats;
  sink_->report(stats);
  stats.set_destination_cpu_seconds(cpu_seconds() - cpu_seconds_at_start_);
  (void)connection_->send(FrameType::kResumed, static_cast<std::uint64_t>(root_),
                          stats.SerializeAsString(), deadline_in(kResumeTimeout));
  (void)fault_point(Fault::kDestinationConfirm);
  host_.resumed(root_);
  sink_->resumed(strategy_.push_after_resume, [this] {
    std::lock_guard lock(connection_mutex_);
    pages_complete_ = true;
    changed_.notify_all();
  });
}

Result<void> MigrationDestination::confirm() {
  auto verdict = host_.await_confirmation(deadline_in(kConfirmTimeout));
  if (!verdict) {
    log::warning("the leader does not confirm: frozen until it does",
                 log::field("migration", parameters_.migration_id));
    GESTALT_TRY(group_.freeze(deadline_in(kFreezeTimeout)));
    if (network_ != nullptr) GESTALT_TRY(network_->hold());
    verdict = host_.await_confirmation(Deadline::max());
  }
  if (!verdict) return std::unexpected(std::move(verdict).error());
  if (*verdict != Verdict::kCompleted)
    return fail(ErrorCode::kUnavailable, "the leader gave the process back to the source");
  if (!group_.frozen()) return {};
  if (network_ != nullptr) GESTALT_TRY(network_->connect());
  return group_.thaw(deadline_in(kFreezeTimeout));
}

void MigrationDestination::tell_source(const Error& error) {
  if (!connection_) return;
  (void)connection_->send(FrameType::kAbort, 0, error.message.substr(0, 1000),
                          deadline_in(std::chrono::seconds(1)));
  connection_->stream().shut_down();
}

bool MigrationDestination::is_cancelled() {
  std::lock_guard lock(connection_mutex_);
  return cancelled_;
}

void MigrationDestination::destroy() {
  if (home_ != nullptr) home_->hide_end();
  // The peers are not to hear of its end.
  if (network_ != nullptr)
    if (auto done = network_->disconnect(); !done)
      log::error("cannot disconnect", log::field("error", done.error().text()));
  if (auto killed = group_.kill(); !killed)
    log::error("cannot end what was restored", log::field("error", killed.error().text()));
}

}  // namespace gestalt
