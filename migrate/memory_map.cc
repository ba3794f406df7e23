#include "migrate/memory_map.h"

#include <charconv>

#include "common/fd.h"
#include "migrate/page_set.h"

namespace gestalt {
namespace {

constexpr std::size_t kMaxMapBytes = 256U << 20;

// Takes one number off the front, and the separator behind it.
bool take_number(std::string_view& text, int base, char separator, std::uint64_t& value) {
  auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value, base);
  auto length = static_cast<std::size_t>(end - text.data());
  if (error != std::errc() || length >= text.size() || *end != separator) return false;
  text.remove_prefix(length + 1);
  return true;
}

bool take_word(std::string_view& text, std::string& word) {
  auto space = text.find(' ');
  if (space == std::string_view::npos || space == 0) return false;
  word = text.substr(0, space);
  text.remove_prefix(space + 1);
  return true;
}

}  // namespace

bool MemoryArea::is_private_anonymous() const {
  if (!is_private() || inode != 0) return false;
  return name.empty() || name == "[heap]" || name.starts_with("[stack") ||
         name.starts_with("[anon:");
}

Result<MemoryArea> parse_memory_area(std::string_view line) {
  MemoryArea area;
  bool good = take_number(line, 16, '-', area.start) && take_number(line, 16, ' ', area.end) &&
              take_word(line, area.permissions) && area.permissions.size() == 4 &&
              take_number(line, 16, ' ', area.offset) && take_word(line, area.device);
  // The inode is the last field where there is no name.
  std::uint64_t inode = 0;
  auto [end, error] = std::from_chars(line.data(), line.data() + line.size(), inode);
  if (!good || error != std::errc() || area.start >= area.end || area.start % kPageBytes != 0 ||
      area.end % kPageBytes != 0)
    return fail(ErrorCode::kProtocol, "a line of a memory map makes no sense");
  area.inode = inode;
  line.remove_prefix(static_cast<std::size_t>(end - line.data()));
  auto name = line.find_first_not_of(' ');
  if (name != std::string_view::npos) area.name = line.substr(name);
  return area;
}

Result<std::vector<MemoryArea>> parse_memory_map(std::string_view text) {
  std::vector<MemoryArea> areas;
  while (!text.empty()) {
    auto end = text.find('\n');
    GESTALT_ASSIGN(auto area, parse_memory_area(text.substr(0, end)));
    areas.push_back(std::move(area));
    text.remove_prefix(end == std::string_view::npos ? text.size() : end + 1);
  }
  return areas;
}

Result<std::vector<MemoryArea>> read_memory_map(pid_t pid) {
  auto text = read_file(std::format("/proc/{}/maps", pid), kMaxMapBytes);
  if (!text && (text.error().code == ErrorCode::kNotFound || text.error().code == ErrorCode::kGone))
    return fail(ErrorCode::kGone, std::format("process {} does not exist", pid));
  if (!text) return std::unexpected(std::move(text).error());
  return parse_memory_map(*text);
}

}  // namespace gestalt
