// A single-threaded epoll loop for the small programs (stand-in, cluster init, CLI);
// the daemon has Asio. Everything runs on the loop's own thread.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>

#include "common/clock.h"
#include "common/fd.h"

namespace gestalt {

class EventLoop {
 public:
  using Handler = std::function<void(std::uint32_t epoll_events)>;
  using Task = std::function<void()>;
  using TimerId = std::uint64_t;

  // Aborts the program where the kernel refuses an epoll descriptor: nothing works then.
  EventLoop();
  EventLoop(const EventLoop&) = delete;
  EventLoop& operator=(const EventLoop&) = delete;

  // Calls `handler` while `events` (EPOLLIN, EPOLLOUT) show on fd, level-triggered.
  // The loop does not own fd: unwatch it before it is closed.
  void watch(int fd, std::uint32_t events, Handler handler);
  // Other events for an fd that is watched already; 0 keeps only errors and hang-ups.
  void change(int fd, std::uint32_t events);
  void unwatch(int fd);
  [[nodiscard]] bool watches(int fd) const { return handlers_.contains(fd); }

  TimerId after(Clock::duration delay, Task task);
  void cancel(TimerId id);
  // Runs `task` when the current handler has returned.
  void defer(Task task);

  // Until stop() is called by a handler; may be run again.
  void run();
  void stop() { stopped_ = true; }

 private:
  struct Watch {
    Handler handler;
    std::uint32_t events = 0;
    std::uint32_t generation = 0;  // tells it from a later watch of the same number
    bool removed = false;
  };
  int run_timers();
  void poll_file(const std::shared_ptr<Watch>& entry);

  Fd epoll_;
  std::map<int, std::shared_ptr<Watch>> handlers_;
  std::multimap<Deadline, std::pair<TimerId, Task>> timers_;
  TimerId next_timer_ = 1;
  std::uint32_t next_generation_ = 1;
  bool stopped_ = false;
};

}  // namespace gestalt
