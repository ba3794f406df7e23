// The source's connections, and by what transport they are made.
#include <algorithm>

#include "common/fault.h"
#include "common/log.h"
#include "common/no_rdma.h"
#include "migrate/source.h"

namespace gestalt {
namespace {

constexpr auto kConnectTimeout = std::chrono::seconds(10);
// Then there is time left for TCP.
constexpr auto kRdmaTimeout = std::chrono::seconds(3);

}  // namespace

Result<void> MigrationSource::connect() {
  enter(SourceState::kConnecting);
  GESTALT_TRY(fault_point(Fault::kSourceConnect));
  Deadline deadline = std::min(parameters_.deadline, deadline_in(kConnectTimeout));
  const auto& options = parameters_.options;
  GESTALT_ASSIGN(auto control, open_link(kControlLink, deadline));
  ChunkOptions chunks{.compress = options.compress(), .checksum = options.checksum()};
  {
    std::lock_guard lock(connection_mutex_);
    if (cancelled_) return fail(ErrorCode::kUnavailable, "cancelled");
    connection_ = std::move(control);
    server_ = std::make_unique<PageServer>(
        linux_kernel(), chunks, options.bandwidth_bytes_per_second(),
        [this](std::uint64_t link, Deadline by) { return open_link(link, by); });
  }
  // Behind the control link: a peer whose hardware address is not known yet takes RDMA seconds.
  GESTALT_TRY(prepare_rdma(std::min(deadline, deadline_in(kRdmaTimeout))));
  std::uint64_t streams = options.streams() > 0 ? options.streams() : kDefaultStreams;
  GESTALT_TRY(server_->connect(std::min(streams, kMaxBulkLinks), deadline));
  // What is connected again later on, is by TCP: the keys ended with the link.
  rdma_.reset();
  stats_.set_transport(domain_ ? "rdma" : "tcp");
  return {};
}

Result<void> MigrationSource::prepare_rdma(Deadline deadline) {
  if (parameters_.options.transport() == "tcp") return {};
  if (unit_.rdma_port == 0) return go_without_rdma(rdma_not_offered(unit_.rdma_reason));
  auto domain = RdmaDomain::towards(unit_.address, deadline);
  if (!domain) return go_without_rdma(std::move(domain).error());
  domain_ = std::move(*domain);
  rdma_ = make_rdma_transport(domain_);
  return {};
}

// Before anything has been stopped.
Result<void> MigrationSource::go_without_rdma(Error why) {
  rdma_.reset();
  domain_.reset();
  if (parameters_.options.transport() == "rdma")
    return std::unexpected(rdma_refused(std::move(why)));
  log::info("pages go by TCP", log::field("migration", parameters_.migration_id),
            log::field("why", why.text()));
  stats_.set_transport_reason(why.text());
  return {};
}

// Should one of them fail by RDMA, it and the later ones are TCP. Control always is: it carries
// keys and tells whether the other end lives.
Result<std::unique_ptr<PageConnection>> MigrationSource::open_link(std::uint64_t link,
                                                                   Deadline deadline) {
  if (rdma_ && link != kControlLink) {
    auto opened = open_rdma_link(link, std::min(deadline, deadline_in(kRdmaTimeout)));
    if (opened) return opened;
    GESTALT_TRY(go_without_rdma(std::move(opened).error()));
  }
  return open_link_by(tcp_transport(), unit_.port, link, deadline);
}

Result<std::unique_ptr<PageConnection>> MigrationSource::open_rdma_link(std::uint64_t link,
                                                                        Deadline deadline) {
  if (link != kDemandLink) GESTALT_TRY(fault_point(Fault::kSourceRdmaLink));
  GESTALT_ASSIGN(auto connection, open_link_by(*rdma_, unit_.rdma_port, link, deadline));
  if (OneSided* one_sided = connection->stream().one_sided(); one_sided != nullptr)
    GESTALT_TRY(one_sided->share(staging_shape(link).bytes()));
  return connection;
}

Result<std::unique_ptr<PageConnection>> MigrationSource::open_link_by(Transport& transport,
                                                                      std::uint16_t port,
                                                                      std::uint64_t link,
                                                                      Deadline deadline) {
  GESTALT_ASSIGN(auto stream, transport.connect(unit_.address, port, deadline));
  auto connection = std::make_unique<PageConnection>(std::move(stream));
  GESTALT_TRY(authenticate(*connection, PageRole::kSource, parameters_.secret, link, deadline));
  return connection;
}

}  // namespace gestalt
