#include "heartbeat.h"

#include <pthread.h>
#include <sys/utsname.h>
#include <time.h>

#include "victim.h"

namespace bench {

namespace {

std::int64_t read_clock_ns(clockid_t clock) {
  timespec now{};
  ::clock_gettime(clock, &now);
  return std::int64_t{now.tv_sec} * 1'000'000'000 + now.tv_nsec;
}

std::string node_name() {
  utsname names{};
  victim::must(::uname(&names), "uname");
  return names.nodename;
}

}  // namespace

std::int64_t realtime_ns() { return read_clock_ns(CLOCK_REALTIME); }

Heartbeat::Heartbeat(const Progress& progress, bool waits) : progress_(progress) {
  if (::pthread_getcpuclockid(::pthread_self(), &worker_clock_) != 0)
    victim::bad("pthread_getcpuclockid");
  if (waits) schedstat_ = std::format("/proc/self/task/{}/schedstat", ::gettid());
  thread_ = std::thread([this] { beat(); });
}

void Heartbeat::stop() {
  stop_ = true;
  thread_.join();
}

void Heartbeat::beat() {
  std::string node = node_name();
  std::int64_t last_ns = realtime_ns();
  while (!stop_) {
    timespec pause{0, 100'000};
    ::nanosleep(&pause, nullptr);
    std::int64_t now_ns = realtime_ns();
    if (now_ns - last_ns > kLongGapNs && gap_count_ < kMostGaps) {
      std::string now_on = node_name();
      gaps_[gap_count_++] = {last_ns, now_ns - last_ns, now_on != node};
      node = std::move(now_on);
    }
    last_ns = now_ns;
    if (now_ns - last_sample_ns_ >= kSampleNs) sample(now_ns);
  }
}

void Heartbeat::sample(std::int64_t now_ns) {
  last_sample_ns_ = now_ns;
  if (sample_count_ == kMostSamples) return;
  samples_[sample_count_++] = {now_ns, progress_.units.load(std::memory_order_relaxed),
                               read_clock_ns(worker_clock_), waited_ns(),
                               progress_.distinct_pages.load(std::memory_order_relaxed)};
}

// The second number of schedstat. Not kept open: that would be one more thing to migrate.
std::int64_t Heartbeat::waited_ns() const {
  if (schedstat_.empty()) return 0;
  int fd = victim::must(::open(schedstat_.c_str(), O_RDONLY | O_CLOEXEC), "open schedstat");
  char text[96] = {};
  victim::must(::read(fd, text, sizeof(text) - 1), "read schedstat");
  ::close(fd);
  long long ran_ns = 0;
  long long waited_ns = 0;
  if (std::sscanf(text, "%lld %lld", &ran_ns, &waited_ns) != 2) victim::bad("schedstat: {}", text);
  return waited_ns;
}

std::string Heartbeat::json() const {
  std::string text = "\"gaps\":[";
  for (std::size_t i = 0; i < gap_count_; ++i)
    text += std::format("{}[{},{},{}]", i ? "," : "", gaps_[i].began_ns, gaps_[i].length_ns,
                        gaps_[i].moved ? 1 : 0);
  text += "],\"samples\":[";
  for (std::size_t i = 0; i < sample_count_; ++i) {
    const Sample& each = samples_[i];
    text += std::format("{}[{},{},{},{},{}]", i ? "," : "", each.now_ns, each.units, each.cpu_ns,
                        each.wait_ns, each.distinct_pages);
  }
  return text + "]";
}

}  // namespace bench
