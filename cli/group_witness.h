// Tells a signal to a process group from one to a process: what comes with a signal is the same in
// both cases, but another member of the group has it pending, too, if it was sent to the group.
// That member is a child of this process, which does nothing else. Should this process be killed,
// it stays for a moment, unless the whole group was: so gestaltd knows (Leader::deputy_gone).
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <span>

#include "common/fd.h"

namespace gestalt::cli {

// Not thread-safe. Without the child (a limit of processes) every signal is the process's own.
class GroupWitness {
 public:
  // `title_area`: where the program's arguments and environment lie, for the child's own.
  explicit GroupWitness(std::span<char> title_area) : title_area_(title_area) {}
  ~GroupWitness() { stop(); }
  GroupWitness(const GroupWitness&) = delete;
  GroupWitness& operator=(const GroupWitness&) = delete;

  // Only while this process has one thread.
  void start();
  void stop();
  // Of a signal that has just come to this process. Once for each.
  [[nodiscard]] bool saw(int signal);

 private:
  [[nodiscard]] std::uint64_t ask();

  std::span<char> title_area_;
  Fd socket_;
  pid_t pid_ = 0;
  std::uint64_t seen_ = 0;  // a bit for each signal
  int unanswered_ = 0;
};

}  // namespace gestalt::cli
