#include "migrate/timers.h"

#include <gtest/gtest.h>
#include <poll.h>
#include <sys/timerfd.h>
#include <unistd.h>

#include <fstream>
#include <sstream>

#include "common/clock.h"
#include "common/fd.h"
#include "common/format.h"
#include "migrate/test_image.h"

namespace gestalt {
namespace {

std::string timer(std::uint64_t ticks, std::uint64_t left, std::uint64_t interval) {
  std::string body = field(1, 7) + field(2, 2) + field(3, field(1, 0)) + field(4, 1) +
                     field(5, ticks) + field(6, 0) + field(7, 0) + field(8, left) + field(9, 0) +
                     field(10, interval);
  return entry(field(1, 11) + field(2, 7) + field(12, body));
}
const std::string kFront = image_front(0x56303138);

TEST(Timers, AnExpiredPeriodicTimerIsArmedAgain) {
  std::string image = kFront + entry(field(1, 1) + field(2, 5)) + timer(1, 0, 10'000'000);
  EXPECT_EQ(rearm_expired_timers(image), 1);
  EXPECT_EQ(image, kFront + entry(field(1, 1) + field(2, 5)) + timer(1, 1, 10'000'000));
  EXPECT_EQ(rearm_expired_timers(image), 0);
}

TEST(Timers, OthersStayAsTheyAre) {
  for (const auto& other : {timer(0, 0, 10'000'000),       // switched off
                            timer(1, 0, 0),                // expired once and for all
                            timer(3, 500, 10'000'000)}) {  // armed
    std::string image = kFront + other;
    std::string before = image;
    EXPECT_EQ(rearm_expired_timers(image), 0);
    EXPECT_EQ(image, before);
  }
}

TEST(Timers, DamagedImagesAreRefused) {
  std::string good = kFront + timer(1, 0, 10'000'000);
  for (std::size_t size : {std::size_t{0}, std::size_t{7}, std::size_t{10}, good.size() - 1}) {
    std::string cut = good.substr(0, size);
    EXPECT_FALSE(rearm_expired_timers(cut)) << size;
  }
  std::string inner = kFront + entry(field(12, "\xff\xff"));
  EXPECT_FALSE(rearm_expired_timers(inner));
}

// What the kernel shows of the timer, before and after.
std::string shown_value(int fd) {
  std::ifstream info(formatted("/proc/self/fdinfo/{}", fd));
  for (std::string line; std::getline(info, line);)
    if (line.starts_with("it_value:")) return line;
  return {};
}

TEST(Timers, TheKernelCountsWhatWasNotRead) {
  Fd fd(::timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC));
  itimerspec spec{{60, 0}, {0, 1}};
  ASSERT_EQ(::timerfd_settime(fd.get(), 0, &spec, nullptr), 0);
  pollfd entry_{fd.get(), POLLIN, 0};
  ASSERT_EQ(::poll(&entry_, 1, 1000), 1);
  EXPECT_EQ(shown_value(fd.get()), "it_value: (0, 0)");  // the trap
  forward_timers({::getpid()});
  EXPECT_NE(shown_value(fd.get()), "it_value: (0, 0)");
  std::uint64_t ticks = 0;
  EXPECT_EQ(::read(fd.get(), &ticks, sizeof ticks), 8);
  EXPECT_EQ(ticks, 1U);
}

}  // namespace
}  // namespace gestalt
