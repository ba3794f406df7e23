// RDMA devices, and memory that is registered with them.
#pragma once

#include <infiniband/verbs.h>
#include <rdma/rdma_cma.h>

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>

#include "common/clock.h"
#include "common/result.h"
#include "migrate/rdma_owned.h"

namespace gestalt {

// An id with an event channel of its own, which does not block.
struct RdmaId {
  RdmaOwned<rdma_event_channel> channel;
  RdmaOwned<rdma_cm_id> id;

  [[nodiscard]] static Result<RdmaOwned<rdma_event_channel>> make_channel();
  // kUnavailable with the cause where there is no RDMA at all.
  [[nodiscard]] static Result<RdmaId> make();
};

struct RdmaEvent {
  rdma_cm_event_type type = RDMA_CM_EVENT_ADDR_ERROR;
  int status = 0;
  rdma_cm_id* id = nullptr;  // of RDMA_CM_EVENT_CONNECT_REQUEST: a new one, for the taking
  std::uint8_t responder_resources = 0;
  std::uint8_t initiator_depth = 0;
  std::array<std::byte, 8> greeting{};  // the first bytes of the private data
  std::size_t greeting_bytes = 0;
};
// Acknowledged already. kTimeout.
[[nodiscard]] Result<RdmaEvent> next_rdma_event(rdma_event_channel& channel, Deadline deadline);
// Exactly this event comes next; what else comes is an error that says why.
[[nodiscard]] Result<RdmaEvent> expect_rdma_event(rdma_event_channel& channel,
                                                  rdma_cm_event_type type, Deadline deadline);

// A numeric IPv4 or IPv6 address.
struct RdmaAddress {
  sockaddr_storage storage{};

  [[nodiscard]] static Result<RdmaAddress> parse(const std::string& address, std::uint16_t port);
  [[nodiscard]] sockaddr* get() { return reinterpret_cast<sockaddr*>(&storage); }
};

// A protection domain on one device. A key of one domain opens nothing in another, so each
// migration has its own. Thread-safe.
class RdmaDomain {
 public:
  // On the device that has this local address.
  [[nodiscard]] static Result<std::shared_ptr<RdmaDomain>> at(const std::string& local_address);
  // On the device by which this peer would be reached.
  [[nodiscard]] static Result<std::shared_ptr<RdmaDomain>> towards(const std::string& address,
                                                                   Deadline deadline);

  [[nodiscard]] ibv_context* context() const { return anchor_.id->verbs; }
  [[nodiscard]] ibv_pd* pd() const { return pd_.get(); }
  [[nodiscard]] const ibv_device_attr& limits() const { return limits_; }
  [[nodiscard]] std::string name() const { return ::ibv_get_device_name(context()->device); }
  // One-sided reads under way on a connection, at either of its ends.
  [[nodiscard]] std::uint8_t max_reads() const;

 private:
  [[nodiscard]] static Result<std::shared_ptr<RdmaDomain>> make(RdmaId anchor);
  RdmaId anchor_;  // keeps the device open
  RdmaOwned<ibv_pd> pd_;
  ibv_device_attr limits_{};
};

// Memory of this process that a device may use. Not inherited by children: a page that is
// copied on write would not be the device's any more.
class RdmaRegion {
 public:
  // `access`: ibv_access_flags. kNoSpace, with the remedy: too little memory may be locked.
  [[nodiscard]] static Result<RdmaRegion> make(std::shared_ptr<RdmaDomain> domain,
                                               std::size_t bytes, int access);
  RdmaRegion() = default;
  RdmaRegion(RdmaRegion&& other) noexcept { *this = std::move(other); }
  RdmaRegion& operator=(RdmaRegion&& other) noexcept;
  ~RdmaRegion() { reset(); }

  [[nodiscard]] std::span<std::byte> bytes() const { return memory_; }
  [[nodiscard]] std::uint64_t address() const {
    return reinterpret_cast<std::uint64_t>(memory_.data());
  }
  [[nodiscard]] std::uint32_t local_key() const { return mr_->lkey; }
  [[nodiscard]] std::uint32_t remote_key() const { return mr_->rkey; }
  // The key is good no more; the memory stays.
  void revoke() { mr_.reset(); }

 private:
  void reset();
  std::shared_ptr<RdmaDomain> domain_;
  std::span<std::byte> memory_;
  RdmaOwned<ibv_mr> mr_;
};

// An error of ibv_reg_mr() for so many bytes.
[[nodiscard]] Error registration_error(int error_number, std::size_t bytes);

}  // namespace gestalt
