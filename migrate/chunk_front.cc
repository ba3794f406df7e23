#include "migrate/chunk_front.h"

#define XXH_STATIC_LINKING_ONLY  // for the state on the stack
#include <endian.h>
#include <xxhash.h>

#include <cstring>

namespace gestalt {
namespace {

ChunkFront read_front(const std::byte* in) {
  ChunkFront front;
  std::memcpy(&front.pid, in, 4);
  std::memcpy(&front.count, in + 4, 4);
  std::memcpy(&front.flags, in + 8, 2);
  std::memcpy(&front.runs, in + 10, 2);
  std::memcpy(&front.data_bytes, in + 12, 4);
  std::memcpy(&front.checksum, in + 16, 8);
  return {be32toh(front.pid),  be32toh(front.count),      be16toh(front.flags),
          be16toh(front.runs), be32toh(front.data_bytes), be64toh(front.checksum)};
}

}  // namespace

std::vector<std::byte> encode_front(const ChunkFront& front, std::span<const PlainRun> runs) {
  std::vector<std::byte> out(kFrontBytes + runs.size() * 4);
  std::uint32_t pid = htobe32(front.pid), count = htobe32(front.count);
  std::uint16_t flags = htobe16(front.flags), number = htobe16(front.runs);
  std::uint32_t data_bytes = htobe32(front.data_bytes);
  std::uint64_t checksum = htobe64(front.checksum);
  std::memcpy(out.data(), &pid, 4);
  std::memcpy(out.data() + 4, &count, 4);
  std::memcpy(out.data() + 8, &flags, 2);
  std::memcpy(out.data() + 10, &number, 2);
  std::memcpy(out.data() + 12, &data_bytes, 4);
  std::memcpy(out.data() + 16, &checksum, 8);
  for (std::size_t i = 0; i < runs.size(); ++i) {
    std::uint16_t words[2] = {htobe16(static_cast<std::uint16_t>(runs[i].count)),
                              htobe16(static_cast<std::uint16_t>(runs[i].kind))};
    std::memcpy(out.data() + kFrontBytes + i * 4, words, 4);
  }
  return out;
}

Result<ChunkFront> decode_front(std::uint64_t address, std::uint16_t allowed_flags,
                                std::span<const std::byte>& payload, std::vector<ChunkRun>& runs) {
  auto bad = [](const char* what) { return fail(ErrorCode::kProtocol, what); };
  runs.clear();
  if (payload.size() < kFrontBytes) return bad("cut page chunk");
  ChunkFront front = read_front(payload.data());
  if (!is_sensible({front.pid, address, front.count}, kMaxPagesPerChunk))
    return bad("page chunk for impossible addresses");
  if ((front.flags & ~allowed_flags) != 0) return bad("page chunk with unknown flags");
  if (front.runs > front.count || payload.size() - kFrontBytes < front.runs * std::size_t{4})
    return bad("page chunk whose length and counts disagree");
  auto table = payload.subspan(kFrontBytes, front.runs * std::size_t{4});
  payload = payload.subspan(kFrontBytes + table.size());
  std::uint64_t pages = 0;
  for (; !table.empty(); table = table.subspan(4)) {
    std::uint16_t words[2];
    std::memcpy(words, table.data(), 4);
    std::uint16_t count = be16toh(words[0]), kind = be16toh(words[1]);
    if (count == 0 || kind > static_cast<std::uint16_t>(RunKind::kAbsent))
      return bad("page chunk with an impossible run");
    runs.push_back({address + pages * kPageBytes, count, static_cast<RunKind>(kind), {}});
    pages += count;
  }
  if (pages != front.count) return bad("page chunk whose runs do not fill it");
  return front;
}

std::uint64_t data_bytes_of(std::span<const ChunkRun> runs) {
  std::uint64_t pages = 0;
  for (const auto& run : runs)
    if (run.kind == RunKind::kData) pages += run.count;
  return pages * kPageBytes;
}

std::uint64_t checksum_of(std::span<const std::span<const std::byte>> parts) {
  XXH3_state_t state;
  XXH3_64bits_reset(&state);
  for (auto part : parts) XXH3_64bits_update(&state, part.data(), part.size());
  return XXH3_64bits_digest(&state);
}

}  // namespace gestalt
