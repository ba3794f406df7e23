#include "migrate/state_dump.h"

#include <unistd.h>

#include <filesystem>
#include <sstream>

#include "common/fd.h"
#include "common/format.h"
#include "common/proc.h"
#include "migrate/criu_image.h"
#include "migrate/memory_map.h"
#include "migrate/mm_image.h"
#include "migrate/pagemap_image.h"
#include "migrate/pagemap_scan.h"

namespace gestalt {
namespace {

constexpr std::size_t kMaxImageBytes = 1U << 30;
constexpr std::size_t kMaxSmapsBytes = 1U << 30;
// Below that, reading smaps costs less than storing it does.
constexpr std::uint64_t kSmapsWorthBytes = 64U << 20;

Result<PageSet> missing_pages_of(const std::string& directory, std::uint32_t pid) {
  GESTALT_ASSIGN(auto mm, read_file(formatted("{}/mm-{}.img", directory, pid), kMaxImageBytes));
  GESTALT_ASSIGN(auto areas, parse_lazy_areas(mm));
  GESTALT_ASSIGN(auto content,
                 read_file(formatted("{}/pagemap-{}.img", directory, pid), kMaxImageBytes));
  GESTALT_ASSIGN(auto eager, parse_eager_pages(content));
  GESTALT_ASSIGN(auto pagemap, Pagemap::open(static_cast<pid_t>(pid)));
  PageSet pages;
  for (const auto& area : areas)
    GESTALT_TRY(
        pagemap.scan(area.start, area.end, PageQuery::kPresentNotZero, PageProtect::kNo, pages));
  pages.remove(eager);
  return pages;
}

std::string stored_smaps(const std::string& directory, pid_t pid) {
  return formatted("{}/smaps-{}", directory, pid);
}

// What CRIU takes from smaps: the areas, and of their flags those that do not come from our own
// tracking.
std::string essence(const std::string& smaps) {
  std::istringstream lines(smaps);
  std::string out;
  for (std::string line; std::getline(lines, line);) {
    if (line.starts_with("VmFlags:")) {
      std::istringstream flags(line);
      for (std::string flag; flags >> flag;)
        if (flag != "uw" && flag != "um" && flag != "ui" && flag != "sd") out += flag + ' ';
      out += '\n';
    } else if (parse_memory_area(line)) {
      out += line + '\n';
    }
  }
  return out;
}

}  // namespace

std::string_view name_of(StateDump kind) {
  return kind == StateDump::kStateOnly ? "state-only" : "lazy";
}

StateDump known_state_dump() {
  auto text = read_file(kStateDumpFile, 64);
  return text && text->starts_with(name_of(StateDump::kStateOnly)) ? StateDump::kStateOnly
                                                                   : StateDump::kLazy;
}

Result<std::map<std::uint32_t, PageSet>> read_missing_pages(const std::string& directory) {
  std::map<std::uint32_t, PageSet> out;
  std::error_code error;
  for (const auto& entry : std::filesystem::directory_iterator(directory, error)) {
    std::string name = entry.path().filename();
    std::uint32_t pid = image_number(name, "mm");
    if (pid == 0) continue;
    auto pages = missing_pages_of(directory, pid);
    if (!pages) return std::unexpected(std::move(pages).error().in(name));
    out[pid] = std::move(*pages);
  }
  if (error) return fail_errno(error.value(), formatted("list {}", directory));
  return out;
}

Result<void> snapshot_smaps(const std::vector<pid_t>& pids, const std::string& directory) {
  for (pid_t pid : pids) {
    auto stat = read_stat("/proc", pid);
    if (!stat && stat.error().code == ErrorCode::kGone) continue;
    if (!stat) return std::unexpected(std::move(stat).error());
    if (stat->resident_pages * kPageBytes < kSmapsWorthBytes) continue;
    auto smaps = read_file(formatted("/proc/{}/smaps", pid), kMaxSmapsBytes);
    // Without a snapshot CRIU reads for itself.
    if (smaps && !smaps->empty())
      GESTALT_TRY(replace_file(stored_smaps(directory, pid), *smaps, 0600));
  }
  return {};
}

Result<bool> smaps_unchanged(const std::vector<pid_t>& pids, const std::string& directory) {
  for (pid_t pid : pids) {
    auto stored = read_file(stored_smaps(directory, pid), kMaxSmapsBytes);
    if (!stored && stored.error().code == ErrorCode::kNotFound) continue;  // or was not used
    if (!stored) return std::unexpected(std::move(stored).error());
    GESTALT_ASSIGN(auto smaps, read_file(formatted("/proc/{}/smaps", pid), kMaxSmapsBytes));
    if (essence(*stored) != essence(smaps)) return false;
  }
  return true;
}

}  // namespace gestalt
