#include "daemon/pid_slices.h"

#include <algorithm>
#include <bit>

#include "common/format.h"

namespace gestalt {

Result<PidSlices> PidSlices::with_size(std::uint32_t slice_size) {
  if (!std::has_single_bit(slice_size) || slice_size < kMinPidSliceSize ||
      slice_size > kMaxPidSliceSize)
    return fail(ErrorCode::kInvalidArgument, formatted("{} is no pid slice size", slice_size),
                formatted("set cluster.pid_slice_size to a power of two from {} to {}",
                          kMinPidSliceSize, kMaxPidSliceSize));
  return PidSlices(slice_size);
}

Result<PidRange> PidSlices::range(std::uint32_t index) const {
  if (index < first_index() || index > last_index())
    return fail(
        ErrorCode::kInvalidArgument,
        formatted("pid slice {} is not one of {} to {}", index, first_index(), last_index()),
        "the node was recorded under another cluster.pid_slice_size: set that again, or "
        "remove the node");
  return PidRange{index * size_, index * size_ + size_ - 1};
}

std::optional<std::uint32_t> PidSlices::index_of(std::uint32_t pid) const {
  if (pid < size_ || pid >= kPidLimit) return std::nullopt;
  return pid / size_;
}

PidRange PidSlices::after_boot(PidRange slice, std::vector<std::uint32_t> in_use) {
  // Of a job only the first pids are known: its threads and children have some after them.
  constexpr std::uint32_t kOfItsJob = 512;
  // An init refuses a slice that is not clearly larger than its guard band.
  constexpr std::uint32_t kLeast = 3072;
  std::erase_if(in_use, [&](std::uint32_t pid) { return !slice.contains(pid); });
  std::ranges::sort(in_use);
  PidRange best = slice;
  std::uint32_t longest = in_use.empty() ? 0 : in_use.front() - slice.first;
  for (std::size_t i = 0; i < in_use.size(); ++i) {
    std::uint32_t next = i + 1 < in_use.size() ? in_use[i + 1] : slice.last;
    std::uint32_t first = in_use[i] + kOfItsJob;
    if (first >= next || next - first <= longest || first + kLeast > slice.last) continue;
    longest = next - first;
    best.first = first;
  }
  return best;
}

Result<std::uint32_t> PidSlices::allocate(std::span<const std::uint32_t> used) const {
  std::vector<bool> taken(last_index() + 1, false);
  for (std::uint32_t index : used)
    if (index < taken.size()) taken[index] = true;
  for (std::uint32_t index = first_index(); index <= last_index(); ++index)
    if (!taken[index]) return index;
  return fail(ErrorCode::kNoSpace, formatted("all {} pid slices are taken", last_index()),
              formatted("remove nodes that are gone for good, or lower cluster.pid_slice_size "
                        "(now {}) and restart the whole cluster",
                        size_));
}

}  // namespace gestalt
