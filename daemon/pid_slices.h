// Each node allocates its pids from its own slice of 2^22, so that a pid is unique in
// the cluster and says where the process was born.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "common/result.h"

namespace gestalt {

inline constexpr std::uint32_t kPidLimit = 1U << 22;  // pids are below it
inline constexpr std::uint32_t kMinPidSliceSize = 4096;
inline constexpr std::uint32_t kMaxPidSliceSize = 262'144;

struct PidRange {
  std::uint32_t first = 0;
  std::uint32_t last = 0;  // inclusive
  [[nodiscard]] bool contains(std::uint32_t pid) const { return pid >= first && pid <= last; }
  bool operator==(const PidRange&) const = default;
};

class PidSlices {
 public:
  // A power of two within the limits above.
  [[nodiscard]] static Result<PidSlices> with_size(std::uint32_t slice_size);

  // Slice 0 is reserved: low pids belong to each node's own system.
  [[nodiscard]] std::uint32_t first_index() const { return 1; }
  [[nodiscard]] std::uint32_t last_index() const { return kPidLimit / size_ - 1; }
  [[nodiscard]] Result<PidRange> range(std::uint32_t index) const;
  // Nothing for pids of slice 0 and beyond the limit.
  [[nodiscard]] std::optional<std::uint32_t> index_of(std::uint32_t pid) const;
  // Where a node that has booted anew begins in its slice: behind one of the pids that
  // processes born there still have elsewhere, where the way to the next one is longest.
  [[nodiscard]] static PidRange after_boot(PidRange slice, std::vector<std::uint32_t> in_use);
  // The lowest index that is not in `used`; kNoSpace when there is none.
  [[nodiscard]] Result<std::uint32_t> allocate(std::span<const std::uint32_t> used) const;

 private:
  explicit PidSlices(std::uint32_t size) : size_(size) {}
  std::uint32_t size_;
};

}  // namespace gestalt
