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
};

// The faults hit what the first stream sends.
[[nodiscard]] std::pair<std::unique_ptr<Stream>, std::unique_ptr<Stream>> make_fake_streams(
    FakeFaults faults = {});

}  // namespace gestalt
