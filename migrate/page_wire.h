// The page connection's frames. docs/wire-format.md has every byte of it.
#pragma once

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

inline constexpr std::uint32_t kPageProtocolVersion = 1;
// Pages in one kPages frame, bytes in one kStateData frame.
inline constexpr std::uint32_t kMaxPagesPerFrame = 256;
inline constexpr std::uint32_t kMaxPayloadBytes = 8 + kMaxPagesPerFrame * kPageBytes;
inline constexpr std::uint64_t kMaxStateFileBytes = 64ULL << 30;
inline constexpr std::uint32_t kMaxStateFiles = 100'000;
inline constexpr std::uint32_t kMaxHandoverBytes = 4U << 20;
// User addresses on x86-64 with four-level page tables end here.
inline constexpr std::uint64_t kAddressLimit = 1ULL << 47;

enum class FrameType : std::uint16_t {
  kHello = 1,      // payload: nonce
  kProof = 2,      // payload: HMAC
  kStateFile = 3,  // argument: size in bytes; payload: file name
  kStateData = 4,  // payload: the next bytes of the current file
  kStateEnd = 5,   // argument: number of files
  kHandover = 6,   // argument: total size; payload: the next bytes of the hand-over
  kPages = 7,      // argument: address; payload: u32 pid, u32 count, pages
  kZeroPages = 8,  // argument: address; payload: u32 pid, u32 count
  kPagesEnd = 9,   // argument: pages announced, sent and zero together
  kReady = 10,     // destination: restored, not running
  kResumed = 11,   // destination: runs; argument: pid
  kAbort = 12,     // payload: reason
};

struct FrameHeader {
  FrameType type = FrameType::kAbort;
  std::uint32_t length = 0;  // of the payload
  std::uint64_t argument = 0;
};

struct PageRun {
  std::uint32_t pid = 0;
  std::uint64_t address = 0;
  std::uint32_t count = 0;
};

inline constexpr std::size_t kHeaderBytes = 16;
[[nodiscard]] std::vector<std::byte> encode_header(const FrameHeader& header);
// kProtocol for an unknown type or a payload longer than the type allows.
[[nodiscard]] Result<FrameHeader> decode_header(std::span<const std::byte> bytes);
// The pid and count in front of a kPages or kZeroPages payload, checked against the
// frame's length, alignment and the address space.
[[nodiscard]] Result<PageRun> decode_page_run(const FrameHeader& header,
                                              std::span<const std::byte> payload);
[[nodiscard]] std::vector<std::byte> encode_page_run(std::uint32_t pid, std::uint32_t count);

// A frame connection over a Stream. An ABORT from the peer turns up as an error of
// whatever call meets it, with the peer's reason. Same threading as Stream.
class PageConnection {
 public:
  explicit PageConnection(std::unique_ptr<Stream> stream) : stream_(std::move(stream)) {}

  [[nodiscard]] Result<void> send(FrameType type, std::uint64_t argument,
                                  std::span<const std::byte> payload, Deadline deadline);
  [[nodiscard]] Result<void> send(FrameType type, std::uint64_t argument, std::string_view payload,
                                  Deadline deadline);
  // Header and two payload parts without copying them together.
  [[nodiscard]] Result<void> send_pages(const PageRun& run, std::span<const std::byte> pages,
                                        Deadline deadline);

  // The next header, its payload following in receive_payload.
  [[nodiscard]] Result<FrameHeader> receive_header(Deadline deadline);
  // The next frame, which must be of this type; its header, the payload into `payload`.
  [[nodiscard]] Result<FrameHeader> expect(FrameType type, std::vector<std::byte>& payload,
                                           Deadline deadline);
  [[nodiscard]] Result<void> receive_payload(const FrameHeader& header,
                                             std::vector<std::byte>& payload, Deadline deadline);

  [[nodiscard]] Stream& stream() { return *stream_; }

 private:
  std::unique_ptr<Stream> stream_;
};

// Both ends show that they know the migration's secret, without sending it: each sends
// a nonce, then HMAC-SHA256(secret, role, own nonce, peer's nonce). What follows is
// not encrypted; docs/ARCHITECTURE.md says what that means.
enum class PageRole { kSource, kDestination };
[[nodiscard]] Result<void> authenticate(PageConnection& connection, PageRole role,
                                        std::string_view secret, Deadline deadline);

}  // namespace gestalt
