// The seam to what carries a migration's bytes: TCP, RDMA (rdma_transport.h), an in-memory fake
// for tests. A Stream is one ordered, reliable, bidirectional connection.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>

#include "common/clock.h"
#include "common/result.h"
#include "migrate/one_sided.h"

namespace gestalt {

// One thread may send while another receives; no more. Every call ends by its deadline.
class Stream {
 public:
  virtual ~Stream() = default;
  [[nodiscard]] virtual Result<void> send(std::span<const std::byte> bytes, Deadline deadline) = 0;
  // The same for bytes that lie in several places.
  [[nodiscard]] virtual Result<void> send_parts(std::span<const std::span<const std::byte>> parts,
                                                Deadline deadline) {
    for (auto part : parts) GESTALT_TRY(send(part, deadline));
    return {};
  }
  // Fills `into` entirely; a connection that ends before is kUnavailable.
  [[nodiscard]] virtual Result<void> receive(std::span<std::byte> into, Deadline deadline) = 0;
  // At least `least_bytes`, and what else is there already and fits; how many.
  [[nodiscard]] virtual Result<std::size_t> receive_some(std::span<std::byte> into,
                                                         std::size_t least_bytes,
                                                         Deadline deadline) {
    GESTALT_TRY(receive(into.first(least_bytes), deadline));
    return least_bytes;
  }
  // Returns when receive() would have something, the end included; kTimeout.
  [[nodiscard]] virtual Result<void> wait_readable(Deadline deadline) = 0;
  // Makes pending and later calls fail, on both ends. From any thread.
  virtual void shut_down() = 0;
  // Payload and framing sent and received so far.
  [[nodiscard]] virtual std::uint64_t bytes_sent() const = 0;
  [[nodiscard]] virtual std::uint64_t bytes_received() const = 0;
  // Null: the connection carries bytes only.
  [[nodiscard]] virtual OneSided* one_sided() { return nullptr; }
};

class Listener {
 public:
  virtual ~Listener() = default;
  [[nodiscard]] virtual std::uint16_t port() const = 0;
  [[nodiscard]] virtual Result<std::unique_ptr<Stream>> accept(Deadline deadline) = 0;
  // Makes pending and later accept() calls fail. From any thread.
  virtual void shut_down() = 0;
};

class Transport {
 public:
  virtual ~Transport() = default;
  // Port 0: any free one.
  [[nodiscard]] virtual Result<std::unique_ptr<Listener>> listen(const std::string& address,
                                                                 std::uint16_t port) = 0;
  [[nodiscard]] virtual Result<std::unique_ptr<Stream>> connect(const std::string& address,
                                                                std::uint16_t port,
                                                                Deadline deadline) = 0;
};

// TCP over IPv4 or IPv6 with numeric addresses. Lives for ever; thread-safe.
[[nodiscard]] Transport& tcp_transport();

}  // namespace gestalt
