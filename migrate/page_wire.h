// The page connection's frames. docs/wire-format.md has every byte of it.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "common/result.h"
#include "migrate/page_set.h"
#include "migrate/transport.h"

namespace gestalt {

inline constexpr std::uint32_t kPageProtocolVersion = 6;
// Pages in one chunk; bytes in one kStateData frame.
inline constexpr std::uint32_t kMaxPagesPerChunk = 256;
inline constexpr std::uint32_t kMaxPieceBytes = kMaxPagesPerChunk * kPageBytes;
// A chunk's own header, and a run for each page at worst.
inline constexpr std::uint32_t kMaxChunkOverheadBytes = 24 + kMaxPagesPerChunk * 4;
inline constexpr std::uint32_t kMaxReportBytes = 4096;
inline constexpr std::uint64_t kMaxStateFileBytes = 64ULL << 30;
inline constexpr std::uint32_t kMaxStateFiles = 100'000;
inline constexpr std::uint32_t kMaxHandoverBytes = 4U << 20;
// User addresses on x86-64 with four-level page tables end here.
inline constexpr std::uint64_t kAddressLimit = 1ULL << 47;

// A migration's connections, all opened by the source. Control carries everything but
// pages; demand carries requests for pages that tasks wait for, so that they never queue
// behind others; the bulk links carry the rest.
inline constexpr std::uint64_t kControlLink = 0;
inline constexpr std::uint64_t kDemandLink = 1;
inline constexpr std::uint64_t kFirstBulkLink = 2;
inline constexpr std::uint64_t kMaxBulkLinks = 16;
inline constexpr std::uint64_t kLastLink = kFirstBulkLink + kMaxBulkLinks - 1;

enum class FrameType : std::uint16_t {
  kHello = 1,          // argument: link (source); payload: version, nonce
  kProof = 2,          // payload: HMAC
  kStateFile = 3,      // argument: size in bytes; payload: file name
  kStateData = 4,      // payload: the next bytes of the current file
  kStateEnd = 5,       // argument: number of files
  kHandover = 6,       // argument: total size; payload: the next bytes of the hand-over
  kPresent = 7,        // argument: pid; payload: page set: the pages that the process has
  kFresh = 8,          // the same: those whose content the destination has already
  kSetsEnd = 9,        // argument: number of the frames of sets and remote memory
  kReady = 10,         // destination: restored, not running
  kResumed = 11,       // destination: runs; argument: pid; payload: MigrationStats so far
  kAbort = 12,         // payload: reason
  kRequest = 13,       // destination: argument: address; payload: u32 pid, u32 count
  kChunk = 14,         // source: argument: address; payload: see page_chunk.h
  kRoundEnd = 15,      // source, bulk: argument: round; nothing of it follows
  kRoundAck = 16,      // destination, bulk: all of it is stored
  kPushEnd = 17,       // source, bulk: from here on chunks come as answers only
  kDone = 18,          // destination: needs nothing more; payload: MigrationStats
  kDoneAck = 19,       // source: the pages are gone
  kFileCache = 20,     // source, control, before the state: a cached file, see file_cache.h
  kFileCacheEnd = 21,  // argument: number of kFileCache frames
  kPackets = 22,  // source, control, after kReady, of a unit with a network; see held_packets.h
  kStagedRequest = 23,  // destination: argument: address; see remote_memory.h, as for the rest
  kStaged = 24,         // source: argument: address
  kStaging = 25,        // source, control, among the sets; argument: link
  kRemoteRanges = 26,   // the same; argument: 0
  kReadInPlace = 27,    // destination: argument: so many pages more, for the source's progress
};

struct FrameHeader {
  FrameType type = FrameType::kAbort;
  std::uint32_t length = 0;  // of the payload
  std::uint64_t argument = 0;
};

// Pages [address, address + count pages) of process `pid` as it is at the source.
struct PageRun {
  std::uint32_t pid = 0;
  std::uint64_t address = 0;
  std::uint32_t count = 0;

