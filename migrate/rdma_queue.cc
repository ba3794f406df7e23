#include "migrate/rdma_queue.h"

#include <poll.h>
#include <sys/eventfd.h>

#include <algorithm>
#include <array>
#include <cerrno>

#include "common/format.h"

namespace gestalt {
namespace {

// A message that is not acknowledged is sent again after 4.096 us x 2^17, seven times: a peer
// that is dead is known to be after 4.3 s, as on TCP.
constexpr std::uint8_t kAckTimeoutExponent = 17;
// An idle connection is tried this often.
constexpr auto kProbeInterval = std::chrono::seconds(1);
// For what was sent just before the end.
constexpr auto kLeaveTimeout = std::chrono::milliseconds(200);
constexpr std::uint64_t kProbeId = ~0ULL;

std::string why(ibv_wc_status status) {
  switch (status) {
    case IBV_WC_RETRY_EXC_ERR:
    case IBV_WC_RNR_RETRY_EXC_ERR:
      return "the other node does not answer";
    case IBV_WC_WR_FLUSH_ERR:
      return "the other node closed the page connection";
    case IBV_WC_REM_ACCESS_ERR:
    case IBV_WC_REM_INV_REQ_ERR:
    case IBV_WC_REM_OP_ERR:
      return formatted("the other node's memory cannot be read: {}", ::ibv_wc_status_str(status));
    default:
      return formatted("RDMA: {}", ::ibv_wc_status_str(status));
  }
}

}  // namespace

Result<std::unique_ptr<RdmaQueue>> RdmaQueue::make(RdmaId id, std::shared_ptr<RdmaDomain> domain,
                                                   Sizes sizes,
                                                   std::function<void(const ibv_wc&)> completed) {
  if (id.id->verbs != domain->context())
    return fail(ErrorCode::kUnavailable, "the peer is behind another RDMA device");
  std::unique_ptr<RdmaQueue> out(new RdmaQueue);
  out->domain_ = std::move(domain);
  out->id_ = std::move(id);
  out->completed_ = std::move(completed);
  out->wake_ = Fd(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  if (!out->wake_) return fail_errno(errno, "make an eventfd");
  ibv_context* context = out->domain_->context();
  out->completions_.reset(::ibv_create_comp_channel(context));
  if (!out->completions_) return fail_errno(errno, "make an RDMA completion channel");
  GESTALT_TRY(set_nonblocking(out->completions_->fd, true));
  ++sizes.sends;  // the probe
  auto entries = static_cast<int>(sizes.sends + sizes.receives);
  out->queue_.reset(::ibv_create_cq(context, entries, nullptr, out->completions_.get(), 0));
  if (!out->queue_) return fail_errno(errno, "make an RDMA completion queue");
  (void)::rdma_set_option(out->id(), RDMA_OPTION_ID, RDMA_OPTION_ID_ACK_TIMEOUT,
                          const_cast<std::uint8_t*>(&kAckTimeoutExponent), 1);
  ibv_qp_init_attr attributes{};
  attributes.send_cq = attributes.recv_cq = out->queue_.get();
  attributes.cap = {.max_send_wr = sizes.sends,
                    .max_recv_wr = sizes.receives,
                    .max_send_sge = 1,
                    .max_recv_sge = 1,
                    .max_inline_data = 0};
  attributes.qp_type = IBV_QPT_RC;
  if (::rdma_create_qp(out->id(), out->domain_->pd(), &attributes) != 0)
    return fail_errno(errno, "make an RDMA queue pair");
  return out;
}

RdmaQueue::~RdmaQueue() {
  if (!id_.id || id_.id->qp == nullptr) return;
  shut_down();
  ::rdma_destroy_qp(id_.id.get());
}

Result<void> RdmaQueue::post(ibv_send_wr& requests) {
  if (failure_) return std::unexpected(*failure_);
  if (closing_) return fail(ErrorCode::kUnavailable, "the page connection was shut down");
  std::uint64_t signalled = 0;
  for (ibv_send_wr* each = &requests; each != nullptr; each = each->next)
    if ((each->send_flags & IBV_SEND_SIGNALED) != 0) ++signalled;
  ibv_send_wr* bad = nullptr;
  if (int error = ::ibv_post_send(id_.id->qp, &requests, &bad); error != 0) {
    auto failure = fail_errno(error, "send by RDMA");
    fail_with(failure.error());  // part of them may be under way
    return failure;
  }
  sends_posted_ += signalled;
  return {};
}

Result<void> RdmaQueue::post(ibv_recv_wr& request) {
  ibv_recv_wr* bad = nullptr;
  if (int error = ::ibv_post_recv(id_.id->qp, &request, &bad); error != 0)
    return fail_errno(error, "receive by RDMA");
  return {};
}

Result<void> RdmaQueue::wait(Lock& lock, const std::function<bool()>& ready, Deadline deadline) {
  while (true) {
    (void)poll_completions();
    if (ready()) return {};
    if (failure_) return std::unexpected(*failure_);
    if (Clock::now() >= deadline)
      return fail(ErrorCode::kTimeout, "timed out waiting for the peer");
    if (watching_) {
      (void)changed_.wait_until(lock, deadline);
      continue;
    }
    // What completes from here on shows on the descriptor.
    if (::ibv_req_notify_cq(queue_.get(), 0) != 0)
      fail_with({ErrorCode::kUnavailable, "the RDMA completion queue is gone", {}});
    if (poll_completions() == 0 && !failure_) watch(lock, deadline);
  }
}

unsigned RdmaQueue::poll_completions() {
  std::array<ibv_wc, 32> done;
  unsigned sum = 0;
  while (true) {
    int count = ::ibv_poll_cq(queue_.get(), static_cast<int>(done.size()), done.data());
    if (count < 0) fail_with({ErrorCode::kUnavailable, "the RDMA completion queue is gone", {}});
    if (count <= 0) break;
    for (const auto& each : std::span(done).first(static_cast<std::size_t>(count))) {
      if (each.status != IBV_WC_SUCCESS) {
        fail_with({ErrorCode::kUnavailable, why(each.status), {}});
        continue;
      }
      if (each.opcode != IBV_WC_RECV) ++sends_completed_;
      if (each.wr_id == kProbeId)
        probing_ = false;
      else
        completed_(each);
    }
    sum += static_cast<unsigned>(count);
  }
  if (sum > 0) changed_.notify_all();
  return sum;
}

void RdmaQueue::watch(Lock& lock, Deadline deadline) {
  watching_ = true;
  lock.unlock();
  std::array<pollfd, 3> polled{
      {{completions_->fd, POLLIN, 0}, {id_.channel->fd, POLLIN, 0}, {wake_.get(), POLLIN, 0}}};
  int ready = ::poll(polled.data(), polled.size(),
                     remaining_milliseconds(std::min(deadline, deadline_in(kProbeInterval))));
  lock.lock();
  watching_ = false;
  if (polled[0].revents != 0) {
    ibv_cq* queue = nullptr;
    void* context = nullptr;
    while (::ibv_get_cq_event(completions_.get(), &queue, &context) == 0)
      ::ibv_ack_cq_events(queue, 1);
  }
  if (polled[1].revents != 0) handle_events();
  if (ready == 0 && Clock::now() < deadline) probe();
  changed_.notify_all();
}

// Writes nothing to nowhere, which needs nothing of the other end but that it is alive.
void RdmaQueue::probe() {
  if (!established_ || probing_ || failure_ || closing_) return;
  probing_ = true;
  ibv_send_wr request{};
  request.wr_id = kProbeId;
  request.opcode = IBV_WR_RDMA_WRITE;
  request.send_flags = IBV_SEND_SIGNALED;
  (void)post(request);
}

void RdmaQueue::handle_events() {
  while (true) {
    auto event = next_rdma_event(*id_.channel, Deadline{});
    if (!event && event.error().code == ErrorCode::kTimeout) return;
    if (!event) return fail_with(std::move(event).error());
    handle(*event);
  }
}

void RdmaQueue::handle(const RdmaEvent& event) {
  std::string text = ::rdma_event_str(event.type);
  switch (event.type) {
    case RDMA_CM_EVENT_ESTABLISHED:
      established_ = event;
      return;
    case RDMA_CM_EVENT_DISCONNECTED:
      // All that was sent before is here.
      (void)poll_completions();
      return fail_with({ErrorCode::kUnavailable, "the other node closed the page connection", {}});
    case RDMA_CM_EVENT_DEVICE_REMOVAL:
      return fail_with({ErrorCode::kUnavailable, "the RDMA device was removed", {}});
    case RDMA_CM_EVENT_ADDR_CHANGE:
    case RDMA_CM_EVENT_TIMEWAIT_EXIT:
      return;
    default:
      return fail_with({ErrorCode::kUnavailable, formatted("RDMA: {}", text), {}});
  }
}

void RdmaQueue::fail_with(Error error) {
  if (failure_) return;
  failure_ = std::move(error);
  // From here on the device leaves our memory alone, and the other end knows.
  (void)::rdma_disconnect(id_.id.get());
  std::uint64_t one = 1;
  (void)::write(wake_.get(), &one, sizeof one);
  changed_.notify_all();
}

void RdmaQueue::shut_down() {
  auto held = lock();
  if (!failure_) {
    closing_ = true;
    (void)wait(
        held, [this] { return sends_completed_ == sends_posted_; }, deadline_in(kLeaveTimeout));
    fail_with({ErrorCode::kUnavailable, "the page connection was shut down", {}});
  }
  end_reads();
}

// The peer's reads that the device is at. One that finds its region gone while the queue pair
// fails is never done with by rxe (seen on 6.12): the CPU is lost until the machine is restarted.
// A reset waits for them; the error state, in which the pair is, does not.
void RdmaQueue::end_reads() {
  ibv_qp_attr reset{};
  reset.qp_state = IBV_QPS_RESET;
  (void)::ibv_modify_qp(id_.id->qp, &reset, IBV_QP_STATE);  // fails without a device: no reads
}

}  // namespace gestalt
