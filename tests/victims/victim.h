// What every victim shares: options, output, verdict.
//
// A victim is a program that is migrated in tests and that notices by itself when
// something of it was lost. It prints `ready PID`, works, prints `tick N` now and then
// (only when it has got on since the last one, so that silence means that it hangs),
// and ends with `ok COUNTERS` and 0, or with `BAD WHAT` and 99 at the first mismatch.
// It ends by SIGTERM, when the file of --until appears, or after --seconds.
// Header only, without Gestalt's libraries: a victim must not share their mistakes.
#pragma once

#include <fcntl.h>
#include <signal.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <format>
#include <string>
#include <string_view>
#include <utility>

namespace victim {

inline constexpr int kBadStatus = 99;

// ------------------------------------------------------------------- output

inline bool write_all(int fd, std::string_view bytes) {
  while (!bytes.empty()) {
    ssize_t count = ::write(fd, bytes.data(), bytes.size());
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) return false;
    bytes.remove_prefix(static_cast<std::size_t>(count));
  }
  return true;
}

// Where ready, tick, ok and BAD go; 2 for victims whose stdout carries data.
inline int& report_fd() {
  static int fd = STDOUT_FILENO;
  return fd;
}

template <class... Args>
[[noreturn]] void bad(std::format_string<Args...> text, Args&&... args) {
  write_all(report_fd(), "BAD " + std::format(text, std::forward<Args>(args)...) + "\n");
  ::_exit(kBadStatus);
}

// One line in one write. A reader that went away is not a victim's mistake, but it
// must not be reported as a success either.
template <class... Args>
void say(std::format_string<Args...> text, Args&&... args) {
  if (!write_all(report_fd(), std::format(text, std::forward<Args>(args)...) + "\n")) ::_exit(98);
}

template <class... Args>
void check(bool good, std::format_string<Args...> text, Args&&... args) {
  if (!good) [[unlikely]]
    bad(text, std::forward<Args>(args)...);
}

// For system calls that may not fail: `must(::pipe(fds), "pipe")`.
template <class T>
T must(T result, const char* what) {
  if (result == static_cast<T>(-1)) bad("{}: {}", what, std::strerror(errno));
  return result;
}

template <class T>
void same(const T& before, const T& now, const char* what) {
  if (!(before == now)) [[unlikely]]
    bad("{} was {} and is {}", what, before, now);
}

// -------------------------------------------------------------------- clocks

inline std::int64_t monotonic_ns() {
  timespec now{};
  ::clock_gettime(CLOCK_MONOTONIC, &now);
  return std::int64_t{now.tv_sec} * 1'000'000'000 + now.tv_nsec;
}

inline void sleep_ms(std::int64_t ms) {
  timespec left{ms / 1000, ms % 1000 * 1'000'000};
  ::nanosleep(&left, nullptr);  // a signal may cut it short: the loop looks at it
}

// ------------------------------------------------------------------- options

struct Options {
  std::uint64_t mib = 16;      // how much memory or output
  std::uint64_t rate = 5000;   // pages, lines or messages a second; 0: no limit
  std::uint64_t count = 0;     // stop after so many; 0: no limit
  double seconds = 300;        // a forgotten victim ends by itself
  std::int64_t tick_ms = 200;  // between two `tick` lines; 0: none
  std::string until;           // stop when this file exists
  std::string directory = "/var/tmp";
  std::string kind;  // for victims of several kinds
};

inline Options parse_options(int argc, char** argv, Options options = {}) {
  auto usage = [&](std::string_view why) {
    std::fprintf(stderr,
                 "%s: %.*s\nusage: %s [--mib N] [--rate|--write-rate N] [--count N]"
                 " [--seconds S] [--tick-ms N] [--until FILE] [--dir DIR] [--kind NAME]\n",
                 argv[0], static_cast<int>(why.size()), why.data(), argv[0]);
    std::exit(2);
  };
  for (int i = 1; i < argc; i += 2) {
    std::string_view name = argv[i];
    if (i + 1 >= argc) usage("an option needs a value");
    const char* value = argv[i + 1];
    if (name == "--mib")
      options.mib = std::strtoull(value, nullptr, 10);
    else if (name == "--rate" || name == "--write-rate")
      options.rate = std::strtoull(value, nullptr, 10);
    else if (name == "--count")
      options.count = std::strtoull(value, nullptr, 10);
    else if (name == "--seconds")
      options.seconds = std::strtod(value, nullptr);
    else if (name == "--tick-ms")
      options.tick_ms = std::strtoll(value, nullptr, 10);
    else if (name == "--until")
      options.until = value;
    else if (name == "--dir")
      options.directory = value;
    else if (name == "--kind")
      options.kind = value;
    else
      usage("unknown option");
  }
  return options;
}

// ----------------------------------------------------------------------- run

inline std::atomic<bool>& stop_flag() {
  static std::atomic<bool> stop{false};
  return stop;
}

// One a victim: made first (it takes SIGTERM), asked once a round.
class Run {
 public:
  explicit Run(Options options) : options_(std::move(options)), started_ns_(monotonic_ns()) {
    stop_flag() = false;
    struct sigaction action{};
    action.sa_handler = [](int) { stop_flag() = true; };
    must(::sigaction(SIGTERM, &action, nullptr), "sigaction");
  }

  void ready() {
    last_tick_ns_ = monotonic_ns();
    say("ready {}", ::getpid());
  }

  // False when it is time to make the last check. `progress` must grow with the work done.
  bool keep_going(std::uint64_t progress) {
    std::int64_t now = monotonic_ns();
    if (options_.tick_ms > 0 && now - last_tick_ns_ >= options_.tick_ms * 1'000'000 &&
        progress > last_progress_) {
      say("tick {}", ticks_++);
      last_tick_ns_ = now;
      last_progress_ = progress;
    }
    if (stop_flag()) return false;
    if (options_.count > 0 && progress >= options_.count) return false;
    if (static_cast<double>(now - started_ns_) / 1e9 >= options_.seconds) return false;
    return options_.until.empty() || ::access(options_.until.c_str(), F_OK) != 0;
  }

  template <class... Args>
  [[noreturn]] void ok(std::format_string<Args...> text, Args&&... args) {
    say("ok ticks={} {}", ticks_, std::format(text, std::forward<Args>(args)...));
    std::exit(0);
  }

 private:
  Options options_;
  std::int64_t started_ns_;
  std::int64_t last_tick_ns_ = 0;
  std::uint64_t last_progress_ = 0;
  std::uint64_t ticks_ = 0;
};

// Keeps to so many units a second, in steps of some milliseconds. After a pause
// (a freeze) it goes on at the rate, it does not catch up.
class Pace {
 public:
  explicit Pace(std::uint64_t per_second) : per_second_(per_second) {}
  // How many units the next step has; sleeps before it when there is a rate.
  std::uint64_t step() {
    if (per_second_ == 0) return 1000;
    std::uint64_t step_ms = per_second_ < 200 ? 1000 / per_second_ + 1 : 5;
    sleep_ms(static_cast<std::int64_t>(step_ms));
    return std::max<std::uint64_t>(1, per_second_ * step_ms / 1000);
  }

 private:
  std::uint64_t per_second_;
};

// ------------------------------------------------------------------ patterns

// splitmix64: each position of each pattern is known without storing it.
inline std::uint64_t mix(std::uint64_t value) {
  value += 0x9e3779b97f4a7c15;
  value = (value ^ (value >> 30)) * 0xbf58476d1ce4e5b9;
  value = (value ^ (value >> 27)) * 0x94d049bb133111eb;
  return value ^ (value >> 31);
}

}  // namespace victim
