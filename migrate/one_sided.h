// What a connection may offer besides a stream: reading the other end's memory, with no help
// from its processor.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>

#include "common/clock.h"
#include "common/result.h"

namespace gestalt {

struct RemoteRead {
  std::uint64_t address = 0;
  std::uint32_t rkey = 0;
  std::span<std::byte> into;  // of landing()
};

// Memory of this end that the other one may read.
struct SharedMemory {
  std::span<std::byte> bytes;
  std::uint64_t address = 0;
  std::uint32_t rkey = 0;
};

// Reads by one request, of which one connection has so many under way at most.
inline constexpr std::size_t kMaxReadsPerRequest = 8;
inline constexpr std::size_t kMaxReadRequests = 32;

// read() from one thread at a time, the rest from the one that receives. A read that is refused
// ends the whole connection.
class OneSided {
 public:
  virtual ~OneSided() = default;
  // Memory to read into, as long as the stream lives. Once.
  [[nodiscard]] virtual Result<std::span<std::byte>> landing(std::size_t bytes) = 0;
  // Until the stream is shut down; the memory itself as long as the stream lives. Once.
  [[nodiscard]] virtual Result<SharedMemory> share(std::size_t bytes) = 0;
  // What share() gave; no bytes if it was not called.
  [[nodiscard]] virtual SharedMemory shared() const = 0;
  // Begins all of these; `token` comes out of take_finished() when they are done.
  [[nodiscard]] virtual Result<void> read(std::span<const RemoteRead> reads,
                                          std::uint64_t token) = 0;
  [[nodiscard]] virtual std::optional<std::uint64_t> take_finished() = 0;
  // Returns when take_finished() or receive() would have something; kTimeout.
  [[nodiscard]] virtual Result<void> wait_any(Deadline deadline) = 0;
};

}  // namespace gestalt
