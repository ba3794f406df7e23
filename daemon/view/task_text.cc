#include "daemon/view/task_text.h"

#include <algorithm>

#include "daemon/view/cpu_numbers.h"
#include "daemon/view/text.h"

namespace gestalt {
namespace {

// Fields of stat, as proc(5) counts them.
constexpr int kState = 3;
constexpr int kStartTime = 22;
constexpr int kProcessor = 39;

std::uint64_t shift(std::uint64_t ticks, std::int64_t difference) {
  if (difference >= 0) return view_text::add(ticks, static_cast<std::uint64_t>(difference));
  std::uint64_t earlier = 0 - static_cast<std::uint64_t>(difference);
  return ticks > earlier ? ticks - earlier : 0;
}

std::uint32_t cluster_cpu(std::uint64_t cpu, const TaskPlace& place) {
  return place.first_cpu + static_cast<std::uint32_t>(cpu % std::max(place.cpus, 1U));
}

CpuSet all_cpus(const TaskPlace& place) {
  CpuSet set;
  set.add_range(place.first_cpu, std::max(place.cpus, 1U));
  return set;
}

CpuSet cluster_cpus(const Result<CpuSet>& own, const TaskPlace& place) {
  CpuSet set;
  if (!own) return all_cpus(place);
  for (auto cpu = own->next(0); cpu < kMaxClusterCpus; cpu = own->next(cpu + 1))
    set.add(cluster_cpu(cpu, place));
  return set.empty() ? all_cpus(place) : set;
}

// Readers learn from a mask how many CPUs or nodes a kernel can have, so it stays as wide.
std::uint32_t mask_bits(std::string_view mask) {
  auto digits = std::ranges::count_if(mask, [](char c) { return c != ','; });
  return static_cast<std::uint32_t>(std::min<std::ptrdiff_t>(digits * 4, kMaxClusterCpus));
}

// One line of status without its newline. False: it is none of those that change.
bool append_allowed(std::string& out, std::string_view line, const TaskPlace& place) {
  auto tab = line.find(":\t");
  if (tab == std::string_view::npos) return false;
  auto key = line.substr(0, tab);
  auto value = line.substr(tab + 2);
  bool is_list = key.ends_with("_list");
  CpuSet set;
  if (key == "Cpus_allowed" || key == "Cpus_allowed_list")
    set = cluster_cpus(is_list ? parse_cpu_list(value) : parse_cpu_mask(value), place);
  else if (key == "Mems_allowed" || key == "Mems_allowed_list")
    set.add(place.node_index);
  else
    return false;
  out.append(key).append(":\t");
  if (is_list)
    append_cpu_list(out, set);
  else
    append_cpu_mask(out, set, mask_bits(value));
  return true;
}

}  // namespace

std::string localize_stat(std::string_view stat, const TaskPlace& place) {
  // The name may hold anything, so the fields count from its end.
  auto close = stat.rfind(')');
  if (close == std::string_view::npos) return std::string(stat);
  std::string_view start;
  std::string_view processor;
  std::size_t at = close + 1;
  for (int field = kState; field <= kProcessor; ++field) {
    if (at >= stat.size() || stat[at] != ' ') return std::string(stat);
    auto word = stat.substr(at + 1, stat.find_first_of(" \n", at + 1) - at - 1);
    if (field == kStartTime) start = word;
    if (field == kProcessor) processor = word;
    at += 1 + word.size();
  }
  auto ticks = view_text::parse_number(start);
  auto cpu = view_text::parse_number(processor);
  if (!ticks || !cpu) return std::string(stat);
  std::string out;
  out.reserve(stat.size() + 32);
  out.append(stat.begin(), start.begin());
  view_text::append_number(out, shift(*ticks, place.boot_difference_ticks));
  out.append(start.end(), processor.begin());
  view_text::append_number(out, cluster_cpu(*cpu, place));
  out.append(processor.end(), stat.end());
  return out;
}

std::string without_addresses(std::string stat) {
  auto hidden = [](int field) -> std::string_view {
    if (field == 26 || field == 27) return "1";  // of the code: only that there is some
    bool is_hidden = (field >= 28 && field <= 30) || (field >= 45 && field <= 52);
    return is_hidden ? "0" : "";
  };
  auto at = stat.rfind(')');
  if (at == std::string::npos || at + 2 >= stat.size()) return stat;
  std::string out = stat.substr(0, at + 2);
  int field = 3;
  for (at += 2; at < stat.size(); ++field) {
    auto end = std::min(stat.find_first_of(" \n", at), stat.size());
    auto instead = hidden(field);
    out += instead.empty() ? std::string_view(stat).substr(at, end - at) : instead;
    if (end < stat.size()) out += stat[end];
    at = end + 1;
  }
  return out;
}

std::string localize_status(std::string_view status, const TaskPlace& place) {
  std::string out;
  out.reserve(status.size() + 64);
  while (!status.empty()) {
    auto end = status.find('\n');
    auto line = status.substr(0, end);
    bool may_change = line.starts_with("Cpus_") || line.starts_with("Mems_");
    if (!may_change || !append_allowed(out, line, place)) out += line;
    if (end == std::string_view::npos) break;
    out += '\n';
    status.remove_prefix(end + 1);
  }
  return out;
}

std::string node_cgroup(std::string_view cgroup, std::string_view node) {
  std::string_view path = "/";
  for (std::string_view line; view_text::next_line(cgroup, line);)
    if (line.starts_with("0::/")) path = line.substr(3);
  if (std::ranges::any_of(path, view_text::is_control)) path = "/";
  std::string out = "0::/lxc/";
  out.reserve(out.size() + node.size() + path.size() + 1);
  out.append(node).append(path);
  return out += '\n';
}

}  // namespace gestalt
