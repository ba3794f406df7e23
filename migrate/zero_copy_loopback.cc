#include "migrate/zero_copy_loopback.h"

#include <algorithm>
#include <cerrno>
#include <ctime>

#include "common/format.h"

namespace gestalt {
namespace {

constexpr std::size_t kPieceBytes = 1U << 20;
constexpr int kPiecesUnderWay = 8;
constexpr int kGidsToTry = 32;
constexpr std::uint8_t kPort = 1;
constexpr std::uint8_t kReadsUnderWay = 8;

ibv_context* open_context(const std::string& name) {
  int count = 0;
  ibv_device** devices = ::ibv_get_device_list(&count);
  ibv_context* context = nullptr;
  for (int i = 0; i < count && context == nullptr; ++i)
    if (name.empty() || name == ::ibv_get_device_name(devices[i]))
      context = ::ibv_open_device(devices[i]);
  if (devices != nullptr) ::ibv_free_device_list(devices);
  return context;
}

Unexpected fail_verbs(const char* what) { return fail_errno(errno, what); }

}  // namespace

Result<std::unique_ptr<ZeroCopyLoopback>> ZeroCopyLoopback::open(const std::string& name) {
  std::unique_ptr<ZeroCopyLoopback> out(new ZeroCopyLoopback());
  out->context_.reset(open_context(name));
  if (!out->context_)
    return fail(ErrorCode::kNotFound, formatted("there is no RDMA device {}", name));
  out->domain_.reset(::ibv_alloc_pd(out->context_.get()));
  if (!out->domain_) return fail_verbs("make a protection domain");
  out->completions_.reset(
      ::ibv_create_cq(out->context_.get(), 2 * kPiecesUnderWay, nullptr, nullptr, 0));
  if (!out->completions_) return fail_verbs("make a completion queue");
  out->device_.command_fd = out->context_->cmd_fd;
  out->device_.protection_domain = out->domain_->handle;
  GESTALT_ASSIGN(out->device_.driver, find_driver(out->context_->cmd_fd));
  GESTALT_TRY(out->connect());
  return out;
}

// One with an IPv4 address, if there is one: those are routed as everything else.
Result<int> ZeroCopyLoopback::choose_gid() const {
  int chosen = -1;
  for (int i = 0; i < kGidsToTry; ++i) {
    ibv_gid gid{};
    if (::ibv_query_gid(context_.get(), kPort, i, &gid) != 0) break;
    if (gid.global.interface_id == 0) continue;
    bool is_ipv4 = gid.raw[10] == 0xff && gid.raw[11] == 0xff;
    if (chosen < 0 || is_ipv4) chosen = i;
    if (is_ipv4) break;
  }
  if (chosen < 0) return fail(ErrorCode::kUnavailable, "an RDMA device has no address");
  return chosen;
}

Result<void> ZeroCopyLoopback::connect() {
  ibv_qp_init_attr wanted{};
  wanted.send_cq = wanted.recv_cq = completions_.get();
  wanted.cap = {kPiecesUnderWay, 1, 1, 1, 0};
  wanted.qp_type = IBV_QPT_RC;
  for (auto* pair : {&reader_, &source_}) {
    pair->reset();
    pair->reset(::ibv_create_qp(domain_.get(), &wanted));
    if (!*pair) return fail_verbs("make a queue pair");
  }
  GESTALT_TRY(make_ready(*source_, *reader_));
  return make_ready(*reader_, *source_);
}

Result<void> ZeroCopyLoopback::make_ready(ibv_qp& pair, const ibv_qp& peer) {
  ibv_port_attr port{};
  if (::ibv_query_port(context_.get(), kPort, &port) != 0) return fail_verbs("ask for a port");

  ibv_qp_attr attributes{};
  attributes.qp_state = IBV_QPS_INIT;
  attributes.port_num = kPort;
  attributes.qp_access_flags = IBV_ACCESS_REMOTE_READ;
  if (::ibv_modify_qp(&pair, &attributes,
                      IBV_QP_STATE | IBV_QP_PKEY_INDEX | IBV_QP_PORT | IBV_QP_ACCESS_FLAGS) != 0)
    return fail_verbs("initialise a queue pair");

  attributes = {};
  attributes.qp_state = IBV_QPS_RTR;
  attributes.path_mtu = port.active_mtu;
  attributes.dest_qp_num = peer.qp_num;
  attributes.max_dest_rd_atomic = kReadsUnderWay;
  attributes.min_rnr_timer = 12;
  attributes.ah_attr.port_num = kPort;
  attributes.ah_attr.dlid = port.lid;
  if (port.link_layer == IBV_LINK_LAYER_ETHERNET) {
    GESTALT_ASSIGN(int gid, choose_gid());
    attributes.ah_attr.is_global = 1;
    attributes.ah_attr.grh.sgid_index = static_cast<std::uint8_t>(gid);
    attributes.ah_attr.grh.hop_limit = 4;
    if (::ibv_query_gid(context_.get(), kPort, gid, &attributes.ah_attr.grh.dgid) != 0)
      return fail_verbs("ask for an address");
  }
  if (::ibv_modify_qp(&pair, &attributes,
                      IBV_QP_STATE | IBV_QP_AV | IBV_QP_PATH_MTU | IBV_QP_DEST_QPN | IBV_QP_RQ_PSN |
                          IBV_QP_MAX_DEST_RD_ATOMIC | IBV_QP_MIN_RNR_TIMER) != 0)
    return fail_verbs("connect a queue pair");

  attributes = {};
  attributes.qp_state = IBV_QPS_RTS;
  attributes.timeout = 18;  // 1 s
  attributes.retry_cnt = 7;
  attributes.rnr_retry = 7;
  attributes.max_rd_atomic = kReadsUnderWay;
  if (::ibv_modify_qp(&pair, &attributes,
                      IBV_QP_STATE | IBV_QP_TIMEOUT | IBV_QP_RETRY_CNT | IBV_QP_RNR_RETRY |
                          IBV_QP_SQ_PSN | IBV_QP_MAX_QP_RD_ATOMIC) != 0)
    return fail_verbs("start a queue pair");
  return {};
}

Result<ZeroCopyLoopback::Region> ZeroCopyLoopback::register_buffer(
    std::span<std::byte> buffer) const {
  Region region(::ibv_reg_mr(domain_.get(), buffer.data(), buffer.size(),
                             IBV_ACCESS_LOCAL_WRITE | IBV_ACCESS_REMOTE_READ));
  if (!region) return fail_verbs("register a buffer");
  return region;
}

Result<void> ZeroCopyLoopback::post(std::uint64_t remote, std::uint32_t key, const Region& region,
                                    std::span<std::byte> into) {
  ibv_sge local{reinterpret_cast<std::uint64_t>(into.data()),
                static_cast<std::uint32_t>(into.size()), region->lkey};
  ibv_send_wr request{};
  request.sg_list = &local;
  request.num_sge = 1;
  request.opcode = IBV_WR_RDMA_READ;
  request.send_flags = IBV_SEND_SIGNALED;
  request.wr.rdma.remote_addr = remote;
  request.wr.rdma.rkey = key;
  ibv_send_wr* refused = nullptr;
  if (::ibv_post_send(reader_.get(), &request, &refused) != 0) return fail_verbs("ask for a read");
  return {};
}

Result<void> ZeroCopyLoopback::read_all(std::uint64_t remote, std::uint32_t key,
                                        const Region& region, std::span<std::byte> into,
                                        Deadline deadline) {
  std::size_t asked = 0;
  for (int under_way = 0; asked < into.size() || under_way > 0;) {
    while (asked < into.size() && under_way < kPiecesUnderWay) {
      std::size_t bytes = std::min(into.size() - asked, kPieceBytes);
      GESTALT_TRY(post(remote + asked, key, region, into.subspan(asked, bytes)));
      asked += bytes;
      ++under_way;
    }
    ibv_wc done{};
    int count = ::ibv_poll_cq(completions_.get(), 1, &done);
    if (count < 0) return fail(ErrorCode::kSystem, "a completion queue is broken");
    if (count == 0) {
      if (Clock::now() >= deadline) return fail(ErrorCode::kTimeout, "a read takes too long");
      timespec moment{0, 20'000};  // the device may be software, and want this CPU
      (void)::nanosleep(&moment, nullptr);
      continue;
    }
    --under_way;
    if (done.status == IBV_WC_REM_ACCESS_ERR)
      return fail(ErrorCode::kPermission, "the remote memory is not registered (any more)");
    if (done.status != IBV_WC_SUCCESS)
      return fail(ErrorCode::kUnavailable, formatted("read: {}", ::ibv_wc_status_str(done.status)));
  }
  return {};
}

Result<void> ZeroCopyLoopback::read(std::uint64_t remote, std::uint32_t key, const Region& region,
                                    std::span<std::byte> into, Deadline deadline) {
  auto done = read_all(remote, key, region, into, deadline);
  if (done) return {};
  GESTALT_TRY(connect());
  // What the old queue pair still had to say.
  for (ibv_wc ignored{}; ::ibv_poll_cq(completions_.get(), 1, &ignored) > 0;) {
  }
  return done;
}

}  // namespace gestalt
