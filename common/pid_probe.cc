#include "common/pid_probe.h"

#include <sys/wait.h>

#include <array>
#include <cerrno>

#include "common/format.h"
#include "common/raw_clone.h"

namespace gestalt {
namespace {

void end_at_once(void*) { exit_thread(0); }

}  // namespace

Result<bool> pid_is_free(pid_t pid) {
  alignas(16) std::array<std::byte, 2048> stack;
  pid_t wanted = pid;
  clone_args arguments{};
  arguments.flags = CLONE_VM | CLONE_VFORK | CLONE_FILES | CLONE_FS;
  arguments.stack = reinterpret_cast<std::uint64_t>(stack.data());
  arguments.stack_size = stack.size();
  arguments.set_tid = reinterpret_cast<std::uint64_t>(&wanted);
  arguments.set_tid_size = 1;
  long child = clone_and_call(arguments, end_at_once, nullptr);
  if (child == -EEXIST) return false;
  if (child < 0)
    return fail_errno(static_cast<int>(-child), formatted("see whether pid {} is free", pid));
  while (::waitpid(static_cast<pid_t>(child), nullptr, __WALL) < 0 && errno == EINTR) {
  }
  return true;
}

}  // namespace gestalt
