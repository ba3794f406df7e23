#include "daemon/view/merged_files.h"

#include <algorithm>
#include <array>

#include "daemon/view/mergers.h"

namespace gestalt {
namespace {

struct Merger {
  std::string_view name;
  std::string (*merge)(std::string_view name, Nodes nodes);
};

constexpr auto kMergers = std::to_array<Merger>({
    {"cpuinfo", merge_cpuinfo},
    {"diskstats", merge_diskstats},
    {"loadavg", merge_loadavg},
    {"meminfo", merge_meminfo},
    {"net/dev", merge_net_dev},
    {"pressure/cpu", merge_pressure},
    {"pressure/io", merge_pressure},
    {"pressure/memory", merge_pressure},
    {"stat", merge_stat},
    {"uptime", merge_uptime},
    {"vmstat", merge_vmstat},
});

constexpr auto kNames = [] {
  std::array<std::string_view, kMergers.size()> names;
  std::ranges::transform(kMergers, names.begin(), &Merger::name);
  return names;
}();

}  // namespace

std::string_view file_of(const NodeFiles& node, std::string_view name) {
  if (node.files == nullptr) return {};
  auto found = node.files->find(name);
  return found == node.files->end() ? std::string_view{} : std::string_view(found->second);
}

std::string_view model_file(std::string_view name, Nodes nodes) {
  for (const NodeFiles& node : nodes)
    if (auto text = file_of(node, name); !text.empty()) return text;
  return {};
}

std::span<const std::string_view> merged_file_names() { return kNames; }

std::string merge_file(std::string_view name, Nodes nodes) {
  if (nodes.empty()) return {};
  for (const Merger& merger : kMergers)
    if (merger.name == name)
      return model_file(name, nodes).empty() ? std::string{} : merger.merge(name, nodes);
  return std::string(file_of(nodes.front(), name));
}

}  // namespace gestalt
