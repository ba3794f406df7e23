// The destination's connections: the source opens them all, also again when one is lost
// after the commit; and the end of paging.
#include <algorithm>

#include "common/fault.h"
#include "common/log.h"
#include "migrate/destination.h"

namespace gestalt {
namespace {

constexpr auto kConnectTimeout = std::chrono::seconds(15);
constexpr auto kAuthenticateTimeout = std::chrono::seconds(2);
constexpr auto kAcceptPause = std::chrono::seconds(1);
constexpr auto kFailurePause = std::chrono::milliseconds(10);
constexpr auto kTellTimeout = std::chrono::seconds(3);

}  // namespace

Result<void> MigrationDestination::listen() {
  GESTALT_TRY(fault_point(Fault::kDestinationListen));
  GESTALT_ASSIGN(listener_, tcp_transport().listen(listen_address_, port_));
  enter(DestinationState::kListening);
  ListeningPorts ports{.tcp = listener_->port()};
  if (auto by_rdma = listen_by_rdma(); by_rdma)
    ports.rdma = rdma_listener_->port();
  else
    ports.rdma_reason = by_rdma.error().text();
  host_.listening(ports);
  acceptor_ = std::jthread([this] { accept_links(*listener_); });
  if (rdma_listener_) rdma_acceptor_ = std::jthread([this] { accept_links(*rdma_listener_); });
  return {};
}

Result<void> MigrationDestination::listen_by_rdma() {
  if (parameters_.options.transport() == "tcp")
    return fail(ErrorCode::kUnavailable, "TCP was asked for");
  GESTALT_ASSIGN(auto domain, RdmaDomain::at(listen_address_));
  GESTALT_ASSIGN(rdma_listener_, make_rdma_transport(domain)->listen(listen_address_, port_));
  return {};
}

// Strangers may connect to the port; each gets a moment to show that it is the source.
void MigrationDestination::accept_links(Listener& listener) {
  while (true) {
    {
      std::lock_guard lock(connection_mutex_);
      if (closing_ || cancelled_) return;
    }
    auto stream = listener.accept(deadline_in(kAcceptPause));
    if (!stream) {
      if (stream.error().code != ErrorCode::kTimeout) std::this_thread::sleep_for(kFailurePause);
      continue;
    }
    if (auto fault = fault_point(Fault::kDestinationAccept); !fault) continue;
    auto connection = std::make_unique<PageConnection>(std::move(*stream));
    std::uint64_t link = 0;
    auto known = authenticate(*connection, PageRole::kDestination, parameters_.secret, link,
                              deadline_in(kAuthenticateTimeout));
    if (known)
      take_link(std::move(connection), link);
    else
      log::warning("refused a page connection", log::field("error", known.error().text()));
  }
}

void MigrationDestination::take_link(std::unique_ptr<PageConnection> connection,
                                     std::uint64_t link) {
  if (link != kControlLink) {
    std::lock_guard attaching(attach_mutex_);
    return sink_->attach(link, std::move(connection));
  }
  std::lock_guard lock(connection_mutex_);
  // Before the commit there is one control connection, and it must not break.
  if (connection_ && !resumed_) return;
  connection_ = std::move(connection);
  changed_.notify_all();
}

Result<void> MigrationDestination::await_control() {
  std::unique_lock lock(connection_mutex_);
  Deadline deadline = std::min(parameters_.deadline, deadline_in(kConnectTimeout));
  if (!changed_.wait_until(lock, deadline, [this] { return connection_ || cancelled_; }))
    return fail(ErrorCode::kTimeout, "the source did not connect in time");
  if (cancelled_) return fail(ErrorCode::kUnavailable, "cancelled");
  return {};
}

void MigrationDestination::cancel() {
  {
    std::lock_guard lock(connection_mutex_);
    if (resumed_) return;
    cancelled_ = true;
    if (listener_) listener_->shut_down();
    if (rdma_listener_) rdma_listener_->shut_down();
    if (connection_) connection_->stream().shut_down();
    changed_.notify_all();
  }
}

// ------------------------------------------------------------ after the commit

void MigrationDestination::start_finisher() {
  finisher_ = std::jthread([this] { tell_done(); });
}

// Until the source has heard it, it keeps its copy: told again on each new connection.
void MigrationDestination::tell_done() {
  std::unique_lock lock(connection_mutex_);
  changed_.wait(lock, [this] { return pages_complete_ || closing_; });
  if (!pages_complete_) return;
  (void)fault_point(Fault::kDestinationDone);
  wire::MigrationStats stats;
  sink_->report(stats);
  stats.set_destination_cpu_seconds(cpu_seconds() - cpu_seconds_at_start_);
  while (!closing_ && !source_knows_) {
    auto connection = connection_;
    lock.unlock();
    auto told =
        connection->send(FrameType::kDone, 0, stats.SerializeAsString(), deadline_in(kTellTimeout));
    std::vector<std::byte> nothing;
    if (told) {
      auto answer = connection->expect(FrameType::kDoneAck, nothing, deadline_in(kTellTimeout));
      if (!answer) told = std::unexpected(std::move(answer).error());
    }
    lock.lock();
    source_knows_ = told.has_value();
    // A source that waits for no pages has closed the connection, and needs no word.
    if (!source_knows_ && !strategy_.pages_stay_behind()) source_knows_ = true;
    if (!source_knows_)
      changed_.wait_for(lock, kTellTimeout, [&] { return closing_ || connection_ != connection; });
  }
  changed_.notify_all();
  bool tell = !closing_;
  lock.unlock();
  if (tell) host_.paging_finished();
}

bool MigrationDestination::paging() {
  std::lock_guard lock(connection_mutex_);
  return !pages_complete_;
}

void MigrationDestination::hurry() { sink_->hurry(); }

Result<void> MigrationDestination::finish_paging(Deadline deadline) {
  hurry();
  std::unique_lock lock(connection_mutex_);
  if (!changed_.wait_until(lock, deadline, [this] { return pages_complete_ || closing_; }))
    return fail(ErrorCode::kTimeout,
                "pages of the process's last migration are still at their source",
                "see `gestalt migrations`; try again when they have arrived");
  return {};
}

void MigrationDestination::processes_ended() { sink_->forget_all(); }

void MigrationDestination::close() {
  {
    std::lock_guard lock(connection_mutex_);
    closing_ = true;
    if (listener_) listener_->shut_down();
    if (rdma_listener_) rdma_listener_->shut_down();
    if (connection_) connection_->stream().shut_down();
    changed_.notify_all();
  }
  if (finisher_.joinable()) finisher_.join();
  if (acceptor_.joinable()) acceptor_.join();
  if (rdma_acceptor_.joinable()) rdma_acceptor_.join();
  if (sink_) sink_->stop();
}

}  // namespace gestalt
