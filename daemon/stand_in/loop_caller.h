// Runs functions on an event loop's thread from others. Thread-safe.
#pragma once

#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <cstdint>
#include <deque>
#include <functional>
#include <future>
#include <mutex>
#include <type_traits>

#include "common/event_loop.h"
#include "common/fd.h"

namespace gestalt {

class LoopCaller {
 public:
  explicit LoopCaller(EventLoop& loop) : loop_(loop), event_(::eventfd(0, EFD_CLOEXEC)) {
    loop_.watch(event_.get(), EPOLLIN, [this](std::uint32_t) { run_posted(); });
  }
  ~LoopCaller() { loop_.unwatch(event_.get()); }
  LoopCaller(const LoopCaller&) = delete;
  LoopCaller& operator=(const LoopCaller&) = delete;

  void post(std::function<void()> task) {
    {
      std::lock_guard lock(mutex_);
      tasks_.push_back(std::move(task));
    }
    std::uint64_t one = 1;
    (void)!::write(event_.get(), &one, sizeof one);
  }

  // Waits for the result. Must not be called on the loop's own thread.
  template <class F>
  auto call(F function) -> std::invoke_result_t<F> {
    auto task =
        std::make_shared<std::packaged_task<std::invoke_result_t<F>()>>(std::move(function));
    auto result = task->get_future();
    post([task] { (*task)(); });
    return result.get();
  }

 private:
  void run_posted() {
    std::uint64_t count = 0;
    (void)!::read(event_.get(), &count, sizeof count);
    std::deque<std::function<void()>> tasks;
    {
      std::lock_guard lock(mutex_);
      tasks.swap(tasks_);
    }
    for (auto& task : tasks) task();
  }

  EventLoop& loop_;
  Fd event_;
  std::mutex mutex_;
  std::deque<std::function<void()>> tasks_;
};

}  // namespace gestalt
