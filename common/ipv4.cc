#include "common/ipv4.h"

#include <arpa/inet.h>

#include <charconv>

#include "common/format.h"

namespace gestalt {
namespace {

constexpr unsigned kShortestPrefix = 8;
constexpr unsigned kLongestPrefix = 32;

}  // namespace

std::string ipv4_text(std::uint32_t address) {
  return formatted("{}.{}.{}.{}", address >> 24, (address >> 16) & 255, (address >> 8) & 255,
                   address & 255);
}

Result<Ipv4Range> parse_ipv4_range(std::string_view text) {
  if (text.empty()) return Ipv4Range{};
  auto wrong = [&](std::string_view why) {
    return fail(ErrorCode::kInvalidArgument,
                formatted("{} is not a range of IPv4 addresses: {}", text, why),
                "write it as 10.1.2.0/24");
  };
  auto slash = text.find('/');
  if (slash == std::string_view::npos) return wrong("it has no prefix length");
  in_addr parsed{};
  if (::inet_pton(AF_INET, std::string(text.substr(0, slash)).c_str(), &parsed) != 1)
    return wrong("no address before the slash");
  auto tail = text.substr(slash + 1);
  unsigned prefix = 0;
  auto [end, error] = std::from_chars(tail.data(), tail.data() + tail.size(), prefix);
  if (error != std::errc() || end != tail.data() + tail.size() || prefix < kShortestPrefix ||
      prefix > kLongestPrefix)
    return wrong("no prefix length from 8 to 32 after the slash");
  std::uint32_t address = ntohl(parsed.s_addr);
  std::uint32_t count = prefix == kLongestPrefix ? 1 : 1U << (kLongestPrefix - prefix);
  if ((address & (count - 1)) != 0) return wrong("the address has bits beyond the prefix");
  if (count <= 2) return Ipv4Range{address, count};
  return Ipv4Range{address + 1, count - 2};
}

}  // namespace gestalt
