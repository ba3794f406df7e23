// IPv4 addresses in host byte order.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "common/result.h"

namespace gestalt {

[[nodiscard]] std::string ipv4_text(std::uint32_t address);

struct Ipv4Range {
  std::uint32_t first = 0;
  std::uint32_t count = 0;  // 0: nothing
};

// Of "10.1.2.0/24", all of it; both ends, which may be a network's own and its broadcast
// address, are left out if there are more than two. "" is nothing.
[[nodiscard]] Result<Ipv4Range> parse_ipv4_range(std::string_view text);

}  // namespace gestalt
