// What the source announces of its memory that the destination may read by itself, and how pages
// are asked for that are to be put there. Frames kStaging, kRemoteRanges, kStagedRequest, kStaged.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <span>
#include <vector>

#include "migrate/page_wire.h"
#include "migrate/remote_ranges.h"

namespace gestalt {

// Announced in all: 4 MiB on the wire.
inline constexpr std::size_t kMaxRemoteRanges = 1U << 17;

// A link's staging memory at the source: `slots` times `slot_bytes`. Whoever asks for pages says
// into which slot, and asks for that slot again only when it has read them.
struct Staging {
  std::uint64_t address = 0;
  std::uint32_t rkey = 0;
  std::uint32_t slots = 0;
  std::uint32_t slot_bytes = 0;

  [[nodiscard]] std::uint64_t slot_address(std::uint32_t slot) const {
    return address + std::uint64_t{slot} * slot_bytes;
  }
  [[nodiscard]] std::size_t bytes() const { return std::size_t{slots} * slot_bytes; }
  friend bool operator==(const Staging&, const Staging&) = default;
};

// Slots for the pages of a demand, and for those of a request in the background; as many as one
// link may have under way. A MiB for each link.
[[nodiscard]] Staging staging_shape(std::uint64_t link);

[[nodiscard]] std::vector<std::byte> encode_staging(const Staging& staging);
[[nodiscard]] Result<Staging> decode_staging(std::span<const std::byte> payload);

// Several frames, if need be; an empty list is none.
[[nodiscard]] std::vector<std::vector<std::byte>> encode_remote_ranges(
    std::span<const RemoteRange> ranges);
// Adds to `ranges`. Each by itself makes sense; see RemoteRangeTable for the rest.
[[nodiscard]] Result<void> decode_remote_ranges(std::span<const std::byte> payload,
                                                std::vector<RemoteRange>& ranges);

// Looks ranges up. Immutable.
class RemoteRangeTable {
 public:
  RemoteRangeTable() = default;
  // kProtocol: two of them overlap.
  [[nodiscard]] static Result<RemoteRangeTable> make(std::vector<RemoteRange> ranges);

  // The range that has all of these pages; null: none has.
  [[nodiscard]] const RemoteRange* find(const PageRun& run) const;
  // From `address` on, up to `bytes`: so many lie in one range, or in none.
  [[nodiscard]] std::uint64_t uniform_bytes(std::uint32_t pid, std::uint64_t address,
                                            std::uint64_t bytes) const;
  [[nodiscard]] bool empty() const { return ranges_.empty(); }

 private:
  // Of the first range of that process that ends behind the address; its end, if there is none.
  using Iterator = std::vector<RemoteRange>::const_iterator;
  [[nodiscard]] Iterator at_or_after(std::uint32_t pid, std::uint64_t address) const;

  std::vector<RemoteRange> ranges_;  // by process and address
};

// All that one migration's source announced.
struct RemoteMemory {
  std::map<std::uint64_t, Staging> staging;  // by link
  RemoteRangeTable ranges;
};

// A kStagedRequest's payload: u32 pid, u32 count, u32 slot.
struct StagedRequest {
  PageRun run;
  std::uint32_t slot = 0;
};
[[nodiscard]] std::array<std::byte, 12> encode_staged_request(const StagedRequest& request);
[[nodiscard]] Result<StagedRequest> decode_staged_request(const FrameHeader& header,
                                                          std::span<const std::byte> payload);

// A kStaged frame's payload: u32 slot, and what was put there.
[[nodiscard]] std::vector<std::byte> encode_staged(std::uint32_t slot,
                                                   std::span<const std::byte> front);
// Takes it off the payload.
[[nodiscard]] Result<std::uint32_t> take_slot(std::span<const std::byte>& payload);

}  // namespace gestalt
