// What a node tells the single view of its processes: reads the procfs of its cluster pid
// namespace again and again, and gives what has changed since the last time.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <unordered_map>
#include <vector>

#include "common/fd.h"
#include "common/proto/control.pb.h"
#include "common/result.h"
#include "daemon/sources/task_source.h"

namespace gestalt {

// A round is begun, read in steps (so that a daemon with one thread can do other things in
// between), and collected. Not thread-safe.
class TaskScanner {
 public:
  // Files of a process that are pushed, relative to /proc/PID. The rest is fetched on demand.
  static constexpr const char* kTaskFiles[] = {"stat",    "status", "statm",
                                               "cmdline", "cgroup", "environ"};
  // Files of the node, relative to /proc.
  static constexpr const char* kNodeFiles[] = {
      "stat",      "meminfo", "cpuinfo",      "loadavg",     "uptime",         "vmstat",
      "diskstats", "net/dev", "pressure/cpu", "pressure/io", "pressure/memory"};
  // What is larger is not pushed.
  static constexpr std::size_t kMaxArgumentsBytes = 32U << 10;
  static constexpr std::size_t kMaxTaskFileBytes = 16U << 10;
  static constexpr std::size_t kMaxNodeFileBytes = 1U << 20;

  // Jobs that are elsewhere, or not here yet, and stand-ins of such: not shown.
  struct Hidden {
    std::set<std::uint64_t> jobs;
    std::set<std::uint32_t> pids;
    // Below it are each node's own: its init has pid 1 everywhere.
    std::uint32_t below_pid = 0;
  };
  // Gets a message of a round, to be sent before the next one is made.
  using Sink = std::function<void(wire::ViewDelta)>;

  // `proc`: a procfs of the cluster pid namespace; may differ from the last round's, after a
  // new cluster init: then all is read anew. `tasks`: who is there; those with the signature of
  // the last round are not looked at, but for now and then.
  [[nodiscard]] Result<void> begin_round(const std::string& proc, std::vector<TaskGlimpse> tasks,
                                         Hidden hidden, const Sink& sink);
  // Reads up to `count` processes. True: there are more.
  [[nodiscard]] bool step(std::size_t count, const Sink& sink);
  // The rest: who has gone, and the node's own files.
  void end_round(const Sink& sink);
  // The next round tells everything.
  void forget();

 private:
  struct Owner {
    std::uint32_t uid = 0;
    std::uint32_t gid = 0;
    std::uint32_t private_uid = 0;
    std::uint32_t private_gid = 0;
    bool operator==(const Owner&) const = default;
  };
  struct Files {
    std::string contents[std::size(kTaskFiles)];
    Owner owner;
  };
  struct Known {
    std::uint64_t start_ticks = 0;
    std::uint64_t job_id = 0;
    std::uint64_t seen_round = 0;
    std::uint64_t signature = 0;
    bool read = false;  // all files of this very process
    Owner owner;
    std::size_t hashes[std::size(kTaskFiles)] = {};
  };
  void read_task(const TaskGlimpse& glimpse, const Sink& sink);
  [[nodiscard]] std::optional<Files> read_files(std::uint32_t pid, std::string stat) const;
  [[nodiscard]] bool is_hidden(std::uint32_t pid, const Known& known) const;
  void add_file(Known& known, std::size_t index, std::string content, wire::ViewTask& task);
  // A process of the same owner that was told to have this environment; 0 for none.
  [[nodiscard]] std::uint32_t twin_of(std::uint32_t pid, const Known& known) const;
  void flush(const Sink& sink, bool last);

  Fd directory_;
  std::string proc_;
  std::uint64_t round_ = 0;
  Hidden hidden_;
  std::vector<TaskGlimpse> tasks_;
  std::size_t next_ = 0;
  std::unordered_map<std::uint32_t, Known> known_;
  std::map<std::string, std::size_t> node_hashes_;
  // By the hash of its environment: the last process that was told with it.
  std::unordered_map<std::size_t, std::uint32_t> environments_;
  std::string buffer_;
  bool full_ = true;
  std::size_t pending_bytes_ = 0;
  wire::ViewDelta pending_;
};

}  // namespace gestalt
