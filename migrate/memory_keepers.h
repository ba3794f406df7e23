// Which task has the memory of a process that has become something else (migrate/deputize.h).
// Thread-safe.
#pragma once

#include <map>
#include <mutex>
#include <shared_mutex>

#include "migrate/kernel.h"

namespace gestalt {

class MemoryKeepers {
 public:
  // From its return on nobody reads from the process itself.
  void add(pid_t pid, pid_t keeper) {
    std::unique_lock lock(mutex_);
    keepers_[pid] = keeper;
  }

  // Kernel::read_memory() of whoever has it.
  [[nodiscard]] Result<std::size_t> read(Kernel& kernel, pid_t pid, std::uint64_t address,
                                         std::span<std::byte> into) const {
    std::shared_lock lock(mutex_);
    auto found = keepers_.find(pid);
    return kernel.read_memory(found == keepers_.end() ? pid : found->second, address, into);
  }

 private:
  mutable std::shared_mutex mutex_;
  std::map<pid_t, pid_t> keepers_;
};

}  // namespace gestalt
