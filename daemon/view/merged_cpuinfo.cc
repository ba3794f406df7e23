// /proc/cpuinfo.
#include <algorithm>

#include "daemon/view/cpu_numbers.h"
#include "daemon/view/cpuinfo.h"
#include "daemon/view/mergers.h"
#include "daemon/view/text.h"

namespace gestalt {
namespace {

// A node's packages, numbered in the order in which they come.
class Packages {
 public:
  explicit Packages(std::uint64_t first) : first_(first) {}

  std::uint64_t number_of(std::uint64_t own) {
    auto found = std::ranges::find(own_, own);
    if (found == own_.end()) found = own_.insert(own_.end(), own);
    return first_ + static_cast<std::uint64_t>(found - own_.begin());
  }
  // The first number of the next node's. One that tells of no package has one.
  [[nodiscard]] std::uint64_t next() const {
    return first_ + std::max<std::uint64_t>(own_.size(), 1);
  }

 private:
  std::uint64_t first_;
  std::vector<std::uint64_t> own_;
};

void append_field(std::string& out, std::string_view key_and_tabs, std::uint64_t value) {
  out.append(key_and_tabs).append(": ");
  view_text::append_number(out, value);
  out += '\n';
}

bool is_clean(std::string_view line) {
  return std::ranges::none_of(line, [](char c) { return view_text::is_control(c) && c != '\t'; });
}

void append_block(std::string& out, const CpuBlock& block, std::uint32_t cpu, Packages& packages) {
  append_field(out, "processor\t", cpu);
  auto rest = block.text;
  for (std::string_view line; view_text::next_line(rest, line);) {
    auto field = parse_cpu_field(line);
    if (field.key.empty() || field.key == "processor" || !is_clean(line)) continue;
    if (field.key == "physical id") {
      if (block.package) append_field(out, "physical id\t", packages.number_of(*block.package));
    } else {
      out.append(line) += '\n';
    }
  }
  out += '\n';
}

}  // namespace

// All nodes' blocks, exactly as many of a node's as it has CPUs, the last one repeated
// where its file has too few. CPUs and packages get the cluster's numbers, so that those
// of two nodes differ; all else is as it was.
std::string merge_cpuinfo(std::string_view name, Nodes nodes) {
  std::string out;
  std::uint64_t first_package = 0;
  for (const NodeFiles& node : nodes) {
    std::uint32_t cpus = shown_cpus(node.first_cpu, node.cpus);
    auto blocks = parse_cpuinfo(file_of(node, name), cpus);
    if (blocks.empty()) blocks.emplace_back();
    Packages packages(first_package);
    for (std::uint32_t i = 0; i < cpus; ++i) {
      const CpuBlock& block = blocks[std::min<std::size_t>(i, blocks.size() - 1)];
      append_block(out, block, node.first_cpu + i, packages);
    }
    first_package = packages.next();
  }
  return out;
}

}  // namespace gestalt
