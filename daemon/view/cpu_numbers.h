// Sets of CPUs, or of NUMA nodes, in the kernel's two notations: lists ("0-3,7") and
// masks ("ff,0000000f": groups of 32 bits, the highest first).
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <string_view>

#include "common/result.h"

namespace gestalt {

// The kernel's own limit on x86. CPUs beyond it are not shown.
inline constexpr std::uint32_t kMaxClusterCpus = 8192;

// How many of [first, first + count) are below the limit.
[[nodiscard]] std::uint32_t shown_cpus(std::uint32_t first, std::uint32_t count);

// Numbers below kMaxClusterCpus; others are ignored. A fixed size: no allocations.
class CpuSet {
 public:
  void add(std::uint32_t number) {
    if (number < kMaxClusterCpus) words_[number / 64] |= std::uint64_t{1} << (number % 64);
  }
  void add_range(std::uint32_t first, std::uint32_t count);
  [[nodiscard]] bool contains(std::uint32_t number) const {
    return number < kMaxClusterCpus && (words_[number / 64] >> (number % 64) & 1) != 0;
  }
  // The members from 4 * index on, as one digit of a mask. Below kMaxClusterCpus / 4.
  [[nodiscard]] std::uint32_t digit(std::uint32_t index) const {
    return static_cast<std::uint32_t>(words_[index / 16] >> (index % 16 * 4) & 0xf);
  }
  // The smallest member at or above `from`; kMaxClusterCpus if there is none.
  [[nodiscard]] std::uint32_t next(std::uint32_t from) const;
  [[nodiscard]] std::uint32_t size() const;
  [[nodiscard]] bool empty() const { return next(0) == kMaxClusterCpus; }
  // The largest member and one more; 0 for the empty set.
  [[nodiscard]] std::uint32_t end() const;
  bool operator==(const CpuSet&) const = default;

 private:
  std::array<std::uint64_t, kMaxClusterCpus / 64> words_{};
};

// One newline at the end is allowed. Anything else that the kernel would not write, and
// numbers from kMaxClusterCpus on, are kProtocol.
[[nodiscard]] Result<CpuSet> parse_cpu_list(std::string_view text);
[[nodiscard]] Result<CpuSet> parse_cpu_mask(std::string_view text);

void append_cpu_list(std::string& out, const CpuSet& set);
// At least `bits` wide, at most kMaxClusterCpus: the kernel's masks have the width of all possible
// CPUs.
void append_cpu_mask(std::string& out, const CpuSet& set, std::uint32_t bits = 1);
[[nodiscard]] std::string cpu_list(const CpuSet& set);
[[nodiscard]] std::string cpu_mask(const CpuSet& set, std::uint32_t bits = 1);

}  // namespace gestalt
