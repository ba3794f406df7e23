#include "migrate/latency_histogram.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <random>
#include <vector>

namespace gestalt {
namespace {

TEST(LatencyHistogram, WithoutSamplesIsZero) {
  LatencyHistogram histogram;
  EXPECT_EQ(histogram.count(), 0U);
  EXPECT_EQ(histogram.quantile(0.5), 0);
  EXPECT_EQ(histogram.max(), 0);
}

TEST(LatencyHistogram, OneSampleIsEveryQuantile) {
  for (double seconds : {1e-9, 31e-9, 32e-9, 63e-9, 64e-9, 1e-6, 123e-6, 0.05, 7.0, 3600.0}) {
    LatencyHistogram histogram;
    histogram.add(seconds);
    for (double share : {0.0, 0.5, 0.999, 1.0}) {
      EXPECT_GE(histogram.quantile(share), seconds * 0.999) << seconds;
      EXPECT_LE(histogram.quantile(share), seconds * 1.04 + 1e-9) << seconds;
    }
    EXPECT_EQ(histogram.max(), seconds);
  }
}

TEST(LatencyHistogram, NegativeTimesAreNoTime) {
  LatencyHistogram histogram;
  histogram.add(-1);
  histogram.add(0);
  EXPECT_EQ(histogram.count(), 2U);
  EXPECT_EQ(histogram.quantile(1), 0);
}

TEST(LatencyHistogram, QuantilesAreNearTheTrueOnes) {
  std::mt19937 random(5);
  std::lognormal_distribution<double> latencies(-9, 1.5);
  LatencyHistogram histogram;
  std::vector<double> all;
  for (int i = 0; i < 100'000; ++i) {
    all.push_back(latencies(random));
    histogram.add(all.back());
  }
  std::ranges::sort(all);
  for (double share : {0.01, 0.5, 0.9, 0.99, 0.999}) {
    double exact = all[static_cast<std::size_t>(share * static_cast<double>(all.size() - 1))];
    EXPECT_GE(histogram.quantile(share), exact * 0.999) << share;
    EXPECT_LE(histogram.quantile(share), exact * 1.04) << share;
  }
  EXPECT_EQ(histogram.max(), all.back());
  EXPECT_EQ(histogram.count(), all.size());
}

}  // namespace
}  // namespace gestalt
