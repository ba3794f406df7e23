#include "daemon/cpu_features.h"

#include <algorithm>
#include <array>
#include <optional>

namespace gestalt {
namespace {

// By the beginning of their names, and by whole names. x86's: other machines' cpuinfo lists only
// what is for programs.
constexpr std::array<std::string_view, 18> kFamilies = {
    "3dnow", "adx", "aes",    "amx_",   "avx",    "bmi", "clflushopt", "clwb", "fma",
    "gfni",  "mmx", "movdir", "sha_ni", "sha512", "sm3", "sm4",        "sse",  "vaes"};
constexpr std::array<std::string_view, 31> kSingle = {
    "abm",       "cldemote",   "cmov",    "cmpccxadd", "cx16",   "cx8",    "enqcmd",    "f16c",
    "fsgsbase",  "hle",        "lahf_lm", "lwp",       "movbe",  "ospke",  "pclmulqdq", "popcnt",
    "prefetchi", "rdpid",      "rdrand",  "rdseed",    "rdtscp", "rtm",    "serialize", "ssse3",
    "tbm",       "vpclmulqdq", "waitpkg", "xop",       "xsave",  "xsavec", "xsaveopt"};

bool for_programs(std::string_view name) {
  return std::ranges::any_of(kFamilies, [&](auto each) { return name.starts_with(each); }) ||
         std::ranges::contains(kSingle, name);
}

std::set<std::string> names_in(std::string_view line, bool all) {
  std::set<std::string> names;
  for (std::size_t at = 0; at < line.size();) {
    auto end = std::min(line.find(' ', at), line.size());
    auto name = line.substr(at, end - at);
    if (!name.empty() && (all || for_programs(name))) names.emplace(name);
    at = end + 1;
  }
  return names;
}

}  // namespace

std::set<std::string> program_cpu_features(std::string_view cpuinfo) {
  std::optional<std::set<std::string>> common;
  for (std::size_t at = 0; at < cpuinfo.size();) {
    auto end = std::min(cpuinfo.find('\n', at), cpuinfo.size());
    auto line = cpuinfo.substr(at, end - at);
    at = end + 1;
    auto colon = line.find(": ");
    bool x86 = line.starts_with("flags");
    if (colon == std::string_view::npos || (!x86 && !line.starts_with("Features"))) continue;
    auto names = names_in(line.substr(colon + 2), !x86);
    if (common)
      std::erase_if(*common, [&](const auto& name) { return !names.contains(name); });
    else
      common = std::move(names);
  }
  return common.value_or(std::set<std::string>());
}

}  // namespace gestalt
