#include "common/frame.h"

#include <arpa/inet.h>

#include <algorithm>
#include <cstring>

#include "common/format.h"

namespace gestalt {

Result<std::string> encode_frame(const wire::Message& message) {
  std::size_t size = message.ByteSizeLong();
  if (size > kMaxFrameBytes)
    return fail(ErrorCode::kInvalidArgument,
                formatted("message of {} bytes exceeds the limit of {}", size, kMaxFrameBytes));
  std::string frame(sizeof(std::uint32_t), '\0');
  std::uint32_t length = htonl(static_cast<std::uint32_t>(size));
  std::memcpy(frame.data(), &length, sizeof length);
  if (!message.AppendToString(&frame))
    return fail(ErrorCode::kInternal, "serialise a control message");
  return frame;
}

void FrameDecoder::append(std::span<const std::byte> bytes) {
  if (start_ > 0 && start_ >= buffer_.size() / 2) {
    buffer_.erase(0, start_);
    start_ = 0;
  }
  buffer_.append(reinterpret_cast<const char*>(bytes.data()), bytes.size());
}

Result<std::optional<wire::Message>> FrameDecoder::next() {
  if (buffer_.size() - start_ < sizeof(std::uint32_t)) return std::nullopt;
  std::uint32_t length = 0;
  std::memcpy(&length, buffer_.data() + start_, sizeof length);
  length = ntohl(length);
  if (length > limit_bytes_)
    return fail(ErrorCode::kProtocol,
                formatted("frame of {} bytes, the limit is {}", length, limit_bytes_));
  if (buffer_.size() - start_ - sizeof length < length) return std::nullopt;
  wire::Message message;
  if (!message.ParseFromArray(buffer_.data() + start_ + sizeof length, static_cast<int>(length)))
    return fail(ErrorCode::kProtocol, formatted("frame of {} bytes is no message", length));
  start_ += sizeof length + length;
  return message;
}

namespace {

// The length of the well-formed UTF-8 sequence that text begins with; 0 if it does not.
std::size_t sequence_length(std::string_view text) {
  auto byte = [&](std::size_t i) { return static_cast<unsigned char>(text[i]); };
  unsigned char first = byte(0);
  if (first < 0x80) return 1;
  std::size_t length = first >= 0xF0 ? 4 : first >= 0xE0 ? 3 : 2;
  if (first < 0xC2 || first > 0xF4 || text.size() < length) return 0;
  for (std::size_t i = 1; i < length; ++i)
    if ((byte(i) & 0xC0) != 0x80) return 0;
  // Overlong forms, surrogates, and what lies beyond U+10FFFF.
  if ((first == 0xE0 && byte(1) < 0xA0) || (first == 0xED && byte(1) > 0x9F) ||
      (first == 0xF0 && byte(1) < 0x90) || (first == 0xF4 && byte(1) > 0x8F))
    return 0;
  return length;
}

}  // namespace

std::string valid_utf8(std::string_view text) {
  std::string out;
  out.reserve(text.size());
  while (!text.empty()) {
    std::size_t length = sequence_length(text);
    out += length == 0 ? std::string_view("\xEF\xBF\xBD") : text.substr(0, length);
    text.remove_prefix(std::max<std::size_t>(length, 1));
  }
  return out;
}

wire::Error to_wire(const Error& error) {
  wire::Error out;
  out.set_code(static_cast<wire::ErrorCode>(error.code));
  out.set_message(valid_utf8(error.message));
  out.set_remedy(valid_utf8(error.remedy));
  return out;
}

Error from_wire(const wire::Error& error) {
  bool known = error.code() >= wire::ERROR_INTERNAL && error.code() <= wire::ERROR_EXEC_DENIED;
  return Error{known ? static_cast<ErrorCode>(error.code()) : ErrorCode::kInternal, error.message(),
               error.remedy()};
}

wire::Message error_reply(std::uint64_t request_id, const Error& error) {
  wire::Message message;
  message.set_request_id(request_id);
  message.set_is_reply(true);
  *message.mutable_error() = to_wire(error);
  return message;
}

}  // namespace gestalt
