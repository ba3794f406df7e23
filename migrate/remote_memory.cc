#include "migrate/remote_memory.h"

#include <endian.h>

#include <algorithm>
#include <cstring>
#include <tuple>

#include "migrate/one_sided.h"

namespace gestalt {
namespace {

constexpr std::size_t kStagingBytes = 20;
constexpr std::size_t kRangeBytes = 32;
constexpr std::uint32_t kMaxPid = 1U << 22;

void put(std::vector<std::byte>& out, std::uint64_t value) {
  value = htobe64(value);
  const auto* bytes = reinterpret_cast<const std::byte*>(&value);
  out.insert(out.end(), bytes, bytes + sizeof value);
}

void put(std::vector<std::byte>& out, std::uint32_t value) {
  value = htobe32(value);
  const auto* bytes = reinterpret_cast<const std::byte*>(&value);
  out.insert(out.end(), bytes, bytes + sizeof value);
}

std::uint64_t take64(std::span<const std::byte>& in) {
  std::uint64_t value = 0;
  std::memcpy(&value, in.data(), sizeof value);
  in = in.subspan(sizeof value);
  return be64toh(value);
}

std::uint32_t take32(std::span<const std::byte>& in) {
  std::uint32_t value = 0;
  std::memcpy(&value, in.data(), sizeof value);
  in = in.subspan(sizeof value);
  return be32toh(value);
}

bool is_sensible(const RemoteRange& range) {
  return range.pid > 0 && range.pid <= kMaxPid && range.start % kPageBytes == 0 &&
         range.end % kPageBytes == 0 && range.start < range.end && range.end <= kAddressLimit &&
         range.remote_address <= ~0ULL - (range.end - range.start);
}

}  // namespace

Staging staging_shape(std::uint64_t link) {
  Staging out;
  out.slots = link == kDemandLink ? 32 : 4;
  out.slot_bytes = static_cast<std::uint32_t>((link == kDemandLink ? 8 : 64) * kPageBytes);
  return out;
}

std::vector<std::byte> encode_staging(const Staging& staging) {
  std::vector<std::byte> out;
  put(out, staging.address);
  put(out, staging.rkey);
  put(out, staging.slots);
  put(out, staging.slot_bytes);
  return out;
}

Result<Staging> decode_staging(std::span<const std::byte> payload) {
  if (payload.size() != kStagingBytes) return fail(ErrorCode::kProtocol, "cut staging memory");
  Staging out;
  out.address = take64(payload);
  out.rkey = take32(payload);
  out.slots = take32(payload);
  out.slot_bytes = take32(payload);
  bool sensible = out.slots > 0 && out.slots <= kMaxReadRequests && out.slot_bytes > 0 &&
                  out.slot_bytes % kPageBytes == 0 && out.slot_bytes <= kMaxPieceBytes &&
                  out.address <= ~0ULL - out.bytes();
  if (!sensible) return fail(ErrorCode::kProtocol, "staging memory of impossible size");
  return out;
}

std::vector<std::vector<std::byte>> encode_remote_ranges(std::span<const RemoteRange> ranges) {
  std::vector<std::vector<std::byte>> frames;
  for (const auto& range : ranges) {
    if (frames.empty() || frames.back().size() + kRangeBytes > kMaxPieceBytes)
      frames.emplace_back();
    auto& out = frames.back();
    put(out, range.pid);
    put(out, range.rkey);
    put(out, range.start);
    put(out, range.end);
    put(out, range.remote_address);
  }
  return frames;
}

Result<void> decode_remote_ranges(std::span<const std::byte> payload,
                                  std::vector<RemoteRange>& ranges) {
  if (payload.size() % kRangeBytes != 0) return fail(ErrorCode::kProtocol, "cut remote range");
  if (payload.size() / kRangeBytes > kMaxRemoteRanges - ranges.size())
    return fail(ErrorCode::kProtocol, "too many remote ranges");
  while (!payload.empty()) {
    RemoteRange range;
    range.pid = take32(payload);
    range.rkey = take32(payload);
    range.start = take64(payload);
    range.end = take64(payload);
    range.remote_address = take64(payload);
    if (!is_sensible(range)) return fail(ErrorCode::kProtocol, "impossible remote range");
    ranges.push_back(range);
  }
  return {};
}

Result<RemoteRangeTable> RemoteRangeTable::make(std::vector<RemoteRange> ranges) {
  std::ranges::sort(ranges, {},
                    [](const RemoteRange& range) { return std::tuple(range.pid, range.start); });
  auto overlap = [](const RemoteRange& a, const RemoteRange& b) {
    return a.pid == b.pid && a.end > b.start;
  };
  if (std::ranges::adjacent_find(ranges, overlap) != ranges.end())
    return fail(ErrorCode::kProtocol, "remote ranges that overlap");
  RemoteRangeTable out;
  out.ranges_ = std::move(ranges);
  return out;
}

RemoteRangeTable::Iterator RemoteRangeTable::at_or_after(std::uint32_t pid,
                                                         std::uint64_t address) const {
  return std::ranges::upper_bound(
      ranges_, std::tuple(pid, address), {},
      [](const RemoteRange& range) { return std::tuple(range.pid, range.end); });
}

const RemoteRange* RemoteRangeTable::find(const PageRun& run) const {
  auto it = at_or_after(run.pid, run.address);
  bool found =
      it != ranges_.end() && it->pid == run.pid && it->start <= run.address && run.end() <= it->end;
  return found ? &*it : nullptr;
}

std::uint64_t RemoteRangeTable::uniform_bytes(std::uint32_t pid, std::uint64_t address,
                                              std::uint64_t bytes) const {
  auto it = at_or_after(pid, address);
  if (it == ranges_.end() || it->pid != pid) return bytes;
  std::uint64_t change = it->start <= address ? it->end : it->start;
  return std::min(bytes, change - address);
}

std::array<std::byte, 12> encode_staged_request(const StagedRequest& request) {
  std::array<std::byte, 12> out;
  std::uint32_t words[3] = {htobe32(request.run.pid), htobe32(request.run.count),
                            htobe32(request.slot)};
  std::memcpy(out.data(), words, sizeof words);
  return out;
}

Result<StagedRequest> decode_staged_request(const FrameHeader& header,
                                            std::span<const std::byte> payload) {
  if (payload.size() != 12) return fail(ErrorCode::kProtocol, "short page request");
  StagedRequest out;
  out.run = {take32(payload), header.argument, take32(payload)};
  out.slot = take32(payload);
  if (!is_sensible(out.run, kMaxPagesPerChunk) || out.slot >= kMaxReadRequests)
    return fail(ErrorCode::kProtocol, "request for impossible pages");
  return out;
}

std::vector<std::byte> encode_staged(std::uint32_t slot, std::span<const std::byte> front) {
  std::vector<std::byte> out;
  put(out, slot);
  out.insert(out.end(), front.begin(), front.end());
  return out;
}

Result<std::uint32_t> take_slot(std::span<const std::byte>& payload) {
  if (payload.size() < 4) return fail(ErrorCode::kProtocol, "cut page chunk");
  return take32(payload);
}

}  // namespace gestalt
