// The only way to Asio in this folder: precompiled, because it is slow to compile.
#pragma once

#include <boost/asio/as_tuple.hpp>
#include <boost/asio/awaitable.hpp>
#include <boost/asio/buffer.hpp>
#include <boost/asio/co_spawn.hpp>
#include <boost/asio/connect.hpp>
#include <boost/asio/detached.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/local/stream_protocol.hpp>
#include <boost/asio/posix/stream_descriptor.hpp>
#include <boost/asio/post.hpp>
#include <boost/asio/signal_set.hpp>
#include <boost/asio/ssl.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/asio/this_coro.hpp>
#include <boost/asio/thread_pool.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <boost/asio/write.hpp>
#include <chrono>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "common/clock.h"
#include "common/frame.h"
#include "common/log.h"
#include "common/result.h"

namespace gestalt {

namespace asio = boost::asio;

template <class T = void>
using Awaitable = asio::awaitable<T>;

// Completion as a value: nothing in the daemon is told of errors by exceptions.
inline constexpr auto kAsResult = asio::as_tuple(asio::use_awaitable);

// A value that comes later, once. Whoever sets it needs no coroutine; the one who
// waits gets nothing when the time is up. Single-threaded; share it by shared_ptr.
template <class T>
class Promise {
 public:
  explicit Promise(const asio::any_io_executor& executor) : timer_(executor) {}

  void set(T value) {
    if (value_) return;
    value_ = std::move(value);
    timer_.cancel();
  }
  [[nodiscard]] Awaitable<std::optional<T>> wait(Clock::duration timeout) {
    if (!value_) {
      timer_.expires_after(timeout);
      (void)co_await timer_.async_wait(kAsResult);
    }
    co_return std::exchange(value_, std::nullopt);
  }

 private:
  asio::steady_timer timer_;
  std::optional<T> value_;
};

// Runs `expired` unless it is destroyed before: the deadline of an operation that is
// ended by closing its socket.
class Watchdog {
 public:
  Watchdog(const asio::any_io_executor& executor, Clock::duration timeout,
           std::function<void()> expired)
      : timer_(executor, timeout), armed_(std::make_shared<bool>(true)) {
    timer_.async_wait([armed = armed_, run = std::move(expired)](boost::system::error_code error) {
      if (!error && *armed) run();
    });
  }
  ~Watchdog() { *armed_ = false; }
  Watchdog(const Watchdog&) = delete;
  Watchdog& operator=(const Watchdog&) = delete;

 private:
  asio::steady_timer timer_;
  std::shared_ptr<bool> armed_;
};

[[nodiscard]] inline Awaitable<> sleep_for(Clock::duration duration) {
  asio::steady_timer timer(co_await asio::this_coro::executor, duration);
  (void)co_await timer.async_wait(kAsResult);
}

}  // namespace gestalt

// GESTALT_TRY and GESTALT_ASSIGN for coroutines.
#define GESTALT_CO_TRY(expression)                                    \
  do {                                                                \
    if (auto gestalt_try_ = (expression); !gestalt_try_)              \
      co_return ::std::unexpected(::std::move(gestalt_try_).error()); \
  } while (false)
#define GESTALT_CO_ASSIGN_(temporary, target, expression)                      \
  auto temporary = (expression);                                               \
  if (!temporary) co_return ::std::unexpected(::std::move(temporary).error()); \
  target = ::std::move(*temporary)
#define GESTALT_CO_ASSIGN(target, expression) \
  GESTALT_CO_ASSIGN_(GESTALT_CONCAT(gestalt_assign_, __LINE__), target, expression)
