#include "migrate/held_process.h"

#include <poll.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#include "migrate/thread_stops.h"

namespace gestalt {
namespace {

constexpr int kLookMilliseconds = 20;

}  // namespace

Result<std::unique_ptr<HeldProcess>> HeldProcess::hold(pid_t pid) {
  std::unique_ptr<HeldProcess> out(new HeldProcess(pid));
  GESTALT_ASSIGN(out->orders_, make_pipe());
  GESTALT_ASSIGN(out->answers_, make_pipe());
  out->server_ = std::thread([held = out.get()] { held->serve(); });
  GESTALT_TRY(out->await_answer());
  GESTALT_TRY(out->make_scratch());
  return out;
}

HeldProcess::~HeldProcess() {
  if (scratch_ != 0) (void)call(SYS_munmap, {scratch_, kScratchBytes});
  orders_.write.reset();
  if (server_.joinable()) server_.join();
}

// Only the task that traces can work on what it traces.
void HeldProcess::serve() {
  ended_ = run_apart([this] { return trace(); });
  if (ended_) ended_ = fail(ErrorCode::kGone, std::format("process {} is not held", pid_));
  answers_.write.reset();
}

Result<void> HeldProcess::trace() {
  pid_t parent = ::getppid();
  ThreadStops threads(pid_);
  GESTALT_TRY(threads.stop_all());
  GESTALT_ASSIGN(auto main, Injector::attach_main(pid_));
  GESTALT_TRY(threads.stop_all());  // none is new now
  do {
    if (work_) work_(main);
    char done = 1;
    if (::write(answers_.write.get(), &done, 1) != 1) break;
  } while (await_order(parent));
  return {};
}

// Descriptors are shared with a parent that crashes, and so stay open: it is looked for.
bool HeldProcess::await_order(pid_t parent) {
  while (true) {
    pollfd entry{orders_.read.get(), POLLIN, 0};
    int ready = ::poll(&entry, 1, kLookMilliseconds);
    if (::getppid() != parent) return false;
    if (ready <= 0) continue;
    char order = 0;
    return ::read(orders_.read.get(), &order, 1) == 1;
  }
}

Result<void> HeldProcess::await_answer() {
  char answer = 0;
  ssize_t count = 0;
  while ((count = ::read(answers_.read.get(), &answer, 1)) < 0 && errno == EINTR) {
  }
  if (count == 1) return {};
  return ended_ ? fail(ErrorCode::kGone, std::format("process {} is not held", pid_)) : ended_;
}

Result<std::int64_t> HeldProcess::call(long number, const Injector::Arguments& arguments) {
  Result<std::int64_t> out = 0;
  work_ = [&](Injector& main) { out = main.call(number, arguments); };
  char order = 1;
  if (::write(orders_.write.get(), &order, 1) != 1)
    return fail_errno(errno, std::format("use held process {}", pid_));
  GESTALT_TRY(await_answer());
  return out;
}

Result<void> HeldProcess::make_scratch() {
  GESTALT_ASSIGN(auto address, call(SYS_mmap, {0, kScratchBytes, PROT_READ | PROT_WRITE,
                                               MAP_PRIVATE | MAP_ANONYMOUS, ~0ULL, 0}));
  if (address < 0 && address > -4096)
    return fail_errno(static_cast<int>(-address), std::format("map memory in process {}", pid_));
  scratch_ = static_cast<std::uint64_t>(address);
  return {};
}

Result<void> HeldProcess::put(std::size_t offset, const void* bytes, std::size_t count) {
  iovec ours{const_cast<void*>(bytes), count};
  iovec theirs{reinterpret_cast<void*>(scratch_ + offset), count};
  if (::process_vm_writev(pid_, &ours, 1, &theirs, 1, 0) != static_cast<ssize_t>(count))
    return fail_errno(errno, std::format("write to the memory of process {}", pid_));
  return {};
}

Result<void> HeldProcess::get(std::size_t offset, void* bytes, std::size_t count) {
  iovec ours{bytes, count};
  iovec theirs{reinterpret_cast<void*>(scratch_ + offset), count};
  if (::process_vm_readv(pid_, &ours, 1, &theirs, 1, 0) != static_cast<ssize_t>(count))
    return fail_errno(errno, std::format("read the memory of process {}", pid_));
  return {};
}

}  // namespace gestalt
