#include "migrate/probe_child.h"

#include <poll.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>

#include "common/fd.h"

namespace gestalt {
namespace {

constexpr auto kReadyTimeout = std::chrono::seconds(10);

}  // namespace

ProbeChild::ProbeChild(std::size_t bytes, const std::function<void(char*)>& prepare)
    : bytes_(bytes) {
  auto ready = make_pipe();
  void* memory = ::mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (memory == MAP_FAILED) return;
  start_ = reinterpret_cast<std::uint64_t>(memory);
  if (!ready) return;
  pid_ = ::fork();
  if (pid_ == 0) {
    prepare(static_cast<char*>(memory));
    (void)::close_range(3, ~0U, 0);  // by that the parent knows
    while (true) (void)::pause();
  }
  ready->write.reset();
  if (pid_ > 0) (void)wait_for(ready->read.get(), POLLIN, deadline_in(kReadyTimeout));
}

ProbeChild::~ProbeChild() {
  if (pid_ > 0) {
    (void)::kill(pid_, SIGKILL);
    (void)::waitpid(pid_, nullptr, 0);
  }
  if (start_ != 0) (void)::munmap(reinterpret_cast<void*>(start_), bytes_);
}

}  // namespace gestalt
