#include "migrate/rdma_stream.h"

#include <endian.h>

#include <algorithm>
#include <cstring>

namespace gestalt {
namespace {

constexpr std::uint16_t kMagic = 0x4752;  // "GR"
constexpr std::uint16_t kVersion = 1;
// A MiB on its way in each direction keeps a connection of 100 Gbit/s and 80 us busy; larger
// messages gain nothing, smaller ones cost more completions.
constexpr std::uint16_t kBuffers = 16;
constexpr std::uint16_t kBufferKib = 64;
constexpr std::size_t kBufferBytes = kBufferKib * std::size_t{1024};
constexpr std::size_t kCreditBytes = 4;
constexpr std::uint32_t kCreditBuffer = kBuffers;  // behind those for data
// A peer that has no buffer posted breaks the rules; this is for what delays it.
constexpr std::uint8_t kReceiverNotReadyRetries = 3;
constexpr std::uint8_t kRetries = 7;

// The upper byte of a work request's id.
constexpr std::uint64_t kSendId = 1ULL << 56;
constexpr std::uint64_t kReceiveId = 2ULL << 56;
constexpr std::uint64_t kReadId = 3ULL << 56;
constexpr std::uint64_t kKindMask = 0xffULL << 56;

}  // namespace

RdmaGreeting RdmaGreeting::ours() { return {.buffers = kBuffers, .buffer_kib = kBufferKib}; }

std::array<std::byte, 8> RdmaGreeting::encode() const {
  std::array<std::uint16_t, 4> words{htobe16(kMagic), htobe16(kVersion), htobe16(buffers),
                                     htobe16(buffer_kib)};
  return std::bit_cast<std::array<std::byte, 8>>(words);
}

Result<RdmaGreeting> RdmaGreeting::decode(std::span<const std::byte> bytes) {
  std::array<std::uint16_t, 4> words{};
  if (bytes.size() < sizeof words) return fail(ErrorCode::kProtocol, "cut RDMA greeting");
  std::memcpy(words.data(), bytes.data(), sizeof words);
  if (be16toh(words[0]) != kMagic || be16toh(words[1]) != kVersion)
    return fail(ErrorCode::kProtocol, "the peer speaks another RDMA protocol");
  RdmaGreeting out{.buffers = be16toh(words[2]), .buffer_kib = be16toh(words[3])};
  if (out.buffers < 4 || out.buffer_kib == 0)
    return fail(ErrorCode::kProtocol, "the peer offers too few RDMA buffers");
  return out;
}

Result<std::unique_ptr<RdmaStream>> RdmaStream::make(RdmaId id,
                                                     std::shared_ptr<RdmaDomain> domain) {
  std::unique_ptr<RdmaStream> out(new RdmaStream);
  out->domain_ = domain;
  GESTALT_ASSIGN(out->sends_, RdmaRegion::make(domain, kBuffers * kBufferBytes + kCreditBytes, 0));
  GESTALT_ASSIGN(out->receives_,
                 RdmaRegion::make(domain, kBuffers * kBufferBytes, IBV_ACCESS_LOCAL_WRITE));
  RdmaQueue::Sizes sizes{.sends = kBuffers + 1 + kMaxReadRequests * kMaxReadsPerRequest,
                         .receives = kBuffers};
  GESTALT_ASSIGN(out->queue_, RdmaQueue::make(std::move(id), std::move(domain), sizes,
                                              [self = out.get()](const ibv_wc& done) {
                                                self->completed(done);
                                              }));
  auto lock = out->queue_->lock();
  for (std::uint32_t i = 0; i < kBuffers; ++i) {
    out->free_sends_.push_back(i);
    GESTALT_TRY(out->post_buffer(i));
  }
  return out;
}

RdmaStream::~RdmaStream() {
  if (queue_) RdmaStream::shut_down();
}

std::span<std::byte> RdmaStream::send_buffer(std::uint32_t buffer) const {
  return sends_.bytes().subspan(buffer * kBufferBytes,
                                buffer == kCreditBuffer ? kCreditBytes : kBufferBytes);
}

std::span<std::byte> RdmaStream::receive_buffer(std::uint32_t buffer) const {
  return receives_.bytes().subspan(buffer * kBufferBytes, kBufferBytes);
}

Result<void> RdmaStream::take_greeting(const RdmaEvent& event) {
  GESTALT_ASSIGN(auto greeting,
                 RdmaGreeting::decode(std::span(event.greeting).first(event.greeting_bytes)));
  credits_ = most_credits_ = greeting.buffers;
  message_bytes_ = std::min<std::size_t>(kBufferKib, greeting.buffer_kib) * 1024;
  return {};
}

Result<void> RdmaStream::connect(Deadline deadline) {
  auto greeting = RdmaGreeting::ours().encode();
  rdma_conn_param param{};
  param.private_data = greeting.data();
  param.private_data_len = greeting.size();
  param.responder_resources = param.initiator_depth = domain_->max_reads();
  param.retry_count = kRetries;
  param.rnr_retry_count = kReceiverNotReadyRetries;
  if (::rdma_connect(queue_->id(), &param) != 0)
    return fail_errno(errno, "ask for an RDMA connection");
  auto lock = queue_->lock();
  GESTALT_TRY(queue_->wait(lock, [this] { return queue_->established().has_value(); }, deadline));
  return take_greeting(*queue_->established());
}

Result<void> RdmaStream::accept(const RdmaEvent& request) {
  auto lock = queue_->lock();
  GESTALT_TRY(take_greeting(request));
  auto greeting = RdmaGreeting::ours().encode();
  rdma_conn_param param{};
  param.private_data = greeting.data();
  param.private_data_len = greeting.size();
  // As many as both ends can.
  param.responder_resources = std::min(request.responder_resources, domain_->max_reads());
  param.initiator_depth = std::min(request.initiator_depth, domain_->max_reads());
  param.rnr_retry_count = kReceiverNotReadyRetries;
  if (::rdma_accept(queue_->id(), &param) != 0)
    return fail_errno(errno, "accept an RDMA connection");
  return {};
}

void RdmaStream::completed(const ibv_wc& done) {
  std::uint64_t rest = done.wr_id & ~kKindMask;
  switch (done.wr_id & kKindMask) {
    case kSendId:
      if (rest == kCreditBuffer)
        credit_buffer_free_ = true;
      else
        free_sends_.push_back(static_cast<std::uint32_t>(rest));
      return return_credits();  // perhaps it waited for that buffer
    case kReceiveId:
      return message_arrived(done);
    case kReadId:
      --requests_;
      finished_.push_back(rest);
      return;
    default:
      return;
  }
}

void RdmaStream::message_arrived(const ibv_wc& done) {
  auto buffer = static_cast<std::uint32_t>(done.wr_id & ~kKindMask);
  auto bytes = receive_buffer(buffer).first(std::min<std::size_t>(done.byte_len, kBufferBytes));
  std::uint32_t credits = 0;
  if (bytes.size() >= kCreditBytes) std::memcpy(&credits, bytes.data(), kCreditBytes);
  credits = be32toh(credits);
  if (bytes.size() < kCreditBytes || credits > most_credits_ - credits_)
    return queue_->fail_with({ErrorCode::kProtocol, "RDMA message with impossible credits", {}});
  credits_ += credits;
  received_ += bytes.size();
  arrived_.push_back({buffer, bytes.subspan(kCreditBytes)});
  if (!arrived_.back().rest.empty()) return;
  arrived_.pop_back();  // credits alone
  if (auto posted = post_buffer(buffer); !posted) return queue_->fail_with(posted.error());
  ++to_return_;
  return_credits();
}

Result<void> RdmaStream::post_buffer(std::uint32_t buffer) {
  auto bytes = receive_buffer(buffer);
  ibv_sge where{reinterpret_cast<std::uint64_t>(bytes.data()),
                static_cast<std::uint32_t>(bytes.size()), receives_.local_key()};
  ibv_recv_wr request{};
  request.wr_id = kReceiveId | buffer;
  request.sg_list = &where;
  request.num_sge = 1;
  return queue_->post(request);
}

// With the credits that there are to return; the one that it costs is taken already.
Result<void> RdmaStream::post_message(std::uint32_t buffer, std::size_t bytes) {
  auto memory = send_buffer(buffer);
  std::uint32_t credits = htobe32(to_return_);
  std::memcpy(memory.data(), &credits, kCreditBytes);
  ibv_sge where{reinterpret_cast<std::uint64_t>(memory.data()), static_cast<std::uint32_t>(bytes),
                sends_.local_key()};
  ibv_send_wr request{};
  request.wr_id = kSendId | buffer;
  request.sg_list = &where;
  request.num_sge = 1;
  request.opcode = IBV_WR_SEND;
  request.send_flags = IBV_SEND_SIGNALED;
  GESTALT_TRY(queue_->post(request));
  to_return_ = 0;
  sent_ += bytes;
  return {};
}

// Half of them at a time, so that credits do not answer credits for ever.
void RdmaStream::return_credits() {
  if (to_return_ < kBuffers / 2 || credits_ == 0 || !credit_buffer_free_) return;
  if (queue_->failed() || message_bytes_ == 0) return;
  --credits_;
  credit_buffer_free_ = false;
  if (auto posted = post_message(kCreditBuffer, kCreditBytes); !posted)
    queue_->fail_with(std::move(posted).error());
}

// ------------------------------------------------------------- sending

Result<std::uint32_t> RdmaStream::acquire_buffer(Deadline deadline) {
  auto lock = queue_->lock();
  auto ready = [this] {
    return queue_->failed() ||
           (queue_->established() && message_bytes_ > 0 && credits_ > 1 && !free_sends_.empty());
  };
  GESTALT_TRY(queue_->wait(lock, ready, deadline));
  if (free_sends_.empty() || credits_ < 2)
    return fail(ErrorCode::kUnavailable, "the page connection is lost");
  // Now, lest credits that are returned meanwhile take it.
  --credits_;
  std::uint32_t buffer = free_sends_.back();
  free_sends_.pop_back();
  return buffer;
}

Result<void> RdmaStream::send_message(std::uint32_t buffer, std::size_t bytes) {
  auto lock = queue_->lock();
  return post_message(buffer, bytes);
}

Result<void> RdmaStream::send(std::span<const std::byte> bytes, Deadline deadline) {
  return send_parts(std::span(&bytes, 1), deadline);
}

Result<void> RdmaStream::send_parts(std::span<const std::span<const std::byte>> parts,
                                    Deadline deadline) {
  std::optional<std::uint32_t> buffer;
  std::size_t filled = kCreditBytes;
  for (auto part : parts) {
    while (!part.empty()) {
      if (!buffer) {
        GESTALT_ASSIGN(buffer, acquire_buffer(deadline));
      }
      std::size_t count = std::min(part.size(), message_bytes_ - filled);
      std::memcpy(send_buffer(*buffer).data() + filled, part.data(), count);
      filled += count;
      part = part.subspan(count);
      if (filled < message_bytes_) continue;
      GESTALT_TRY(send_message(*buffer, filled));
      buffer.reset();
      filled = kCreditBytes;
    }
  }
  return buffer ? send_message(*buffer, filled) : Result<void>();
}

// ------------------------------------------------------------- receiving

Result<void> RdmaStream::receive(std::span<std::byte> into, Deadline deadline) {
  auto received = receive_some(into, into.size(), deadline);
  return received ? Result<void>() : std::unexpected(std::move(received).error());
}

Result<std::size_t> RdmaStream::receive_some(std::span<std::byte> into, std::size_t least_bytes,
                                             Deadline deadline) {
  std::size_t done = 0;
  while (done < into.size()) {
    auto lock = queue_->lock();
    if (done >= least_bytes && arrived_.empty()) break;
    GESTALT_TRY(queue_->wait(lock, [this] { return !arrived_.empty(); }, deadline));
    auto& front = arrived_.front();
    lock.unlock();  // only the receiving thread takes from the front
    std::size_t count = std::min(front.rest.size(), into.size() - done);
    std::memcpy(into.data() + done, front.rest.data(), count);
    front.rest = front.rest.subspan(count);
    done += count;
    if (front.rest.empty()) GESTALT_TRY(release_front());
  }
  return done;
}

Result<void> RdmaStream::release_front() {
  auto lock = queue_->lock();
  std::uint32_t buffer = arrived_.front().buffer;
  arrived_.pop_front();
  if (queue_->failed()) return {};  // what has arrived can still be read
  GESTALT_TRY(post_buffer(buffer));
  ++to_return_;
  return_credits();
  return {};
}

Result<void> RdmaStream::wait_readable(Deadline deadline) {
  auto lock = queue_->lock();
  return queue_->wait(lock, [this] { return !arrived_.empty() || queue_->failed(); }, deadline);
}

void RdmaStream::shut_down() {
  queue_->shut_down();
  auto lock = queue_->lock();
  shared_.revoke();
}

// ------------------------------------------------------------- one-sided

Result<std::span<std::byte>> RdmaStream::landing(std::size_t bytes) {
  if (!landing_.bytes().empty()) return fail(ErrorCode::kInternal, "there is a landing already");
  GESTALT_ASSIGN(landing_, RdmaRegion::make(domain_, bytes, IBV_ACCESS_LOCAL_WRITE));
  return landing_.bytes();
}

Result<SharedMemory> RdmaStream::share(std::size_t bytes) {
  if (!shared_.bytes().empty()) return fail(ErrorCode::kInternal, "memory is shared already");
  GESTALT_ASSIGN(shared_, RdmaRegion::make(domain_, bytes, IBV_ACCESS_REMOTE_READ));
  memory_ = {shared_.bytes(), shared_.address(), shared_.remote_key()};
  return memory_;
}

// Only the last one's completion is asked for: they complete in order.
Result<void> RdmaStream::read(std::span<const RemoteRead> reads, std::uint64_t token) {
  if (reads.empty() || reads.size() > kMaxReadsPerRequest)
    return fail(ErrorCode::kInternal, "too many reads, or none");
  std::array<ibv_sge, kMaxReadsPerRequest> where{};
  std::array<ibv_send_wr, kMaxReadsPerRequest> requests{};
  std::uint64_t bytes = 0;
  for (std::size_t i = 0; i < reads.size(); ++i) {
    where[i] = {reinterpret_cast<std::uint64_t>(reads[i].into.data()),
                static_cast<std::uint32_t>(reads[i].into.size()), landing_.local_key()};
    requests[i].wr_id = kReadId | token;
    requests[i].sg_list = &where[i];
    requests[i].num_sge = 1;
    requests[i].opcode = IBV_WR_RDMA_READ;
    requests[i].wr.rdma.remote_addr = reads[i].address;
    requests[i].wr.rdma.rkey = reads[i].rkey;
    if (i + 1 < reads.size()) requests[i].next = &requests[i + 1];
    bytes += reads[i].into.size();
  }
  requests[reads.size() - 1].send_flags = IBV_SEND_SIGNALED;
  auto lock = queue_->lock();
  if (requests_ == kMaxReadRequests) return fail(ErrorCode::kInternal, "too many reads at once");
  GESTALT_TRY(queue_->post(requests[0]));
  ++requests_;
  received_ += bytes;
  return {};
}

std::optional<std::uint64_t> RdmaStream::take_finished() {
  auto lock = queue_->lock();
  if (finished_.empty()) return std::nullopt;
  std::uint64_t token = finished_.front();
  finished_.pop_front();
  return token;
}

Result<void> RdmaStream::wait_any(Deadline deadline) {
  auto lock = queue_->lock();
  return queue_->wait(lock, [this] { return !arrived_.empty() || !finished_.empty(); }, deadline);
}

}  // namespace gestalt
