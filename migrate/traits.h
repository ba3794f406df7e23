// What threads and processes have and CRIU's images do not: on which CPUs they may run, their
// I/O priority, timer slack, core dump filter and personality. A file among the images.
// sched_setaffinity(2), ioprio_set(2), proc_pid_timerslack_ns(5), core(5), personality(2).
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "common/result.h"

namespace gestalt {

struct ThreadTraits {
  pid_t tid = 0;
  std::uint64_t timer_slack_nanoseconds = 0;  // 0: not known
  int io_priority = 0;                        // as ioprio_get(2) has it
  // The places of its CPUs among those that its node lets anybody use; nothing: all of them.
  std::optional<std::vector<std::uint32_t>> cpus;

  bool operator==(const ThreadTraits&) const = default;
};

struct ProcessTraits {
  pid_t pid = 0;
  std::uint32_t core_dump_filter = 0;
  std::uint32_t personality = 0;
  std::vector<ThreadTraits> threads;

  bool operator==(const ProcessTraits&) const = default;
};

inline constexpr char kTraitsFile[] = "gestalt-traits.img";

// Of processes that stand still; what has ended is left out. Some 15 µs for each thread.
[[nodiscard]] std::vector<ProcessTraits> read_traits(const std::vector<pid_t>& pids);
// Of those, what a process can only inherit: the personality that all of them have.
[[nodiscard]] std::uint32_t common_personality(const std::vector<ProcessTraits>& traits);
// /proc/PID/personality; 0 where it cannot be read.
[[nodiscard]] std::uint32_t read_personality(const std::string& proc, pid_t pid);
// What of a personality moves: others would change what CRIU itself sees.
inline constexpr std::uint32_t kMovablePersonality = 0x0040000;  // ADDR_NO_RANDOMIZE
// To processes that stand still, on this node: the CPU at place 5 of a node with four is the one
// at place 1. Only to these threads. What cannot be set is logged.
void set_traits(const std::vector<ProcessTraits>& traits, const std::set<pid_t>& threads);

[[nodiscard]] std::string encode_traits(const std::vector<ProcessTraits>& traits);
// kProtocol.
[[nodiscard]] Result<std::vector<ProcessTraits>> decode_traits(std::string_view text);

// Which of a node's CPUs those are: `places` of `available`, which is not empty.
[[nodiscard]] std::vector<std::uint32_t> map_cpus(const std::vector<std::uint32_t>& places,
                                                  const std::vector<std::uint32_t>& available);

}  // namespace gestalt