  [[nodiscard]] std::uint64_t end() const { return address + count * kPageBytes; }
};

// Aligned, not empty, at most `limit` pages, in user space.
[[nodiscard]] bool is_sensible(const PageRun& run, std::uint32_t limit);

inline constexpr std::size_t kHeaderBytes = 16;
[[nodiscard]] std::vector<std::byte> encode_header(const FrameHeader& header);
// kProtocol for an unknown type or a payload longer than the type allows.
[[nodiscard]] Result<FrameHeader> decode_header(std::span<const std::byte> bytes);
// Of a kRequest.
[[nodiscard]] std::array<std::byte, 8> encode_request(const PageRun& run);
[[nodiscard]] Result<PageRun> decode_request(const FrameHeader& header,
                                             std::span<const std::byte> payload);

// A page set in kPresent and kFresh frames: u64 block, u32 count; count > 0: so many full
// blocks from there on; 0: a bitmap of 64 bytes follows. Several frames may make one set.
[[nodiscard]] std::vector<std::vector<std::byte>> encode_page_set(const PageSet& set);
// Adds to `set`.
[[nodiscard]] Result<void> decode_page_set(std::span<const std::byte> payload, PageSet& set);

// A frame connection over a Stream. An ABORT from the peer turns up as an error of
// whatever call meets it, with the peer's reason. Same threading as Stream.
class PageConnection {
 public:
  explicit PageConnection(std::unique_ptr<Stream> stream) : stream_(std::move(stream)) {}

  [[nodiscard]] Result<void> send(FrameType type, std::uint64_t argument,
                                  std::span<const std::byte> payload, Deadline deadline);
  [[nodiscard]] Result<void> send(FrameType type, std::uint64_t argument, std::string_view payload,
                                  Deadline deadline);
  // The payload in parts that need not be copied together.
  [[nodiscard]] Result<void> send_parts(FrameType type, std::uint64_t argument,
                                        std::span<const std::span<const std::byte>> parts,
                                        Deadline deadline);
  // From here on send() collects small frames, up to some 256 KiB, until uncork().
  void cork() { corked_ = true; }
  [[nodiscard]] Result<void> uncork(Deadline deadline);

  // The next header, its payload following in receive_payload.
  [[nodiscard]] Result<FrameHeader> receive_header(Deadline deadline);
  // The next frame, which must be of this type; its header, the payload into `payload`.
  [[nodiscard]] Result<FrameHeader> expect(FrameType type, std::vector<std::byte>& payload,
                                           Deadline deadline);
  [[nodiscard]] Result<void> receive_payload(const FrameHeader& header,
                                             std::vector<std::byte>& payload, Deadline deadline);

  [[nodiscard]] Stream& stream() { return *stream_; }
  // Something of the next frame is here already.
  [[nodiscard]] bool has_begun() const { return ahead_begin_ < ahead_end_; }
  // Returns when a frame, or the end, can be received; kTimeout.
  [[nodiscard]] Result<void> wait_readable(Deadline deadline) {
    return ahead_begin_ < ahead_end_ ? Result<void>() : stream_->wait_readable(deadline);
  }

 private:
  std::unique_ptr<Stream> stream_;
  [[nodiscard]] Result<void> take(std::span<std::byte> into, Deadline deadline);

  bool corked_ = false;
  std::vector<std::byte> collected_;
  // What came along with a header: a small frame takes one system call.
  std::array<std::byte, 8192> ahead_;
  std::size_t ahead_begin_ = 0;
  std::size_t ahead_end_ = 0;
};

// Both ends show that they know the migration's secret, without sending it: each sends
// a nonce, then HMAC-SHA256(secret, role, own nonce, peer's nonce). What follows is
// not encrypted; docs/ARCHITECTURE.md says what that means.
enum class PageRole { kSource, kDestination };
// `link`: the source's choice, shown to the destination and part of the proof.
[[nodiscard]] Result<void> authenticate(PageConnection& connection, PageRole role,
                                        std::string_view secret, std::uint64_t& link,
                                        Deadline deadline);

}  // namespace gestalt
