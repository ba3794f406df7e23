// What begins a chunk, whether its pages follow in the frame or lie in a slot of staging memory:
//   u32 pid, u32 count, u16 flags, u16 runs, u32 bytes of data, u64 checksum,
//   runs of {u16 pages, u16 kind}, together `count` pages.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "migrate/page_chunk.h"

namespace gestalt {

inline constexpr std::size_t kFrontBytes = 24;
inline constexpr std::uint16_t kFlagCompressed = 1;
inline constexpr std::uint16_t kFlagChecksum = 2;

struct ChunkFront {
  std::uint32_t pid = 0;
  std::uint32_t count = 0;
  std::uint16_t flags = 0;
  std::uint16_t runs = 0;
  std::uint32_t data_bytes = 0;
  std::uint64_t checksum = 0;

  [[nodiscard]] bool has(std::uint16_t flag) const { return (flags & flag) != 0; }
};

[[nodiscard]] std::vector<std::byte> encode_front(const ChunkFront& front,
                                                  std::span<const PlainRun> runs);
// Checked, but for the data: front and runs, whose bytes are empty still. `allowed_flags`:
// others are kProtocol. What follows the runs stays in `payload`.
[[nodiscard]] Result<ChunkFront> decode_front(std::uint64_t address, std::uint16_t allowed_flags,
                                              std::span<const std::byte>& payload,
                                              std::vector<ChunkRun>& runs);

[[nodiscard]] std::uint64_t checksum_of(std::span<const std::span<const std::byte>> parts);

}  // namespace gestalt
