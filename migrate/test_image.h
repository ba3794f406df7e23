// For tests: CRIU's images, made by hand as protobuf has them.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

namespace gestalt {

inline std::string word(std::uint32_t value) {
  return {reinterpret_cast<const char*>(&value), sizeof value};
}

inline std::string varint(std::uint64_t value) {
  std::string out;
  for (; value >= 128; value >>= 7) out += static_cast<char>(value | 128);
  return out + static_cast<char>(value);
}

// Fields: a number; a string, or a message within.
inline std::string field(int number, std::uint64_t value) {
  return varint(static_cast<std::uint64_t>(number) << 3) + varint(value);
}
inline std::string field(int number, std::string_view bytes) {
  return varint(static_cast<std::uint64_t>(number) << 3 | 2) + varint(bytes.size()) +
         std::string(bytes);
}

// A message of an image.
inline std::string entry(std::string_view fields) {
  return word(static_cast<std::uint32_t>(fields.size())) + std::string(fields);
}

// How an image of this kind begins.
inline std::string image_front(std::uint32_t magic) { return word(0x54564319) + word(magic); }

}  // namespace gestalt
