// A Stream over a reliable RDMA connection: SEND into buffers that the other end has posted.
// Each message begins with u32 credits (network order): so many buffers are free again. Who has
// but one credit left sends no data, so that credits can always be returned.
#pragma once

#include <atomic>
#include <deque>
#include <memory>
#include <vector>

#include "migrate/rdma_queue.h"
#include "migrate/transport.h"

namespace gestalt {

// Said in the private data of connection request and answer: u16 magic, u16 version, u16 receive
// buffers, u16 KiB of each.
struct RdmaGreeting {
  std::uint16_t buffers = 0;
  std::uint16_t buffer_kib = 0;

  [[nodiscard]] std::array<std::byte, 8> encode() const;
  // kProtocol: the peer is none of ours.
  [[nodiscard]] static Result<RdmaGreeting> decode(std::span<const std::byte> bytes);
  [[nodiscard]] static RdmaGreeting ours();
};

class RdmaStream final : public Stream, public OneSided {
 public:
  // For an id that has got its device and is not connected yet. The receive buffers are posted.
  [[nodiscard]] static Result<std::unique_ptr<RdmaStream>> make(RdmaId id,
                                                                std::shared_ptr<RdmaDomain> domain);
  ~RdmaStream() override;

  // One of these two, once.
  [[nodiscard]] Result<void> connect(Deadline deadline);
  // Returns before the peer has heard; what is sent waits for that.
  [[nodiscard]] Result<void> accept(const RdmaEvent& request);

  Result<void> send(std::span<const std::byte> bytes, Deadline deadline) override;
  Result<void> send_parts(std::span<const std::span<const std::byte>> parts,
                          Deadline deadline) override;
  Result<void> receive(std::span<std::byte> into, Deadline deadline) override;
  Result<std::size_t> receive_some(std::span<std::byte> into, std::size_t least_bytes,
                                   Deadline deadline) override;
  Result<void> wait_readable(Deadline deadline) override;
  void shut_down() override;
  [[nodiscard]] std::uint64_t bytes_sent() const override { return sent_; }
  [[nodiscard]] std::uint64_t bytes_received() const override { return received_; }

  OneSided* one_sided() override { return this; }
  Result<std::span<std::byte>> landing(std::size_t bytes) override;
  Result<SharedMemory> share(std::size_t bytes) override;
  [[nodiscard]] SharedMemory shared() const override { return memory_; }
  Result<void> read(std::span<const RemoteRead> reads, std::uint64_t token) override;
  std::optional<std::uint64_t> take_finished() override;
  Result<void> wait_any(Deadline deadline) override;

 private:
  using Lock = RdmaQueue::Lock;
  struct Arrived {
    std::uint32_t buffer = 0;
    std::span<const std::byte> rest;
  };

  RdmaStream() = default;
  [[nodiscard]] Result<void> take_greeting(const RdmaEvent& event);
  void completed(const ibv_wc& done);
  void message_arrived(const ibv_wc& done);
  [[nodiscard]] Result<void> post_buffer(std::uint32_t buffer);
  [[nodiscard]] Result<void> post_message(std::uint32_t buffer, std::size_t bytes);
  void return_credits();
  [[nodiscard]] Result<std::uint32_t> acquire_buffer(Deadline deadline);
  [[nodiscard]] Result<void> send_message(std::uint32_t buffer, std::size_t bytes);
  [[nodiscard]] Result<void> release_front();
  [[nodiscard]] std::span<std::byte> send_buffer(std::uint32_t buffer) const;
  [[nodiscard]] std::span<std::byte> receive_buffer(std::uint32_t buffer) const;

  std::shared_ptr<RdmaDomain> domain_;
  // In front of the queue pair, which must go first.
  RdmaRegion sends_;  // the last buffer is for credits alone
  RdmaRegion receives_;
  RdmaRegion landing_;
  RdmaRegion shared_;
  SharedMemory memory_;  // shared_'s
  std::vector<std::uint32_t> free_sends_;
  bool credit_buffer_free_ = true;
  std::uint32_t credits_ = 0;  // buffers of the peer
  std::uint32_t most_credits_ = 0;
  std::uint32_t to_return_ = 0;
  std::size_t message_bytes_ = 0;  // what fits into the peer's buffers and ours
  std::deque<Arrived> arrived_;
  std::deque<std::uint64_t> finished_;
  std::size_t requests_ = 0;  // of reads, under way
  std::atomic<std::uint64_t> sent_ = 0;
  std::atomic<std::uint64_t> received_ = 0;
  std::unique_ptr<RdmaQueue> queue_;
};

}  // namespace gestalt
