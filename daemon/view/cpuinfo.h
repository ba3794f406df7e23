// The blocks of one node's /proc/cpuinfo, one for each CPU that it has online.
#pragma once

#include <cstdint>
#include <optional>
#include <string_view>
#include <vector>

namespace gestalt {

struct CpuBlock {
  std::string_view text;                 // all of its lines, without the empty one that ends it
  std::optional<std::uint64_t> package;  // "physical id"
  std::optional<std::uint64_t> core;     // "core id", within the package
};

// "core id		: 3": what is before and after the colon, without blanks. Empty: no such
// line.
struct CpuField {
  std::string_view key;
  std::string_view value;
};
[[nodiscard]] CpuField parse_cpu_field(std::string_view line);

// At most `max_blocks`; a block is cut after 16 KiB.
[[nodiscard]] std::vector<CpuBlock> parse_cpuinfo(std::string_view text, std::uint32_t max_blocks);

}  // namespace gestalt
