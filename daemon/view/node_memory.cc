#include "daemon/view/node_memory.h"

#include <algorithm>
#include <array>
#include <unordered_map>
#include <utility>

#include "daemon/view/counters.h"
#include "daemon/view/mergers.h"

namespace gestalt {
namespace {

// Lines that /proc/meminfo has in common with a node's, in the node's order. FilePages
// alone has no counterpart.
constexpr auto kMemoryKeys = std::to_array<std::string_view>(
    {"SwapCached",      "Active",         "Inactive",       "Active(anon)",  "Inactive(anon)",
     "Active(file)",    "Inactive(file)", "Unevictable",    "Mlocked",       "Dirty",
     "Writeback",       "FilePages",      "Mapped",         "AnonPages",     "Shmem",
     "KernelStack",     "PageTables",     "SecPageTables",  "NFS_Unstable",  "Bounce",
     "WritebackTmp",    "KReclaimable",   "Slab",           "SReclaimable",  "SUnreclaim",
     "AnonHugePages",   "ShmemHugePages", "ShmemPmdMapped", "FileHugePages", "FilePmdMapped",
     "HugePages_Total", "HugePages_Free", "HugePages_Surp"});

constexpr std::string_view kNumaPrefixes[] = {"nr_", "numa_", "workingset_", "pgpromote_",
                                              "pgdemote_"};

using Counters = std::unordered_map<std::string_view, Counter>;

Counters index(std::string_view text, CounterForm form) {
  Counters out;
  each_counter(text, form, [&](const Counter& counter) { out.try_emplace(counter.key, counter); });
  return out;
}

std::uint64_t value_of(const Counters& counters, std::string_view key) {
  auto found = counters.find(key);
  return found == counters.end() ? 0 : found->second.value;
}

}  // namespace

std::string numa_meminfo(std::size_t node, std::string_view meminfo) {
  auto counters = index(meminfo, CounterForm::kMeminfo);
  std::string prefix = "Node ";
  view_text::append_number(prefix, node);
  prefix += ' ';
  std::string out;
  auto append = [&](std::string_view key, std::uint64_t value, bool has_unit) {
    out += prefix;
    append_memory_line(out, key, value, has_unit);
  };
  std::uint64_t total = value_of(counters, "MemTotal");
  std::uint64_t free = std::min(value_of(counters, "MemFree"), total);
  append("MemTotal", total, true);
  append("MemFree", free, true);
  append("MemUsed", total - free, true);
  if (counters.contains("Cached")) {
    std::uint64_t pages =
        view_text::add(value_of(counters, "Cached"), value_of(counters, "Buffers"));
    pages = view_text::add(pages, value_of(counters, "SwapCached"));
    counters.try_emplace("FilePages", Counter{"FilePages", pages, true});
  }
  for (std::string_view key : kMemoryKeys)
    if (auto found = counters.find(key); found != counters.end())
      append(key, found->second.value, found->second.has_unit);
  return out;
}

std::string numa_statistics(std::string_view vmstat) {
  static constexpr std::pair<std::string_view, std::string_view> kNames[] = {
      {"numa_hit", "numa_hit"},         {"numa_miss", "numa_miss"},
      {"numa_foreign", "numa_foreign"}, {"interleave_hit", "numa_interleave"},
      {"local_node", "numa_local"},     {"other_node", "numa_other"},
  };
  auto counters = index(vmstat, CounterForm::kVmstat);
  std::string out;
  for (auto [name, key] : kNames) append_counter(out, name, value_of(counters, key));
  return out;
}

std::string numa_vmstat(std::string_view vmstat) {
  std::string out;
  each_counter(vmstat, CounterForm::kVmstat, [&](const Counter& counter) {
    auto begins = [&](std::string_view prefix) { return counter.key.starts_with(prefix); };
    if (std::ranges::any_of(kNumaPrefixes, begins)) append_counter(out, counter.key, counter.value);
  });
  return out;
}

}  // namespace gestalt
