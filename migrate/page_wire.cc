#include "migrate/page_wire.h"

#include <endian.h>

#include <algorithm>
#include <cstring>

#include "common/fault.h"
#include "common/format.h"

namespace gestalt {
namespace {

constexpr std::uint16_t kMagic = 0x4750;  // "GP"
// In one entry of a page set: 128 GiB of memory.
constexpr std::uint32_t kMaxFullBlocks = 1U << 16;
constexpr std::size_t kCorkBytes = 256U << 10;

std::vector<std::byte> frame_header(FrameType type, std::size_t length, std::uint64_t argument) {
  auto header = encode_header({type, static_cast<std::uint32_t>(length), argument});
  if (take_garbage()) std::ranges::reverse(header);
  return header;
}

std::uint32_t max_payload(FrameType type) {
  switch (type) {
    case FrameType::kHello:
      return 36;
    case FrameType::kProof:
      return 32;
    case FrameType::kStateFile:
      return 255;
    case FrameType::kStateData:
    case FrameType::kHandover:
    case FrameType::kFileCache:
    case FrameType::kPackets:
    case FrameType::kPresent:
    case FrameType::kFresh:
    case FrameType::kRemoteRanges:
      return kMaxPieceBytes;
    case FrameType::kChunk:
      return kMaxChunkOverheadBytes + kMaxPieceBytes;
    case FrameType::kRequest:
      return 8;
    case FrameType::kStagedRequest:
      return 12;
    case FrameType::kStaged:
      return 4 + kMaxChunkOverheadBytes;
    case FrameType::kStaging:
      return 20;
    case FrameType::kAbort:
      return 1024;
    case FrameType::kResumed:
    case FrameType::kDone:
      return kMaxReportBytes;
    case FrameType::kStateEnd:
    case FrameType::kSetsEnd:
    case FrameType::kReady:
    case FrameType::kRoundEnd:
    case FrameType::kRoundAck:
    case FrameType::kPushEnd:
    case FrameType::kDoneAck:
    case FrameType::kFileCacheEnd:
    case FrameType::kReadInPlace:
      return 0;
  }
  return 0;
}

template <class T>
void append_big_endian(std::vector<std::byte>& out, T value) {
  if constexpr (sizeof(T) == 8) value = htobe64(value);
  if constexpr (sizeof(T) == 4) value = htobe32(value);
  const auto* bytes = reinterpret_cast<const std::byte*>(&value);
  out.insert(out.end(), bytes, bytes + sizeof value);
}

bool is_full(const PageSet::Bitmap& bitmap) {
  return std::ranges::all_of(bitmap, [](std::uint64_t word) { return word == ~0ULL; });
}

}  // namespace

std::vector<std::byte> encode_header(const FrameHeader& header) {
  std::vector<std::byte> out(kHeaderBytes);
  std::uint16_t magic = htobe16(kMagic);
  std::uint16_t type = htobe16(static_cast<std::uint16_t>(header.type));
  std::uint32_t length = htobe32(header.length);
  std::uint64_t argument = htobe64(header.argument);
  std::memcpy(out.data(), &magic, 2);
  std::memcpy(out.data() + 2, &type, 2);
  std::memcpy(out.data() + 4, &length, 4);
  std::memcpy(out.data() + 8, &argument, 8);
  return out;
}

Result<FrameHeader> decode_header(std::span<const std::byte> bytes) {
  if (bytes.size() != kHeaderBytes) return fail(ErrorCode::kProtocol, "short page frame header");
  std::uint16_t magic = 0;
  std::uint16_t type = 0;
  FrameHeader header;
  std::memcpy(&magic, bytes.data(), 2);
  std::memcpy(&type, bytes.data() + 2, 2);
  std::memcpy(&header.length, bytes.data() + 4, 4);
  std::memcpy(&header.argument, bytes.data() + 8, 8);
  type = be16toh(type);
  header.type = static_cast<FrameType>(type);
  header.length = be32toh(header.length);
  header.argument = be64toh(header.argument);
  bool known = type >= static_cast<std::uint16_t>(FrameType::kHello) &&
               type <= static_cast<std::uint16_t>(FrameType::kReadInPlace);
  if (be16toh(magic) != kMagic || !known)
    return fail(ErrorCode::kProtocol, "the page connection carries no page frames");
  if (header.length > max_payload(header.type))
    return fail(ErrorCode::kProtocol,
                formatted("page frame of type {} with {} bytes", type, header.length));
  return header;
}

bool is_sensible(const PageRun& run, std::uint32_t limit) {
  return run.count > 0 && run.count <= limit && run.address % kPageBytes == 0 &&
         run.address < kAddressLimit && run.count * kPageBytes <= kAddressLimit - run.address;
}

std::array<std::byte, 8> encode_request(const PageRun& run) {
  std::array<std::byte, 8> out;
  std::uint32_t words[2] = {htobe32(run.pid), htobe32(run.count)};
  std::memcpy(out.data(), words, sizeof words);
  return out;
}

Result<PageRun> decode_request(const FrameHeader& header, std::span<const std::byte> payload) {
  std::uint32_t words[2] = {0, 0};
  if (payload.size() != sizeof words) return fail(ErrorCode::kProtocol, "short page request");
  std::memcpy(words, payload.data(), sizeof words);
  PageRun run{be32toh(words[0]), header.argument, be32toh(words[1])};
  if (!is_sensible(run, kMaxPagesPerChunk))
    return fail(ErrorCode::kProtocol, "request for impossible pages");
  return run;
}

std::vector<std::vector<std::byte>> encode_page_set(const PageSet& set) {
  constexpr std::size_t kLargestEntryBytes = 12 + sizeof(PageSet::Bitmap);
  std::vector<std::vector<std::byte>> frames(1);
  const auto& blocks = set.blocks();
  for (auto it = blocks.begin(); it != blocks.end();) {
    if (frames.back().size() + kLargestEntryBytes > kMaxPieceBytes) frames.emplace_back();
    auto& out = frames.back();
    append_big_endian(out, it->first);
    auto last = it;
    std::uint32_t full = 0;
    while (full < kMaxFullBlocks && last != blocks.end() && last->first == it->first + full &&
           is_full(last->second)) {
      ++full;
      ++last;
    }
    append_big_endian(out, full);
    if (full == 0) {
      for (std::uint64_t word : it->second) append_big_endian(out, word);
      ++last;
    }
    it = last;
  }
  return frames;
}

Result<void> decode_page_set(std::span<const std::byte> payload, PageSet& set) {
  auto take = [&payload](auto& value) {
    std::memcpy(&value, payload.data(), sizeof value);
    payload = payload.subspan(sizeof value);
    value = sizeof value == 8 ? be64toh(value) : be32toh(static_cast<std::uint32_t>(value));
  };
  while (!payload.empty()) {
    std::uint64_t block = 0;
    std::uint32_t full = 0;
    if (payload.size() < 12) return fail(ErrorCode::kProtocol, "cut page set");
    take(block);
    take(full);
    constexpr std::uint64_t kBlocks = kAddressLimit / kBlockBytes;
    if (block >= kBlocks || full > kBlocks - block)
      return fail(ErrorCode::kProtocol, "page set beyond the address space");
    if (full > 0) {
      // What a set may make us keep is bounded by the frames' sizes, but for this.
      if (full > kMaxFullBlocks) return fail(ErrorCode::kProtocol, "page set of impossible size");
      set.add(block * kBlockBytes, (block + full) * kBlockBytes);
      continue;
    }
    PageSet::Bitmap bitmap;
    if (payload.size() < sizeof bitmap) return fail(ErrorCode::kProtocol, "cut page set");
    for (std::uint64_t& word : bitmap) take(word);
    set.add_block(block, bitmap);
  }
  return {};
}

Result<void> PageConnection::send(FrameType type, std::uint64_t argument,
                                  std::span<const std::byte> payload, Deadline deadline) {
  auto frame = frame_header(type, payload.size(), argument);
  if (corked_) {
    collected_.insert(collected_.end(), frame.begin(), frame.end());
    collected_.insert(collected_.end(), payload.begin(), payload.end());
    if (collected_.size() < kCorkBytes) return {};
    auto sent = stream_->send(collected_, deadline);
    collected_.clear();
    return sent;
  }
  return stream_->send_parts({{std::span<const std::byte>(frame), payload}}, deadline);
}

Result<void> PageConnection::uncork(Deadline deadline) {
  corked_ = false;
  auto frames = std::exchange(collected_, {});
  return frames.empty() ? Result<void>() : stream_->send(frames, deadline);
}

Result<void> PageConnection::send(FrameType type, std::uint64_t argument, std::string_view payload,
                                  Deadline deadline) {
  return send(type, argument, std::as_bytes(std::span(payload)), deadline);
}

Result<void> PageConnection::send_parts(FrameType type, std::uint64_t argument,
                                        std::span<const std::span<const std::byte>> parts,
                                        Deadline deadline) {
  std::size_t length = 0;
  for (auto part : parts) length += part.size();
  auto header = frame_header(type, length, argument);
  std::vector<std::span<const std::byte>> all{std::span<const std::byte>(header)};
  all.insert(all.end(), parts.begin(), parts.end());
  return stream_->send_parts(all, deadline);
}

Result<FrameHeader> PageConnection::receive_header(Deadline deadline) {
  std::array<std::byte, kHeaderBytes> bytes;
  if (ahead_begin_ == ahead_end_) {
    GESTALT_ASSIGN(ahead_end_, stream_->receive_some(ahead_, kHeaderBytes, deadline));
    ahead_begin_ = 0;
  }
  GESTALT_TRY(take(bytes, deadline));
  GESTALT_ASSIGN(auto header, decode_header(bytes));
  if (header.type != FrameType::kAbort) return header;
  std::vector<std::byte> reason;
  GESTALT_TRY(receive_payload(header, reason, deadline));
  std::string text(reinterpret_cast<const char*>(reason.data()), reason.size());
  for (char& c : text) c = static_cast<unsigned char>(c) < 32 ? ' ' : c;
  return fail(ErrorCode::kUnavailable, formatted("the other node gave up: {}", text));
}

Result<void> PageConnection::receive_payload(const FrameHeader& header,
                                             std::vector<std::byte>& payload, Deadline deadline) {
  payload.resize(header.length);
  return take(payload, deadline);
}

Result<void> PageConnection::take(std::span<std::byte> into, Deadline deadline) {
  if (into.empty()) return {};
  std::size_t ready = std::min(into.size(), ahead_end_ - ahead_begin_);
  std::memcpy(into.data(), ahead_.data() + ahead_begin_, ready);
  ahead_begin_ += ready;
  return stream_->receive(into.subspan(ready), deadline);
}

Result<FrameHeader> PageConnection::expect(FrameType type, std::vector<std::byte>& payload,
                                           Deadline deadline) {
  GESTALT_ASSIGN(auto header, receive_header(deadline));
  if (header.type != type)
    return fail(ErrorCode::kProtocol,
                formatted("page frame of type {}, expected {}", static_cast<int>(header.type),
                          static_cast<int>(type)));
  GESTALT_TRY(receive_payload(header, payload, deadline));
  return header;
}

}  // namespace gestalt
