#include "daemon/view/cpuinfo.h"

#include "daemon/view/text.h"

namespace gestalt {
namespace {

constexpr std::size_t kMaxBlockBytes = 16'384;  // real ones have up to 5 KiB

// Takes the lines up to the next empty one off the front.
std::string_view next_paragraph(std::string_view& text) {
  const char* begin = text.data();
  std::size_t bytes = 0;
  for (std::string_view line; view_text::next_line(text, line) && !line.empty();)
    bytes = static_cast<std::size_t>(line.data() + line.size() - begin);
  return {begin, bytes};
}

}  // namespace

CpuField parse_cpu_field(std::string_view line) {
  auto colon = line.find(':');
  if (colon == std::string_view::npos) return {};
  return {view_text::trim(line.substr(0, colon)), view_text::trim(line.substr(colon + 1))};
}

std::vector<CpuBlock> parse_cpuinfo(std::string_view text, std::uint32_t max_blocks) {
  std::vector<CpuBlock> blocks;
  while (!text.empty() && blocks.size() < max_blocks) {
    CpuBlock block{.text = next_paragraph(text).substr(0, kMaxBlockBytes)};
    bool is_cpu = false;  // some architectures end with a paragraph about the board
    auto rest = block.text;
    for (std::string_view line; view_text::next_line(rest, line);) {
      auto field = parse_cpu_field(line);
      if (field.key == "processor") is_cpu = true;
      if (field.key == "physical id") block.package = view_text::parse_number(field.value);
      if (field.key == "core id") block.core = view_text::parse_number(field.value);
    }
    if (is_cpu) blocks.push_back(block);
  }
  return blocks;
}

}  // namespace gestalt
