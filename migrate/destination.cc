// The phases of a migration at its destination, in order. Any error up to the resume
// kills what was restored; after it, only the leader's verdict does.

#include "migrate/destination.h"

#include <fcntl.h>
#include <sys/statvfs.h>

#include <algorithm>
#include <cstring>
#include <future>

#include "common/fault.h"
#include "common/log.h"
#include "migrate/pagemap_image.h"

namespace gestalt {
namespace {

constexpr int kFirstInheritedDescriptor = 20;
constexpr auto kConnectTimeout = std::chrono::seconds(15);
constexpr auto kAuthenticateTimeout = std::chrono::seconds(2);
// A node is un-merged after five seconds of silence, and then the source may go on. An
// unconfirmed copy must have stopped by then: three seconds, and one for the resume.
constexpr auto kConfirmTimeout = std::chrono::seconds(3);
constexpr auto kResumeTimeout = std::chrono::seconds(1);
constexpr auto kFreezeTimeout = std::chrono::seconds(10);

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

Result<void> MigrationDestination::run() {
  auto moved = receive_unit();
  if (moved) moved = confirm();
  if (moved) {
    enter(DestinationState::kCompleted);
    return {};
  }
  log::warning("migration failed here", log::field("migration", parameters_.migration_id),
               log::field("state", name_of(state_.get())),
               log::field("error", moved.error().text()));
  destroy();
  state_.finish(DestinationState::kRolledBack);
  return moved;
}

Result<void> MigrationDestination::receive_unit() {
  GESTALT_TRY(accept_source());
  enter(DestinationState::kReceivingState);
  GESTALT_TRY(fault_point(Fault::kDestinationReceiveState));
  GESTALT_ASSIGN(auto directory,
                 ImageDirectory::create(parameters_.image_directory,
                                        std::format("m-{}-destination", parameters_.migration_id)));
  images_ = std::make_unique<ImageDirectory>(std::move(directory));
  GESTALT_ASSIGN(image_fd_, open_file(images_->path(), O_RDONLY | O_DIRECTORY));
  GESTALT_ASSIGN([[maybe_unused]] auto bytes,
                 receive_images(*connection_, images_->path(), free_bytes(images_->path()),
                                parameters_.deadline));
  GESTALT_ASSIGN(auto handover, receive_handover());
  GESTALT_ASSIGN(auto plan, host_.prepare_io(handover));
  root_ = plan.root;
  return restore(plan);
}

// Strangers may connect to the port; each gets a moment to show that it is the source.
Result<void> MigrationDestination::accept_source() {
  GESTALT_TRY(fault_point(Fault::kDestinationListen));
  GESTALT_ASSIGN(auto listener, tcp_transport().listen(listen_address_, port_));
  enter(DestinationState::kListening);
  host_.listening(listener->port());
  Deadline deadline = std::min(parameters_.deadline, deadline_in(kConnectTimeout));
  while (true) {
    auto stream = listener->accept(deadline);
    if (!stream)
      return std::unexpected(std::move(stream).error().in("waiting for the source to connect"));
    GESTALT_TRY(fault_point(Fault::kDestinationAccept));
    auto connection = std::make_unique<PageConnection>(std::move(*stream));
    auto known = authenticate(*connection, PageRole::kDestination, parameters_.secret,
                              std::min(deadline, deadline_in(kAuthenticateTimeout)));
    if (known) {
      std::lock_guard lock(connection_mutex_);
      if (cancelled_) return fail(ErrorCode::kUnavailable, "cancelled");
      connection_ = std::move(connection);
      return {};
    }
    log::warning("refused a page connection", log::field("error", known.error().text()));
  }
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
  int number = kFirstInheritedDescriptor;
  for (const auto& [key, fd] : plan.inherited) {
    auto& entry = *options.add_inherit_fd();
    entry.set_key(key);
    entry.set_fd(number++);
  }
  return request;
}

Result<void> MigrationDestination::restore(const RestorePlan& plan) {
  enter(DestinationState::kRestoring);
  GESTALT_TRY(fault_point(Fault::kDestinationRestore));
  GESTALT_ASSIGN(auto pages, read_lazy_pages(images_->path()));
  PageSink sink(linux_kernel(), std::move(pages));
  GESTALT_TRY(sink.start(images_->path()));

  CriuStart start;
  start.cgroup_fd = group_.directory_fd();
  if (plan.terminal >= 0) start.descriptors.emplace_back(plan.terminal, 0);
  int number = kFirstInheritedDescriptor;
  for (const auto& [key, fd] : plan.inherited) start.descriptors.emplace_back(fd, number++);
  GESTALT_ASSIGN(auto criu, CriuClient::start(start));

  // Pages arrive while CRIU restores. If either fails, the other must not wait.
  auto received = std::async(std::launch::async, [&] {
    auto done = sink.receive_all(*connection_, parameters_.deadline);
    if (!done) (void)group_.kill();
    return done;
  });
  auto on_notify = [&](std::string_view script) -> Result<void> {
    if (script != "pre-resume") return {};
    auto ready = received.get();
    if (ready) ready = on_restored(sink);
    // CRIU resumes whatever we answer: leave it nothing to resume.
    if (!ready) (void)group_.kill();
    return ready;
  };
  auto response = criu.request(restore_request(plan), on_notify, images_->path() + "/restore.log",
                               parameters_.deadline);
  if (received.valid()) {
    // CRIU did not come as far as pre-resume.
    connection_->stream().shut_down();
    auto pages_done = received.get();
    // Whichever failed first took the other along; the lost connection is the less telling.
    bool pages_first = !pages_done && pages_done.error().code != ErrorCode::kUnavailable;
    if (pages_first) return pages_done;
    if (!pages_done)
      log::warning("no pages either", log::field("migration", parameters_.migration_id),
                   log::field("error", pages_done.error().text()));
    if (is_cancelled()) return fail(ErrorCode::kUnavailable, "the migration was cancelled");
  }
  if (auto failure = sink.failure(); failure && !resumed_) return std::unexpected(*failure);
  if (!response) return std::unexpected(std::move(response).error());
  if (response->restore().pid() != root_)
    return fail(ErrorCode::kInternal,
                std::format("CRIU restored pid {}, expected {}", response->restore().pid(), root_));
  return {};
}

// All pages are here, CRIU holds the processes at their last instruction.
Result<void> MigrationDestination::on_restored(PageSink& sink) {
  if (auto failure = sink.failure()) return std::unexpected(*failure);
  sink.finish();
  enter(DestinationState::kReady);
  GESTALT_TRY(fault_point(Fault::kDestinationReady));
  GESTALT_TRY(host_.before_resume(root_));
  GESTALT_TRY(connection_->send(FrameType::kReady, 0, std::string_view(), parameters_.deadline));
  GESTALT_TRY(fault_point(Fault::kDestinationAwaitCommit));
  GESTALT_ASSIGN(auto verdict, host_.await_verdict(parameters_.deadline));
  if (verdict != Verdict::kGranted)
    return fail(ErrorCode::kUnavailable, "the leader denied the migration");
  GESTALT_TRY(fault_point(Fault::kDestinationResume));
  return {};
}

Result<void> MigrationDestination::confirm() {
  resumed_ = true;
  enter(DestinationState::kResumed);
  (void)connection_->send(FrameType::kResumed, static_cast<std::uint64_t>(root_),
                          std::string_view(), deadline_in(kResumeTimeout));
  (void)fault_point(Fault::kDestinationConfirm);
  host_.resumed(root_);
  auto verdict = host_.await_confirmation(deadline_in(kConfirmTimeout));
  if (!verdict) {
    log::warning("the leader does not confirm: frozen until it does",
                 log::field("migration", parameters_.migration_id));
    GESTALT_TRY(group_.freeze(deadline_in(kFreezeTimeout)));
    verdict = host_.await_confirmation(Deadline::max());
  }
  if (!verdict) return std::unexpected(std::move(verdict).error());
  if (*verdict != Verdict::kCompleted)
    return fail(ErrorCode::kUnavailable, "the leader gave the process back to the source");
  if (group_.frozen()) return group_.thaw(deadline_in(kFreezeTimeout));
  return {};
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

void MigrationDestination::cancel() {
  std::lock_guard lock(connection_mutex_);
  cancelled_ = true;
  if (connection_) connection_->stream().shut_down();
}

void MigrationDestination::destroy() {
  if (auto killed = group_.kill(); !killed)
    log::error("cannot end what was restored", log::field("error", killed.error().text()));
}

}  // namespace gestalt
