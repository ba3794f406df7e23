// Timers of every kind, each with its own period. Ticks may come late, but none may be
// lost and none too many may come: against CLOCK_MONOTONIC, which stands still for a
// process while it is moved. Clocks never go back. A node that freezes as a whole does
// not stop the clock: signals of an interval timer that came meanwhile are one.
#include <signal.h>
#include <sys/time.h>
#include <sys/timerfd.h>

#include <array>

#include "victim.h"

namespace {

using victim::bad;
using victim::check;
using victim::must;

constexpr std::int64_t kMs = 1'000'000;
constexpr std::int64_t kTimerfdNs = 10 * kMs;
constexpr std::int64_t kPosixNs = 15 * kMs;
constexpr std::int64_t kIntervalNs = 25 * kMs;
// By how many ticks a count may be off, and one in twenty: each move may cost or give
// some at its border.
constexpr std::int64_t kTolerance = 30;

std::atomic<std::int64_t> posix_ticks{0};
std::atomic<std::int64_t> interval_ticks{0};
timer_t posix_timer;

void on_posix(int) { posix_ticks += 1 + ::timer_getoverrun(posix_timer); }
void on_interval(int) { ++interval_ticks; }

timespec to_timespec(std::int64_t ns) { return {ns / 1'000'000'000, ns % 1'000'000'000}; }

std::int64_t read_clock(clockid_t clock) {
  timespec now{};
  must(::clock_gettime(clock, &now), "clock_gettime");
  return std::int64_t{now.tv_sec} * 1'000'000'000 + now.tv_nsec;
}

void handle(int number, void (*handler)(int)) {
  struct sigaction action{};
  action.sa_handler = handler;
  action.sa_flags = SA_RESTART;
  must(::sigaction(number, &action, nullptr), "sigaction");
}

class Clocks {
 public:
  void verify() {
    for (auto& [clock, last] : clocks_) {
      std::int64_t now = read_clock(clock);
      check(now >= last, "clock {} went back by {} ns", clock, last - now);
      last = now;
    }
  }

 private:
  struct Clock {
    clockid_t id;
    std::int64_t last;
  };
  std::array<Clock, 4> clocks_{Clock{CLOCK_MONOTONIC, 0}, Clock{CLOCK_MONOTONIC_COARSE, 0},
                               Clock{CLOCK_BOOTTIME, 0}, Clock{CLOCK_MONOTONIC_RAW, 0}};
};

class Timerfd {
 public:
  Timerfd() : fd_(must(::timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC), "timerfd")) {
    itimerspec period{to_timespec(kTimerfdNs), to_timespec(kTimerfdNs)};
    must(::timerfd_settime(fd_, 0, &period, nullptr), "timerfd_settime");
  }
  void drain() {
    std::uint64_t expirations = 0;
    if (::read(fd_, &expirations, sizeof expirations) == sizeof expirations)
      ticks_ += static_cast<std::int64_t>(expirations);
    else
      check(errno == EAGAIN || errno == EINTR, "read of the timerfd: {}", std::strerror(errno));
  }
  void verify() const {
    itimerspec now{};
    must(::timerfd_gettime(fd_, &now), "timerfd_gettime");
    check(now.it_interval.tv_nsec == kTimerfdNs, "the timerfd's period is {} ns",
          now.it_interval.tv_nsec);
  }
  [[nodiscard]] std::int64_t ticks() const { return ticks_; }

 private:
  int fd_;
  std::int64_t ticks_ = 0;
};

void start_posix_timer() {
  handle(SIGRTMIN + 1, on_posix);
  sigevent event{};
  event.sigev_notify = SIGEV_SIGNAL;
  event.sigev_signo = SIGRTMIN + 1;
  must(::timer_create(CLOCK_MONOTONIC, &event, &posix_timer), "timer_create");
  itimerspec period{to_timespec(kPosixNs), to_timespec(kPosixNs)};
  must(::timer_settime(posix_timer, 0, &period, nullptr), "timer_settime");
}

void start_interval_timer() {
  handle(SIGALRM, on_interval);
  itimerval period{{0, kIntervalNs / 1000}, {0, kIntervalNs / 1000}};
  must(::setitimer(ITIMER_REAL, &period, nullptr), "setitimer");
}

// Sleeps to an absolute time through all the signals, and must not wake too early.
void sleep_exactly(std::int64_t ns) {
  std::int64_t until = victim::monotonic_ns() + ns;
  timespec deadline = to_timespec(until);
  while (::clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &deadline, nullptr) == EINTR) {
  }
  check(victim::monotonic_ns() >= until, "clock_nanosleep woke too early");
}

// nanosleep with what is left, as a careful program does it.
void sleep_relative(std::int64_t ns) {
  std::int64_t began = victim::monotonic_ns();
  timespec left = to_timespec(ns);
  while (::nanosleep(&left, &left) != 0) check(errno == EINTR, "nanosleep");
  check(victim::monotonic_ns() - began >= ns, "nanosleep woke too early");
}

void check_count(const char* what, std::int64_t ticks, std::int64_t elapsed_ns,
                 std::int64_t period_ns, bool may_coalesce) {
  std::int64_t expected = elapsed_ns / period_ns;
  std::int64_t tolerance = kTolerance + expected / 20;
  check(ticks <= expected + tolerance, "{}: {} ticks, only {} were due", what, ticks, expected);
  if (may_coalesce) return;
  check(ticks >= expected - tolerance, "{}: {} ticks of {}", what, ticks, expected);
}

}  // namespace

int main(int argc, char** argv) {
  victim::Options options = victim::parse_options(argc, argv);
  victim::Run run(options);
  Clocks clocks;
  std::int64_t began = victim::monotonic_ns();
  Timerfd timerfd;
  start_posix_timer();
  start_interval_timer();
  run.ready();

  std::int64_t rounds = 0;
  std::int64_t interval_before = 0;
  while (run.keep_going(static_cast<std::uint64_t>(timerfd.ticks()))) {
    sleep_exactly(5 * kMs);
    sleep_relative(5 * kMs);
    clocks.verify();
    timerfd.drain();
    timerfd.verify();
    std::int64_t elapsed = victim::monotonic_ns() - began;
    check_count("timerfd", timerfd.ticks(), elapsed, kTimerfdNs, false);
    check_count("POSIX timer", posix_ticks, elapsed, kPosixNs, false);
    check_count("interval timer", interval_ticks, elapsed, kIntervalNs, true);
    if (++rounds % 50 == 0) {  // at least half a second
      check(interval_ticks > interval_before, "the interval timer stands still");
      interval_before = interval_ticks;
    }
  }
  run.ok("timerfd={} posix={} interval={}", timerfd.ticks(), posix_ticks.load(),
         interval_ticks.load());
}
