// The framing of CRIU's protobuf images: two u32 magics, then u32 length and a message each.
#pragma once

#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

#include "common/result.h"

namespace gestalt {

// The messages of an image of the given kind; anything odd is kProtocol. They point into
// `content`.
[[nodiscard]] Result<std::vector<std::string_view>> split_criu_image(std::string_view content,
                                                                     std::uint32_t magic);

// Numeric and nested fields of one message, in order.
struct MessageField {
  int number = 0;
  bool is_number = false;
  std::uint64_t value = 0;
  std::string_view bytes;
};
[[nodiscard]] Result<std::vector<MessageField>> split_message(std::string_view message);

// N of "KIND-N.img"; 0 if the name is another.
[[nodiscard]] std::uint32_t image_number(std::string_view name, std::string_view kind);

}  // namespace gestalt
