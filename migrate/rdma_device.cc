#include "migrate/rdma_device.h"

#include <netdb.h>
#include <poll.h>
#include <sys/mman.h>
#include <sys/resource.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <utility>

#include "common/fd.h"
#include "common/format.h"

namespace gestalt {
namespace {

constexpr std::uint8_t kMaxReads = 16;  // what most devices offer
constexpr auto kResolveTimeout = std::chrono::seconds(2);
constexpr char kNoDevice[] = "load the network card's RDMA driver, or use --transport tcp";

Unexpected no_rdma(std::string why, std::string remedy = kNoDevice) {
  return fail(ErrorCode::kUnavailable, std::move(why), std::move(remedy));
}

std::string name_of(rdma_cm_event_type type) { return ::rdma_event_str(type); }

}  // namespace

// librdmacm would complain on stderr.
Result<RdmaOwned<rdma_event_channel>> RdmaId::make_channel() {
  std::error_code error;
  if (!std::filesystem::exists("/dev/infiniband/rdma_cm", error))
    return no_rdma("there is no /dev/infiniband/rdma_cm", "modprobe rdma_ucm");
  if (std::filesystem::directory_iterator("/sys/class/infiniband", error) ==
      std::filesystem::directory_iterator())
    return no_rdma("this machine has no RDMA device");
  RdmaOwned<rdma_event_channel> channel(::rdma_create_event_channel());
  if (!channel) return fail_errno(errno, "open /dev/infiniband/rdma_cm");
  GESTALT_TRY(set_nonblocking(channel->fd, true));
  return channel;
}

Result<RdmaId> RdmaId::make() {
  RdmaId out;
  GESTALT_ASSIGN(out.channel, make_channel());
  rdma_cm_id* id = nullptr;
  if (::rdma_create_id(out.channel.get(), &id, nullptr, RDMA_PS_TCP) != 0)
    return fail_errno(errno, "make an RDMA connection id");
  out.id.reset(id);
  return out;
}

Result<RdmaEvent> next_rdma_event(rdma_event_channel& channel, Deadline deadline) {
  rdma_cm_event* event = nullptr;
  while (::rdma_get_cm_event(&channel, &event) != 0) {
    if (errno == EINTR) continue;
    if (errno != EAGAIN) return fail_errno(errno, "read an RDMA connection event");
    GESTALT_TRY(wait_for(channel.fd, POLLIN, deadline));
  }
  RdmaEvent out{.type = event->event, .status = event->status, .id = event->id};
  const auto& param = event->param.conn;
  out.responder_resources = param.responder_resources;
  out.initiator_depth = param.initiator_depth;
  out.greeting_bytes = std::min<std::size_t>(param.private_data_len, out.greeting.size());
  if (param.private_data == nullptr) out.greeting_bytes = 0;
  if (out.greeting_bytes > 0)
    std::memcpy(out.greeting.data(), param.private_data, out.greeting_bytes);
  (void)::rdma_ack_cm_event(event);
  return out;
}

Result<RdmaEvent> expect_rdma_event(rdma_event_channel& channel, rdma_cm_event_type type,
                                    Deadline deadline) {
  GESTALT_ASSIGN(auto event, next_rdma_event(channel, deadline));
  if (event.type == type) return event;
  std::string text = name_of(event.type);
  if (event.status < 0) text += formatted(": {}", std::strerror(-event.status));
  return fail(ErrorCode::kUnavailable, std::move(text));
}

Result<RdmaAddress> RdmaAddress::parse(const std::string& address, std::uint16_t port) {
  addrinfo hints{};
  hints.ai_socktype = SOCK_STREAM;
  hints.ai_flags = AI_NUMERICHOST | AI_NUMERICSERV;
  addrinfo* found = nullptr;
  if (::getaddrinfo(address.c_str(), std::to_string(port).c_str(), &hints, &found) != 0)
    return fail(ErrorCode::kInvalidArgument, formatted("\"{}\" is no IP address", address));
  RdmaAddress out;
  std::memcpy(&out.storage, found->ai_addr, found->ai_addrlen);
  ::freeaddrinfo(found);
  return out;
}

Result<std::shared_ptr<RdmaDomain>> RdmaDomain::at(const std::string& local_address) {
  GESTALT_ASSIGN(auto anchor, RdmaId::make());
  GESTALT_ASSIGN(auto address, RdmaAddress::parse(local_address, 0));
  if (::rdma_bind_addr(anchor.id.get(), address.get()) != 0)
    return fail_errno(errno, formatted("find the RDMA device with address {}", local_address),
                      kNoDevice);
  if (anchor.id->verbs == nullptr)
    return no_rdma(formatted("{} is no RDMA device's address", local_address));
  return make(std::move(anchor));
}

Result<std::shared_ptr<RdmaDomain>> RdmaDomain::towards(const std::string& address,
                                                        Deadline deadline) {
  GESTALT_ASSIGN(auto anchor, RdmaId::make());
  GESTALT_ASSIGN(auto peer, RdmaAddress::parse(address, 1));
  deadline = std::min(deadline, deadline_in(kResolveTimeout));
  std::string what = formatted("no RDMA device leads to {}", address);
  if (::rdma_resolve_addr(anchor.id.get(), nullptr, peer.get(), remaining_milliseconds(deadline)) !=
      0)
    return fail_errno(errno, what, kNoDevice);
  auto resolved = expect_rdma_event(*anchor.channel, RDMA_CM_EVENT_ADDR_RESOLVED, deadline);
  if (!resolved) return no_rdma(formatted("{}: {}", what, resolved.error().message));
  return make(std::move(anchor));
}

Result<std::shared_ptr<RdmaDomain>> RdmaDomain::make(RdmaId anchor) {
  auto out = std::make_shared<RdmaDomain>();
  out->anchor_ = std::move(anchor);
  if (::ibv_query_device(out->context(), &out->limits_) != 0)
    return fail_errno(errno, formatted("ask RDMA device {}", out->name()));
  out->pd_.reset(::ibv_alloc_pd(out->context()));
  if (!out->pd_) return fail_errno(errno, formatted("use RDMA device {}", out->name()));
  return out;
}

std::uint8_t RdmaDomain::max_reads() const {
  int most = std::min({int{kMaxReads}, limits_.max_qp_rd_atom, limits_.max_qp_init_rd_atom});
  return static_cast<std::uint8_t>(std::max(most, 1));
}

Error registration_error(int error_number, std::size_t bytes) {
  rlimit limit{};
  (void)::getrlimit(RLIMIT_MEMLOCK, &limit);
  // EPERM: nothing at all may be locked.
  if (error_number != ENOMEM && error_number != EPERM)
    return fail_errno(error_number, "register memory for RDMA").error();
  std::string most = limit.rlim_cur == RLIM_INFINITY
                         ? "there is no limit but memory itself"
                         : formatted("{} KiB may be locked", limit.rlim_cur >> 10);
  return {ErrorCode::kNoSpace,
          formatted("cannot lock {} KiB of memory for RDMA: {}", bytes >> 10, most),
          "raise LimitMEMLOCK= of gestaltd.service (ulimit -l), or use --transport tcp"};
}

Result<RdmaRegion> RdmaRegion::make(std::shared_ptr<RdmaDomain> domain, std::size_t bytes,
                                    int access) {
  void* memory = ::mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (memory == MAP_FAILED) return fail_errno(errno, "get memory for RDMA");
  RdmaRegion out;
  out.domain_ = std::move(domain);
  out.memory_ = {static_cast<std::byte*>(memory), bytes};
  if (::madvise(memory, bytes, MADV_DONTFORK) != 0)
    return fail_errno(errno, "keep memory for RDMA from children");
  out.mr_.reset(::ibv_reg_mr(out.domain_->pd(), memory, bytes, access));
  if (!out.mr_) return std::unexpected(registration_error(errno, bytes));
  return out;
}

RdmaRegion& RdmaRegion::operator=(RdmaRegion&& other) noexcept {
  if (this == &other) return *this;
  reset();
  memory_ = std::exchange(other.memory_, {});
  mr_ = std::move(other.mr_);
  domain_ = std::move(other.domain_);
  return *this;
}

void RdmaRegion::reset() {
  mr_.reset();
  if (!memory_.empty()) ::munmap(memory_.data(), memory_.size());
  memory_ = {};
  domain_.reset();
}

}  // namespace gestalt
