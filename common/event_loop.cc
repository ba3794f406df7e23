#include "common/event_loop.h"

#include <sys/epoll.h>

#include <array>
#include <cerrno>
#include <cstdlib>

#include "common/log.h"

namespace gestalt {
namespace {

// What comes back with an event: the descriptor, and which watch of it was meant.
std::uint64_t event_key(int fd, std::uint32_t generation) {
  return (std::uint64_t{generation} << 32) | static_cast<std::uint32_t>(fd);
}

}  // namespace

EventLoop::EventLoop() : epoll_(::epoll_create1(EPOLL_CLOEXEC)) {
  if (!epoll_) {
    log::error("no epoll descriptor", log::field("errno", errno));
    std::abort();
  }
}

void EventLoop::watch(int fd, std::uint32_t events, Handler handler) {
  unwatch(fd);
  auto entry = std::make_shared<Watch>();
  entry->handler = std::move(handler);
  entry->events = events;
  entry->generation = next_generation_++;
  epoll_event event{};
  event.events = events;
  event.data.u64 = event_key(fd, entry->generation);
  handlers_[fd] = std::move(entry);
  if (::epoll_ctl(epoll_.get(), EPOLL_CTL_ADD, fd, &event) == 0) return;
  if (errno == EPERM) {
    // epoll refuses regular files: they are always ready.
    defer([this, entry = handlers_[fd]] { poll_file(entry); });
    return;
  }
  log::error("cannot watch descriptor", log::field("fd", fd), log::field("errno", errno));
  std::abort();
}

void EventLoop::poll_file(const std::shared_ptr<Watch>& entry) {
  if (entry->removed) return;
  if (entry->events != 0) entry->handler(entry->events);
  auto pause = entry->events != 0 ? milliseconds(0) : milliseconds(20);
  (void)after(pause, [this, entry] { poll_file(entry); });
}

void EventLoop::change(int fd, std::uint32_t events) {
  auto found = handlers_.find(fd);
  if (found == handlers_.end() || found->second->events == events) return;
  found->second->events = events;
  epoll_event event{};
  event.events = events;
  event.data.u64 = event_key(fd, found->second->generation);
  (void)::epoll_ctl(epoll_.get(), EPOLL_CTL_MOD, fd, &event);
}

void EventLoop::unwatch(int fd) {
  auto found = handlers_.find(fd);
  if (found == handlers_.end()) return;
  found->second->removed = true;
  handlers_.erase(found);
  (void)::epoll_ctl(epoll_.get(), EPOLL_CTL_DEL, fd, nullptr);
}

EventLoop::TimerId EventLoop::after(Clock::duration delay, Task task) {
  TimerId id = next_timer_++;
  timers_.emplace(Clock::now() + delay, std::pair(id, std::move(task)));
  return id;
}

void EventLoop::cancel(TimerId id) {
  for (auto it = timers_.begin(); it != timers_.end(); ++it) {
    if (it->second.first == id) {
      timers_.erase(it);
      return;
    }
  }
}

void EventLoop::defer(Task task) { (void)after(Clock::duration::zero(), std::move(task)); }

// Runs what is due; milliseconds until the next one, -1 for none.
int EventLoop::run_timers() {
  auto now = Clock::now();
  while (!timers_.empty() && timers_.begin()->first <= now) {
    auto task = std::move(timers_.begin()->second.second);
    timers_.erase(timers_.begin());
    task();
    if (stopped_) return 0;
  }
  return timers_.empty() ? -1 : remaining_milliseconds(timers_.begin()->first);
}

void EventLoop::run() {
  std::array<epoll_event, 32> events;
  stopped_ = false;
  while (!stopped_) {
    int timeout = run_timers();
    if (stopped_) return;
    int count = ::epoll_wait(epoll_.get(), events.data(), static_cast<int>(events.size()), timeout);
    for (int i = 0; i < count && !stopped_; ++i) {
      // A handler may have unwatched a descriptor whose event is still in this batch, and
      // its number may be in use again.
      const epoll_event& event = events[static_cast<std::size_t>(i)];
      auto fd = static_cast<int>(event.data.u64 & 0xFFFF'FFFF);
      auto found = handlers_.find(fd);
      if (found == handlers_.end()) continue;
      auto entry = found->second;
      if (event_key(fd, entry->generation) == event.data.u64) entry->handler(event.events);
    }
  }
}

}  // namespace gestalt
