// /proc/meminfo and /proc/vmstat: lines of a key and a number.
#include <unordered_map>

#include "daemon/view/counters.h"
#include "daemon/view/mergers.h"

namespace gestalt {
namespace {

// Not amounts of memory but properties of a kernel: the model's stand for all.
bool is_property(std::string_view key) {
  return key == "Hugepagesize" || key == "VmallocTotal" || key == "VmallocChunk";
}

using Sums = std::unordered_map<std::string_view, std::uint64_t>;

Sums sum_by_key(std::string_view name, Nodes nodes, CounterForm form) {
  Sums sums;
  for (const NodeFiles& node : nodes)
    each_counter(file_of(node, name), form, [&](const Counter& counter) {
      std::uint64_t& sum = sums[counter.key];
      sum = view_text::add(sum, counter.value);
    });
  return sums;
}

// Calls use(counter) for each line of the model, each key once, with the sum as its value.
template <class Use>
void each_sum(std::string_view name, Nodes nodes, CounterForm form, Use use) {
  Sums sums = sum_by_key(name, nodes, form);
  each_counter(model_file(name, nodes), form, [&](Counter counter) {
    auto sum = sums.extract(counter.key);
    if (sum.empty()) return;
    if (!is_property(counter.key)) counter.value = sum.mapped();
    use(counter);
  });
}

}  // namespace

// The number ends in column 24, as the kernel has it, unless it is too long for that.
void append_memory_line(std::string& out, std::string_view key, std::uint64_t value,
                        bool has_unit) {
  constexpr std::size_t kKeyWidth = 16;
  constexpr std::size_t kEnd = 24;
  std::size_t width = key.size() + 1;
  out.append(key) += ':';
  std::size_t blanks = width < kKeyWidth ? kKeyWidth - width : 1;
  out.append(blanks, ' ');
  width += blanks;
  view_text::append_number(out, value, width < kEnd ? kEnd - width : 0);
  out += has_unit ? " kB\n" : "\n";
}

// Every size and count is the sum over the nodes, CommitLimit and HugePages_* (in the
// nodes' own huge pages) included. The lines are the leader's: a line that only other
// kernels have would be a sum over a part of the cluster.
std::string merge_meminfo(std::string_view name, Nodes nodes) {
  std::string out;
  each_sum(name, nodes, CounterForm::kMeminfo, [&](const Counter& counter) {
    append_memory_line(out, counter.key, counter.value, counter.has_unit);
  });
  return out;
}

// Sums by key, in the leader's order; keys that only others have are left out.
std::string merge_vmstat(std::string_view name, Nodes nodes) {
  std::string out;
  each_sum(name, nodes, CounterForm::kVmstat,
           [&](const Counter& counter) { append_counter(out, counter.key, counter.value); });
  return out;
}

}  // namespace gestalt
