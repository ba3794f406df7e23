#include "common/event_loop.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/epoll.h>
#include <unistd.h>

#include <string>
#include <thread>

namespace gestalt {
namespace {

// Runs until stop(), or fails after five seconds.
void run(EventLoop& loop) {
  (void)loop.after(std::chrono::seconds(5), [&] {
    ADD_FAILURE() << "the loop did not end";
    loop.stop();
  });
  loop.run();
}

TEST(EventLoop, TimersInOrder) {
  EventLoop loop;
  std::string order;
  (void)loop.after(milliseconds(30), [&] { order += 'c', loop.stop(); });
  (void)loop.after(milliseconds(10), [&] { order += 'a'; });
  auto cancelled = loop.after(milliseconds(15), [&] { order += 'x'; });
  (void)loop.after(milliseconds(20), [&] { order += 'b'; });
  loop.cancel(cancelled);
  loop.cancel(cancelled);
  loop.cancel(12345);
  run(loop);
  EXPECT_EQ(order, "abc");
}

TEST(EventLoop, ATimerMayCancelTheNextAndAddOthers) {
  EventLoop loop;
  std::string order;
  EventLoop::TimerId second = 0;
  (void)loop.after(milliseconds(1), [&] {
    order += 'a';
    loop.cancel(second);
    loop.defer([&] { order += 'd', loop.stop(); });
  });
  second = loop.after(milliseconds(1), [&] { order += 'x'; });
  std::this_thread::sleep_for(milliseconds(5));  // both are due at once
  run(loop);
  EXPECT_EQ(order, "ad");
}

TEST(EventLoop, DeferredTasksKeepTheirOrder) {
  EventLoop loop;
  std::string order;
  loop.defer([&] {
    order += '1';
    loop.defer([&] { order += '3', loop.stop(); });
  });
  loop.defer([&] { order += '2'; });
  run(loop);
  EXPECT_EQ(order, "123");
}

TEST(EventLoop, ReadsAndHangUp) {
  EventLoop loop;
  auto pipe = *make_pipe();
  std::string got;
  loop.watch(pipe.read.get(), EPOLLIN, [&](std::uint32_t events) {
    char c = 0;
    if ((events & EPOLLIN) != 0 && ::read(pipe.read.get(), &c, 1) == 1) {
      got += c;
      return;
    }
    EXPECT_NE(events & EPOLLHUP, 0U);
    loop.unwatch(pipe.read.get());
    loop.stop();
  });
  EXPECT_TRUE(loop.watches(pipe.read.get()));
  ASSERT_EQ(::write(pipe.write.get(), "abc", 3), 3);
  (void)loop.after(milliseconds(5), [&] { pipe.write.reset(); });
  run(loop);
  EXPECT_EQ(got, "abc");
  EXPECT_FALSE(loop.watches(pipe.read.get()));
}

TEST(EventLoop, ChangeOfEvents) {
  EventLoop loop;
  auto pipe = *make_pipe();
  int calls = 0;
  loop.watch(pipe.write.get(), 0, [&](std::uint32_t) { ++calls, loop.stop(); });
  (void)loop.after(milliseconds(20), [&] {
    EXPECT_EQ(calls, 0) << "nothing was asked for";
    loop.change(pipe.write.get(), EPOLLOUT);
  });
  run(loop);
  EXPECT_EQ(calls, 1);
  loop.change(12345, EPOLLIN);
  loop.unwatch(12345);
}

TEST(EventLoop, AHandlerMayUnwatchAnother) {
  EventLoop loop;
  auto first = *make_pipe();
  auto second = *make_pipe();
  int calls = 0;
  auto handler = [&](std::uint32_t) {
    ++calls;
    loop.unwatch(first.read.get());
    loop.unwatch(second.read.get());
    (void)loop.after(milliseconds(5), [&] { loop.stop(); });
  };
  loop.watch(first.read.get(), EPOLLIN, handler);
  loop.watch(second.read.get(), EPOLLIN, handler);
  ASSERT_EQ(::write(first.write.get(), "x", 1), 1);
  ASSERT_EQ(::write(second.write.get(), "x", 1), 1);
  run(loop);
  EXPECT_EQ(calls, 1);
}

// The number of a closed descriptor comes back at once: the event still in the batch
// belongs to the old one.
TEST(EventLoop, AReusedNumberGetsNoStaleEvent) {
  EventLoop loop;
  auto first = *make_pipe();
  auto second = *make_pipe();
  auto fresh = *make_pipe();
  bool stale = false;
  auto swap = [&](Fd& victim) {
    int number = victim.get();
    loop.unwatch(number);
    ASSERT_EQ(::dup3(fresh.read.get(), number, O_CLOEXEC), number);
    loop.watch(number, EPOLLIN, [&](std::uint32_t) { stale = true; });
    (void)loop.after(milliseconds(20), [&] { loop.stop(); });
  };
  bool swapped = false;
  auto handler = [&](Fd& other) {
    if (!swapped) swapped = true, swap(other);
    // What is left of this one is read, so that it shows only once.
  };
  auto drain = [](Fd& fd) {
    char c = 0;
    (void)!::read(fd.get(), &c, 1);
  };
  loop.watch(first.read.get(), EPOLLIN,
             [&](std::uint32_t) { drain(first.read), handler(second.read); });
  loop.watch(second.read.get(), EPOLLIN,
             [&](std::uint32_t) { drain(second.read), handler(first.read); });
  ASSERT_EQ(::write(first.write.get(), "x", 1), 1);
  ASSERT_EQ(::write(second.write.get(), "x", 1), 1);
  run(loop);
  EXPECT_TRUE(swapped);
  EXPECT_FALSE(stale);
}

TEST(EventLoop, RegularFilesAreAlwaysReady) {
  EventLoop loop;
  auto file = open_file("/proc/self/exe", O_RDONLY);
  ASSERT_TRUE(file);
  int calls = 0;
  loop.watch(file->get(), EPOLLIN, [&](std::uint32_t events) {
    EXPECT_NE(events & EPOLLIN, 0U);
    if (++calls == 3) loop.unwatch(file->get());
    if (calls == 3) (void)loop.after(milliseconds(50), [&] { loop.stop(); });
  });
  run(loop);
  EXPECT_EQ(calls, 3);
}

TEST(EventLoop, AHandlerMayReplaceItself) {
  EventLoop loop;
  auto pipe = *make_pipe();
  std::string order;
  loop.watch(pipe.read.get(), EPOLLIN, [&](std::uint32_t) {
    loop.watch(pipe.read.get(), EPOLLIN, [&](std::uint32_t) { order += 'b', loop.stop(); });
    order += 'a';
  });
  ASSERT_EQ(::write(pipe.write.get(), "x", 1), 1);
  run(loop);
  EXPECT_EQ(order, "ab");
}

}  // namespace
}  // namespace gestalt
