// What procfs says of a process, parsed strictly. proc(5).
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "common/result.h"

namespace gestalt {

struct ProcessStat {
  pid_t pid = 0;
  std::string comm;  // any bytes but NUL, also spaces and parentheses
  char state = '?';
  pid_t parent_pid = 0;
  pid_t group_id = 0;
  pid_t session_id = 0;
  int tty = 0;
  pid_t foreground_group = 0;  // of its terminal; -1: none
  std::uint64_t user_ticks = 0;
  std::uint64_t system_ticks = 0;
  std::uint32_t threads = 0;
  std::uint64_t start_ticks = 0;  // since boot
  std::uint64_t resident_pages = 0;
};

struct ProcessIds {
  uid_t real_uid = 0;
  uid_t effective_uid = 0;
  uid_t saved_uid = 0;
  std::vector<pid_t> namespace_pids;  // NSpid: outermost first
};

[[nodiscard]] Result<ProcessStat> parse_stat(const std::string& text);
[[nodiscard]] Result<ProcessIds> parse_status(const std::string& text);

// `proc` is the directory of a procfs mount, normally "/proc". A process that is gone
// gives kGone.
[[nodiscard]] Result<ProcessStat> read_stat(const std::string& proc, pid_t pid);
[[nodiscard]] Result<ProcessIds> read_ids(const std::string& proc, pid_t pid);
[[nodiscard]] Result<std::vector<pid_t>> list_pids(const std::string& proc);
// What /proc/PID/status says behind "NAME:", without the blanks; empty if it says nothing. Looks
// into `text`, which has to stay.
[[nodiscard]] std::string_view status_field(std::string_view text, std::string_view name);
// argv joined by spaces, or "[comm]" for a kernel thread or zombie; at most limit_bytes.
[[nodiscard]] std::string command_line(const std::string& proc, pid_t pid,
                                       std::size_t limit_bytes = 4096);
// The path in the cgroup-v2 hierarchy as this procfs shows it ("0::" line).
[[nodiscard]] Result<std::string> cgroup_path(const std::string& proc, pid_t pid);

}  // namespace gestalt
