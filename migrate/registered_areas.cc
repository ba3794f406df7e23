#include "migrate/registered_areas.h"

#include <charconv>
#include <sstream>

#include "common/fd.h"
#include "common/format.h"

namespace gestalt {

Result<std::vector<std::pair<std::uint64_t, std::uint64_t>>> read_registered_areas(pid_t pid) {
  GESTALT_ASSIGN(auto text, read_file(formatted("/proc/{}/smaps", pid), 64U << 20));
  std::vector<std::pair<std::uint64_t, std::uint64_t>> out;
  std::pair<std::uint64_t, std::uint64_t> area;
  std::istringstream lines(text);
  for (std::string line; std::getline(lines, line);) {
    const char* end = line.data() + line.size();
    std::uint64_t start = 0;
    auto [dash, bad] = std::from_chars(line.data(), end, start, 16);
    if (bad == std::errc() && dash != end && *dash == '-') {
      area.first = start;
      (void)std::from_chars(dash + 1, end, area.second, 16);
    } else if (line.starts_with("VmFlags:") && line.contains(" um")) {
      out.push_back(area);
    }
  }
  return out;
}

}  // namespace gestalt
