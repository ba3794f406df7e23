#include "migrate/tracer_task.h"

#include <poll.h>
#include <unistd.h>

#include "migrate/injector.h"

namespace gestalt {
namespace {

constexpr int kLookMilliseconds = 20;

}  // namespace

Result<void> TracerTask::start(Body body) {
  GESTALT_ASSIGN(orders_, make_pipe());
  GESTALT_ASSIGN(answers_, make_pipe());
  server_ = std::thread([this, body = std::move(body)] {
    ended_ = run_apart([&] {
      pid_t parent = ::getppid();
      return body([this, parent] { serve(parent); });
    });
    answers_.write.reset();
  });
  return await_answer();
}

Result<void> TracerTask::stop() {
  orders_.write.reset();
  if (server_.joinable()) server_.join();
  return ended_;
}

void TracerTask::serve(pid_t parent) {
  do {
    if (work_ != nullptr) (*work_)();
    char done = 1;
    if (::write(answers_.write.get(), &done, 1) != 1) break;
  } while (await_order(parent));
}

// Descriptors are shared with a parent that crashes, and so stay open: it is looked for.
bool TracerTask::await_order(pid_t parent) {
  while (true) {
    pollfd entry{orders_.read.get(), POLLIN, 0};
    int ready = ::poll(&entry, 1, kLookMilliseconds);
    if (::getppid() != parent) return false;
    if (ready <= 0) continue;
    char order = 0;
    return ::read(orders_.read.get(), &order, 1) == 1;
  }
}

Result<void> TracerTask::await_answer() {
  char answer = 0;
  ssize_t count = 0;
  while ((count = ::read(answers_.read.get(), &answer, 1)) < 0 && errno == EINTR) {
  }
  if (count == 1) return {};
  return ended_ ? fail(ErrorCode::kGone, "what traces a process has ended") : ended_;
}

Result<void> TracerTask::run(const std::function<void()>& work) {
  work_ = &work;
  char order = 1;
  if (::write(orders_.write.get(), &order, 1) != 1)
    return fail_errno(errno, "give an order to what traces a process");
  return await_answer();
}

}  // namespace gestalt
