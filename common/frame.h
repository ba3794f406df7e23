// The control plane's framing: u32 length in network order, then that many bytes of
// one serialised wire::Message. docs/wire-format.md.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>

#include "common/proto/control.pb.h"
#include "common/result.h"

namespace gestalt {

// Raised whenever control.proto changes in a way that old daemons cannot read.
inline constexpr std::uint32_t kProtocolVersion = 1;
// A larger frame is refused before anything is allocated for it.
inline constexpr std::uint32_t kMaxFrameBytes = 8U << 20;
// Before a peer has shown who it is, it gets only this much.
inline constexpr std::uint32_t kMaxUnauthenticatedFrameBytes = 64U << 10;

// Length and message, ready to be written. Messages that we build ourselves fit; one
// that does not (a huge environment) is kInvalidArgument.
[[nodiscard]] Result<std::string> encode_frame(const wire::Message& message);

// Takes bytes as they come, gives messages as they are complete. After an error the
// stream cannot be used any more. Not thread-safe.
class FrameDecoder {
 public:
  explicit FrameDecoder(std::uint32_t limit_bytes = kMaxFrameBytes) : limit_bytes_(limit_bytes) {}

  void set_limit_bytes(std::uint32_t limit_bytes) { limit_bytes_ = limit_bytes; }
  void append(std::span<const std::byte> bytes);
  // The next message; nothing if more bytes are needed; kProtocol if the bytes make no sense.
  [[nodiscard]] Result<std::optional<wire::Message>> next();

 private:
  std::string buffer_;
  std::size_t start_ = 0;
  std::uint32_t limit_bytes_;
};

// Proto3 strings must be UTF-8, or the peer refuses the whole frame: every other byte
// becomes U+FFFD. For text from outside (file names, command lines) in `string` fields.
[[nodiscard]] std::string valid_utf8(std::string_view text);

// Between the two representations of an error.
[[nodiscard]] wire::Error to_wire(const Error& error);
[[nodiscard]] Error from_wire(const wire::Error& error);

// A message of type Body that answers `request_id`.
[[nodiscard]] wire::Message error_reply(std::uint64_t request_id, const Error& error);

}  // namespace gestalt
