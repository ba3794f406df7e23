#include "migrate/memory_map.h"

#include <fcntl.h>
#include <linux/fs.h>
#include <sys/ioctl.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <charconv>
#include <climits>

#include "common/fd.h"
#include "common/format.h"
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

Unexpected no_process(pid_t pid) {
  return fail(ErrorCode::kGone, formatted("process {} does not exist", pid));
}

MemoryArea area_of(const procmap_query& found, const char* name) {
  MemoryArea area;
  area.start = found.vma_start;
  area.end = found.vma_end;
  auto letter = [&](std::uint64_t flag, char set, char unset) {
    area.permissions += (found.vma_flags & flag) != 0 ? set : unset;
  };
  letter(PROCMAP_QUERY_VMA_READABLE, 'r', '-');
  letter(PROCMAP_QUERY_VMA_WRITABLE, 'w', '-');
  letter(PROCMAP_QUERY_VMA_EXECUTABLE, 'x', '-');
  letter(PROCMAP_QUERY_VMA_SHARED, 's', 'p');
  area.offset = found.vma_offset;
  area.device = formatted("{:02x}:{:02x}", found.dev_major, found.dev_minor);
  area.inode = found.inode;
  if (found.vma_name_size > 0) area.name = name;
  return area;
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
  auto text = read_file(formatted("/proc/{}/maps", pid), kMaxMapBytes);
  if (!text && (text.error().code == ErrorCode::kNotFound || text.error().code == ErrorCode::kGone))
    return no_process(pid);
  if (!text) return std::unexpected(std::move(text).error());
  return parse_memory_map(*text);
}

Result<MemoryMap> MemoryMap::open(pid_t pid) {
  auto file = open_file(formatted("/proc/{}/maps", pid), O_RDONLY);
  if (!file) return no_process(pid);
  return MemoryMap(pid, std::move(*file));
}

Result<std::optional<MemoryArea>> MemoryMap::find(std::uint64_t address) {
  if (areas_.empty()) {
    std::array<char, PATH_MAX> name;
    procmap_query query{};
    query.size = sizeof query;
    query.query_flags = PROCMAP_QUERY_COVERING_OR_NEXT_VMA;
    query.query_addr = address;
    query.vma_name_addr = reinterpret_cast<std::uint64_t>(name.data());
    query.vma_name_size = name.size();
    if (::ioctl(file_.get(), PROCMAP_QUERY, &query) == 0) return area_of(query, name.data());
    if (errno == ENOENT) return std::nullopt;
    GESTALT_ASSIGN(areas_, read_memory_map(pid_));
    if (areas_.empty()) return no_process(pid_);
  }
  auto found = std::ranges::upper_bound(areas_, address, {}, &MemoryArea::end);
  if (found == areas_.end()) return std::nullopt;
  return *found;
}

}  // namespace gestalt
