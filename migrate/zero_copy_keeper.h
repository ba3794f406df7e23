// A task that shares another process's memory, and does system calls on it while that process
// itself is frozen: the one through which its pages are pinned (migrate/zero_copy.h).
//
// It is cloned by injection while the process still runs, out of a task in between that ends at
// once, so that it is adopted by the pid namespace's init (or a subreaper) and is no part of the
// process's tree: CRIU does not see it. It has no descriptors but those that it is given, is in
// a session of its own, and its resource limits are its own: the process's are never touched.
// Until it ends it stands still, traced by a task of ours; it is killed when that one ends.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "migrate/injector.h"
#include "migrate/tracer_task.h"

namespace gestalt {

// process_vm_readv(2) and process_vm_writev(2), all of it or an error.
[[nodiscard]] Result<void> read_memory_of(pid_t pid, std::uint64_t address,
                                          std::span<std::byte> into);
[[nodiscard]] Result<void> write_memory_of(pid_t pid, std::uint64_t address,
                                           std::span<const std::byte> from);

// One thread at a time may use it.
class ZeroCopyKeeper {
 public:
  // Of a running process, one of whose threads is stopped meanwhile, for three system calls.
  // `group`: the directory of a cgroup2 group that will not be frozen (moving it there takes some
  // 10 ms), or -1: it stays in the process's. kGone, kBusy, kBlocked as Injector::attach(); also
  // kBlocked: it cannot be had without the process or its relatives noticing.
  [[nodiscard]] static Result<std::unique_ptr<ZeroCopyKeeper>> start(pid_t process, int group);
  ~ZeroCopyKeeper() { end(); }
  ZeroCopyKeeper(const ZeroCopyKeeper&) = delete;
  ZeroCopyKeeper& operator=(const ZeroCopyKeeper&) = delete;

  [[nodiscard]] pid_t pid() const { return pid_; }
  // The kernel's result: negative errno values too.
  [[nodiscard]] Result<std::int64_t> call(long number, const Injector::Arguments& arguments);
  // New private memory of the process, which shows in its /proc/PID/maps. It goes with the keeper,
  // also should we crash. To be made only when nobody looks at the mappings any more.
  [[nodiscard]] Result<std::uint64_t> map(std::uint64_t bytes, int protection);
  // Gives it a copy of our descriptor, by way of 256 bytes of such memory; its number there.
  [[nodiscard]] Result<int> give(int fd, std::uint64_t scratch);
  [[nodiscard]] Result<void> put_code(std::uint64_t address, std::span<const std::uint8_t> code);
  // As Injector::run_code().
  [[nodiscard]] Result<void> run_code(std::uint64_t address, const Injector::Arguments& arguments,
                                      Deadline deadline);
  // Takes its memory out of the process, and ends it.
  void end();

  struct Mapping {
    std::uint64_t start = 0;
    std::uint64_t bytes = 0;
  };
  // After end(): what it could not take out, because it was killed by somebody else.
  [[nodiscard]] const std::vector<Mapping>& left_over() const { return mappings_; }

 private:
  explicit ZeroCopyKeeper(pid_t process) : process_(process) {}
  [[nodiscard]] Result<void> live(const std::function<void()>& serve);
  void set_limits() const;
  [[nodiscard]] Result<void> check_parent() const;

  pid_t process_;
  pid_t pid_ = 0;
  Injector* injector_ = nullptr;   // within the task
  std::vector<Mapping> mappings_;  // written within the task only
  TracerTask task_;
};

}  // namespace gestalt
