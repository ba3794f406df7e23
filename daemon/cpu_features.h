// What programs may find in one node's CPUs and miss in another's: a program that has chosen its
// instructions would end by SIGILL there. Kernel features (as in CRIU's cpu check) are left out.
#pragma once

#include <set>
#include <string>
#include <string_view>

namespace gestalt {

// By the names of /proc/cpuinfo, of which this is the text. Of several CPUs what all have. Empty
// on machines whose cpuinfo has no "flags" or "Features" lines.
[[nodiscard]] std::set<std::string> program_cpu_features(std::string_view cpuinfo);

}  // namespace gestalt
