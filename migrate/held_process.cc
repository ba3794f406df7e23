#include "migrate/held_process.h"

#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#include "common/format.h"
#include "migrate/thread_stops.h"

namespace gestalt {

Result<std::unique_ptr<HeldProcess>> HeldProcess::hold(pid_t pid) {
  std::unique_ptr<HeldProcess> out(new HeldProcess(pid));
  auto body = [held = out.get()](const std::function<void()>& serve) -> Result<void> {
    ThreadStops threads(held->pid_);
    GESTALT_TRY(threads.stop_all());
    GESTALT_ASSIGN(auto main, Injector::attach_main(held->pid_));
    GESTALT_TRY(threads.stop_all());  // none is new now
    held->main_ = &main;
    serve();
    return {};
  };
  GESTALT_TRY(out->task_.start(body));
  GESTALT_TRY(out->make_scratch());
  return out;
}

HeldProcess::~HeldProcess() {
  if (scratch_ != 0) (void)call(SYS_munmap, {scratch_, kScratchBytes});
  task_.stop();
}

Result<std::int64_t> HeldProcess::call(long number, const Injector::Arguments& arguments) {
  Result<std::int64_t> out = 0;
  GESTALT_TRY(task_.run([&] { out = main_->call(number, arguments); }));
  return out;
}

Result<void> HeldProcess::make_scratch() {
  GESTALT_ASSIGN(auto address, call(SYS_mmap, {0, kScratchBytes, PROT_READ | PROT_WRITE,
                                               MAP_PRIVATE | MAP_ANONYMOUS, ~0ULL, 0}));
  if (address < 0 && address > -4096)
    return fail_errno(static_cast<int>(-address), formatted("map memory in process {}", pid_));
  scratch_ = static_cast<std::uint64_t>(address);
  return {};
}

Result<void> HeldProcess::put(std::size_t offset, const void* bytes, std::size_t count) {
  iovec ours{const_cast<void*>(bytes), count};
  iovec theirs{reinterpret_cast<void*>(scratch_ + offset), count};
  if (::process_vm_writev(pid_, &ours, 1, &theirs, 1, 0) != static_cast<ssize_t>(count))
    return fail_errno(errno, formatted("write to the memory of process {}", pid_));
  return {};
}

Result<void> HeldProcess::get(std::size_t offset, void* bytes, std::size_t count) {
  iovec ours{bytes, count};
  iovec theirs{reinterpret_cast<void*>(scratch_ + offset), count};
  if (::process_vm_readv(pid_, &ours, 1, &theirs, 1, 0) != static_cast<ssize_t>(count))
    return fail_errno(errno, formatted("read the memory of process {}", pid_));
  return {};
}

}  // namespace gestalt
