// The processes of a migration unit, of which the pages that the destination lacks are registered
// where they are (migrate/zero_copy.h, one process each).
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <map>
#include <memory>
#include <vector>

#include "migrate/rdma_device.h"
#include "migrate/remote_ranges.h"
#include "migrate/zero_copy.h"

namespace gestalt {

// One thread at a time.
class ZeroCopyUnit {
 public:
  // Before the dump, while they run. Those with little memory are left to be staged, as are those
  // for which it cannot be done: no error.
  void prepare(const std::vector<pid_t>& pids, std::shared_ptr<RdmaDomain> domain);
  // In the freeze, once. At most so many ranges, the largest ones.
  [[nodiscard]] std::vector<RemoteRange> register_pages(
      const std::map<std::uint32_t, PageSet>& wanted, std::size_t most, Deadline deadline);
  [[nodiscard]] std::uint64_t pages() const { return pages_; }  // registered

  // Before the processes may run again, and when nobody reads any more. Again: nothing.
  void release();
  // After they run again.
  void clean_up();

 private:
  std::shared_ptr<RdmaDomain> domain_;
  std::map<pid_t, ZeroCopySource> sources_;
  std::vector<ZeroCopyRegistration> registrations_;
  std::uint64_t pages_ = 0;
};

}  // namespace gestalt
