// Latencies in buckets of about 3 %: percentiles of any number of samples in 6 KiB.
// Not thread-safe.
#pragma once

#include <array>
#include <bit>
#include <cstdint>

namespace gestalt {

class LatencyHistogram {
 public:
  void add(double seconds) {
    auto value = seconds <= 0 ? 0 : static_cast<std::uint64_t>(seconds * 1e9);
    ++buckets_[bucket_of(value)];
    ++count_;
    if (seconds > max_) max_ = seconds;
  }
  [[nodiscard]] std::uint64_t count() const { return count_; }
  [[nodiscard]] double max() const { return max_; }
  // The upper end of the bucket that holds it; 0 without samples.
  [[nodiscard]] double quantile(double share) const {
    if (count_ == 0) return 0;
    auto wanted = static_cast<std::uint64_t>(share * static_cast<double>(count_ - 1)) + 1;
    std::uint64_t seen = 0;
    for (std::size_t i = 0; i < buckets_.size(); ++i) {
      seen += buckets_[i];
      if (seen >= wanted) return static_cast<double>(upper_end(i)) * 1e-9;
    }
    return max_;
  }

 private:
  static constexpr std::uint64_t kSteps = 32;  // of each power of two
  static std::size_t bucket_of(std::uint64_t nanoseconds) {
    if (nanoseconds < kSteps) return nanoseconds;
    auto exponent = static_cast<std::uint64_t>(std::bit_width(nanoseconds)) - 6;
    return (exponent + 1) * kSteps + (nanoseconds >> exponent) - kSteps;
  }
  static std::uint64_t upper_end(std::size_t bucket) {
    if (bucket < kSteps) return bucket;
    std::uint64_t exponent = bucket / kSteps - 1;
    return (bucket % kSteps + kSteps + 1) << exponent;
  }
  std::array<std::uint64_t, 60 * kSteps> buckets_{};
  std::uint64_t count_ = 0;
  double max_ = 0;
};

}  // namespace gestalt
