#include "migrate/rdma_transport.h"

#include <poll.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cerrno>

#include "common/fd.h"
#include "common/format.h"
#include "migrate/rdma_stream.h"

namespace gestalt {
namespace {

constexpr int kBacklog = 8;

class RdmaListener final : public Listener {
 public:
  RdmaListener(RdmaId id, std::shared_ptr<RdmaDomain> domain, Pipe wake)
      : id_(std::move(id)), domain_(std::move(domain)), wake_(std::move(wake)) {}

  std::uint16_t port() const override { return ntohs(::rdma_get_src_port(id_.id.get())); }

  Result<std::unique_ptr<Stream>> accept(Deadline deadline) override {
    while (true) {
      GESTALT_TRY(wait_for_event(deadline));
      auto event = next_rdma_event(*id_.channel, Deadline{});
      if (!event && event.error().code == ErrorCode::kTimeout) continue;
      if (!event) return std::unexpected(std::move(event).error());
      if (event->type == RDMA_CM_EVENT_DEVICE_REMOVAL)
        return fail(ErrorCode::kUnavailable, "the RDMA device was removed");
      if (event->type != RDMA_CM_EVENT_CONNECT_REQUEST) continue;
      return take(*event);
    }
  }

  void shut_down() override {
    char byte = 0;
    (void)::write(wake_.write.get(), &byte, 1);
  }

 private:
  Result<void> wait_for_event(Deadline deadline) {
    std::array<pollfd, 2> polled{{{id_.channel->fd, POLLIN, 0}, {wake_.read.get(), POLLIN, 0}}};
    int ready = ::poll(polled.data(), polled.size(), remaining_milliseconds(deadline));
    if (polled[1].revents != 0) return fail(ErrorCode::kUnavailable, "not listening any more");
    if (ready == 0) return fail(ErrorCode::kTimeout, "timed out waiting for the peer");
    return {};
  }

  // A request that is not accepted is refused when its id goes.
  Result<std::unique_ptr<Stream>> take(const RdmaEvent& request) {
    RdmaId id;
    id.id.reset(request.id);
    GESTALT_ASSIGN(id.channel, RdmaId::make_channel());
    if (::rdma_migrate_id(id.id.get(), id.channel.get()) != 0)
      return fail_errno(errno, "take an RDMA connection");
    GESTALT_ASSIGN(auto stream, RdmaStream::make(std::move(id), domain_));
    GESTALT_TRY(stream->accept(request));
    return stream;
  }

  RdmaId id_;
  std::shared_ptr<RdmaDomain> domain_;
  Pipe wake_;
};

class RdmaTransport final : public Transport {
 public:
  explicit RdmaTransport(std::shared_ptr<RdmaDomain> domain) : domain_(std::move(domain)) {}

  Result<std::unique_ptr<Listener>> listen(const std::string& address,
                                           std::uint16_t port) override {
    GESTALT_ASSIGN(auto id, RdmaId::make());
    GESTALT_ASSIGN(auto where, RdmaAddress::parse(address, port));
    if (::rdma_bind_addr(id.id.get(), where.get()) != 0 ||
        ::rdma_listen(id.id.get(), kBacklog) != 0)
      return fail_errno(errno, formatted("listen on {} port {} by RDMA", address, port));
    GESTALT_ASSIGN(auto wake, make_pipe());
    return std::make_unique<RdmaListener>(std::move(id), domain_, std::move(wake));
  }

  Result<std::unique_ptr<Stream>> connect(const std::string& address, std::uint16_t port,
                                          Deadline deadline) override {
    auto stream = try_to_connect(address, port, deadline);
    if (stream) return stream;
    return std::unexpected(
        std::move(stream).error().in(formatted("connect to {} port {} by RDMA", address, port)));
  }

 private:
  Result<std::unique_ptr<Stream>> try_to_connect(const std::string& address, std::uint16_t port,
                                                 Deadline deadline) {
    GESTALT_ASSIGN(auto id, RdmaId::make());
    GESTALT_ASSIGN(auto peer, RdmaAddress::parse(address, port));
    if (::rdma_resolve_addr(id.id.get(), nullptr, peer.get(), remaining_milliseconds(deadline)) !=
        0)
      return fail_errno(errno, "resolve the address");
    GESTALT_TRY(expect_rdma_event(*id.channel, RDMA_CM_EVENT_ADDR_RESOLVED, deadline));
    if (::rdma_resolve_route(id.id.get(), remaining_milliseconds(deadline)) != 0)
      return fail_errno(errno, "resolve the route");
    GESTALT_TRY(expect_rdma_event(*id.channel, RDMA_CM_EVENT_ROUTE_RESOLVED, deadline));
    GESTALT_ASSIGN(auto stream, RdmaStream::make(std::move(id), domain_));
    GESTALT_TRY(stream->connect(deadline));
    return stream;
  }

  std::shared_ptr<RdmaDomain> domain_;
};

}  // namespace

std::unique_ptr<Transport> make_rdma_transport(std::shared_ptr<RdmaDomain> domain) {
  return std::make_unique<RdmaTransport>(std::move(domain));
}

}  // namespace gestalt
