// A task of its own that traces other processes (run_apart() of migrate/injector.h) and does what
// it is told, one order after another, until nobody wants it any more. Should this process crash,
// it ends in good order: what it has changed in the traced process, it can undo.
#pragma once

#include <functional>
#include <thread>

#include "common/fd.h"
#include "common/result.h"

namespace gestalt {

// One thread at a time may use it.
class TracerTask {
 public:
  TracerTask() = default;
  ~TracerTask() { stop(); }
  TracerTask(const TracerTask&) = delete;
  TracerTask& operator=(const TracerTask&) = delete;

  // Runs `body` in the task. It is to seize what it traces, to call `serve`, which does the
  // orders and returns at the end, also when this process has crashed, and to let go. Returns
  // when it serves, or what it has failed with. Once.
  using Body = std::function<Result<void>(const std::function<void()>& serve)>;
  [[nodiscard]] Result<void> start(Body body);
  // Does `work` in the task, and waits for it. kGone: it has ended.
  [[nodiscard]] Result<void> run(const std::function<void()>& work);
  // Waits until the body has ended: its result.
  Result<void> stop();

 private:
  void serve(pid_t parent);
  [[nodiscard]] Result<void> await_answer();
  [[nodiscard]] bool await_order(pid_t parent);

  // By pipes: whoever is killed with a mutex would keep it.
  Pipe orders_;   // a byte: there is work; its end closes to end the task
  Pipe answers_;  // a byte: serving, or done; its end: the task has ended
  const std::function<void()>* work_ = nullptr;
  Result<void> ended_;  // why it does not serve
  std::thread server_;
};

}  // namespace gestalt
