#include "migrate/criu_image.h"

#include <google/protobuf/io/coded_stream.h>
#include <google/protobuf/wire_format_lite.h>

#include <charconv>
#include <cstring>

namespace gestalt {
namespace {

using google::protobuf::internal::WireFormatLite;
using google::protobuf::io::CodedInputStream;

constexpr std::uint32_t kImageMagic = 0x54564319;  // IMG_COMMON_MAGIC
constexpr std::size_t kMaxMessageBytes = 1U << 30;

std::uint32_t word_at(std::string_view content, std::size_t offset) {
  std::uint32_t value = 0;
  std::memcpy(&value, content.data() + offset, sizeof value);
  return value;
}

}  // namespace

Result<std::vector<std::string_view>> split_criu_image(std::string_view content,
                                                       std::uint32_t magic) {
  if (content.size() < 8 || word_at(content, 0) != kImageMagic || word_at(content, 4) != magic)
    return fail(ErrorCode::kProtocol, "an image of another kind");
  std::vector<std::string_view> messages;
  for (std::size_t offset = 8; offset < content.size();) {
    if (content.size() - offset < 4) return fail(ErrorCode::kProtocol, "a cut image");
    std::uint32_t length = word_at(content, offset);
    offset += 4;
    if (length > content.size() - offset || length > kMaxMessageBytes)
      return fail(ErrorCode::kProtocol, "a cut image");
    messages.push_back(content.substr(offset, length));
    offset += length;
  }
  return messages;
}

Result<std::vector<MessageField>> split_message(std::string_view message) {
  if (message.size() > kMaxMessageBytes) return fail(ErrorCode::kProtocol, "an image too large");
  CodedInputStream input(reinterpret_cast<const std::uint8_t*>(message.data()),
                         static_cast<int>(message.size()));
  std::vector<MessageField> fields;
  while (std::uint32_t tag = input.ReadTag()) {
    MessageField field;
    field.number = WireFormatLite::GetTagFieldNumber(tag);
    auto type = WireFormatLite::GetTagWireType(tag);
    field.is_number = type == WireFormatLite::WIRETYPE_VARINT;
    bool good = true;
    if (field.is_number) {
      good = input.ReadVarint64(&field.value);
    } else if (type == WireFormatLite::WIRETYPE_LENGTH_DELIMITED) {
      std::uint32_t length = 0;
      good = input.ReadVarint32(&length);
      auto at = static_cast<std::size_t>(input.CurrentPosition());
      good = good && length <= message.size() - at && input.Skip(static_cast<int>(length));
      if (good) field.bytes = message.substr(at, length);
    } else {
      good = WireFormatLite::SkipField(&input, tag);
    }
    if (!good) return fail(ErrorCode::kProtocol, "a damaged image");
    fields.push_back(field);
  }
  if (!input.ConsumedEntireMessage()) return fail(ErrorCode::kProtocol, "a damaged image");
  return fields;
}

std::uint32_t image_number(std::string_view name, std::string_view kind) {
  if (!name.starts_with(kind) || name.size() <= kind.size() || name[kind.size()] != '-') return 0;
  name.remove_prefix(kind.size() + 1);
  std::uint32_t number = 0;
  auto [end, error] = std::from_chars(name.data(), name.data() + name.size(), number);
  name.remove_prefix(static_cast<std::size_t>(end - name.data()));
  return error == std::errc() && name == ".img" ? number : 0;
}

}  // namespace gestalt
