#include "heartbeat.h"

#include <pthread.h>
#include <time.h>

#include "victim.h"

namespace bench {

namespace {

std::int64_t read_clock_ns(clockid_t clock) {
  timespec now{};
  ::clock_gettime(clock, &now);
  return std::int64_t{now.tv_sec} * 1'000'000'000 + now.tv_nsec;
}

}  // namespace

std::int64_t realtime_ns() { return read_clock_ns(CLOCK_REALTIME); }

Heartbeat::Heartbeat(const Progress& progress, pthread_t worker) : progress_(progress) {
  if (::pthread_getcpuclockid(worker, &worker_clock_) != 0) victim::bad("pthread_getcpuclockid");
  thread_ = std::thread([this] { beat(); });
}

void Heartbeat::stop() {
  stop_ = true;
  thread_.join();
}

void Heartbeat::beat() {
  std::int64_t last_ns = realtime_ns();
  while (!stop_) {
    timespec pause{0, 100'000};
    ::nanosleep(&pause, nullptr);
    std::int64_t now_ns = realtime_ns();
    if (now_ns - last_ns > kLongGapNs && gap_count_ < kMostGaps)
      gaps_[gap_count_++] = {last_ns, now_ns - last_ns};
    last_ns = now_ns;
    if (now_ns - last_sample_ns_ >= kSampleNs) sample(now_ns);
  }
}

void Heartbeat::sample(std::int64_t now_ns) {
  last_sample_ns_ = now_ns;
  if (sample_count_ == kMostSamples) return;
  samples_[sample_count_++] = {now_ns, progress_.units.load(std::memory_order_relaxed),
                               read_clock_ns(worker_clock_),
                               progress_.distinct_pages.load(std::memory_order_relaxed)};
}

std::string Heartbeat::json() const {
  std::string text = "\"gaps\":[";
  for (std::size_t i = 0; i < gap_count_; ++i)
    text += std::format("{}[{},{}]", i ? "," : "", gaps_[i].began_ns, gaps_[i].length_ns);
  text += "],\"samples\":[";
  for (std::size_t i = 0; i < sample_count_; ++i) {
    const Sample& each = samples_[i];
    text += std::format("{}[{},{},{},{}]", i ? "," : "", each.now_ns, each.units, each.cpu_ns,
                        each.distinct_pages);
  }
  return text + "]";
}

}  // namespace bench
