// A thread that notices when its process stood still, and takes samples of the work.
//
// It sleeps 0.1 ms at a time and looks at CLOCK_REALTIME: that clock is the same on both
// nodes of a sandbox and goes on while a process is frozen. CLOCK_MONOTONIC does not show
// a freeze, CRIU restores into a time namespace that hides it.
// Everything is kept in arrays of fixed size, so that the thread allocates nothing while
// it measures.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <thread>

namespace bench {

std::int64_t realtime_ns();

// What the working thread tells of itself. Written by it, read by the heartbeat.
struct Progress {
  std::atomic<std::uint64_t> units{0};           // pages written or read, repetitions too
  std::atomic<std::uint64_t> distinct_pages{0};  // different ones, since the process moved
};

class Heartbeat {
 public:
  // The calling thread is the worker, whose CPU time is sampled; with `waits` also how long
  // it waited for a CPU, which others kept busy. `progress` must outlive this.
  Heartbeat(const Progress& progress, bool waits);

  // Ends the thread; nothing is recorded after that.
  void stop();

  // JSON members, without braces: "gaps":[[began_ns,length_ns,moved]…] of all gaps above
  // 1 ms, moved being 1 if it is on another node after it;
  // "samples":[[realtime_ns,units,worker_cpu_ns,worker_wait_ns,distinct_pages]…]. After
  // stop() only.
  std::string json() const;

 private:
  struct Gap {
    std::int64_t began_ns;
    std::int64_t length_ns;
    bool moved;
  };
  struct Sample {
    std::int64_t now_ns;
    std::uint64_t units;
    std::int64_t cpu_ns;
    std::int64_t wait_ns;
    std::uint64_t distinct_pages;
  };
  static constexpr std::int64_t kLongGapNs = 1'000'000;
  static constexpr std::int64_t kSampleNs = 5'000'000;
  static constexpr std::size_t kMostGaps = 16384;
  static constexpr std::size_t kMostSamples = 16384;

  void beat();
  void sample(std::int64_t now_ns);
  std::int64_t waited_ns() const;

  const Progress& progress_;
  clockid_t worker_clock_{};
  std::string schedstat_;  // of the worker, in /proc; empty: not asked for
  std::unique_ptr<Gap[]> gaps_ = std::make_unique_for_overwrite<Gap[]>(kMostGaps);
  std::unique_ptr<Sample[]> samples_ = std::make_unique_for_overwrite<Sample[]>(kMostSamples);
  std::size_t gap_count_ = 0;
  std::size_t sample_count_ = 0;
  std::int64_t last_sample_ns_ = 0;
  std::atomic<bool> stop_{false};
  std::thread thread_;
};

}  // namespace bench
