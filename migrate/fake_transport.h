// Two streams joined in memory, with faults on demand: for tests of what lies above.
#pragma once

#include <cstdint>
#include <memory>
#include <utility>

#include "migrate/transport.h"

namespace gestalt {

struct FakeFaults {
  std::uint64_t cut_after_bytes = ~0ULL;  // the connection breaks then
  std::uint64_t corrupt_byte_at = ~0ULL;  // this byte arrives inverted
  // Both streams are OneSided. Besides what the other end shares, they read other processes.
  bool one_sided = false;
  std::uint64_t cut_at_read = ~0ULL;  // this read is refused, and the connection breaks
};

// The key by which a fake stream reads that process's memory, where the process has it.
[[nodiscard]] std::uint32_t fake_process_key(std::uint32_t pid);

// The faults hit what the first stream sends.
[[nodiscard]] std::pair<std::unique_ptr<Stream>, std::unique_ptr<Stream>> make_fake_streams(
    FakeFaults faults = {});

}  // namespace gestalt
