// A frozen process's own pages as RDMA memory regions: registered where they are, readable
// one-sided by whoever has the keys, without a copy and nearly without work for this node's CPUs.
//
// A region pins the pages of the task that registers it. So a task that shares the process's
// memory, its keeper (migrate/zero_copy_keeper.h), makes the system calls, on a descriptor of our
// device context that we give it; the regions are ours, and outlive keeper and process until we
// end them. docs/zero-copy.md has the whole of it, its limits, and what was measured.
//
// A migration's source uses it in this order:
//
//   1. prepare()         while the process runs, shortly before CRIU's dump, after the pre-flight.
//                        A process whose keeper is not to be had is staged as a whole.
//   2. register_pages()  in the freeze: from CRIU's post-dump hook on, when no instruction of the
//                        process's own runs any more and CRIU has collected the mappings. CRIU may
//                        still be letting go of it: the keeper is not what CRIU traces. After the
//                        last harvest of the dirty tracker: soft-dirty bits do not clear on pinned
//                        pages. Afterwards there is no keeper any more.
//   3. ranges(), staged() go to the destination; it reads the ranges, and asks for the rest.
//   4. release()         before the process may run again, or when the destination has everything.
//                        A process that runs with regions still there would write into pages that
//                        others read: whoever thaws has to have destroyed the registration.
//
// It is the process's death that need not be waited for: pinned pages stay until release().
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "common/clock.h"
#include "common/fd.h"
#include "common/result.h"
#include "migrate/page_set.h"
#include "migrate/zero_copy_keeper.h"
#include "migrate/zero_copy_plan.h"
#include "migrate/zero_copy_verbs.h"

namespace gestalt {

// [start, end) of the process, readable at `remote_address` (= start) with `rkey`.
struct ZeroCopyRegion {
  std::uint64_t start = 0;
  std::uint64_t end = 0;
  std::uint64_t remote_address = 0;
  std::uint32_t rkey = 0;
  std::uint32_t handle = 0;  // the kernel's, in the device context
};

struct ZeroCopyStats {
  std::uint64_t regions = 0;
  std::uint64_t pages = 0;          // in regions and wanted
  std::uint64_t bridged_pages = 0;  // in regions and not wanted
  ZeroCopyRefusals refused{};       // pages that were wanted and are left to be staged, by reason
  std::string trouble;              // what went wrong last, if anything: for the log
  double plan_seconds = 0;
  double register_seconds = 0;
  double keeper_cpu_seconds = 0;  // of all its life
};

// The regions; ended at its end. They keep the device's context open. One thread at a time.
class ZeroCopyRegistration {
 public:
  ZeroCopyRegistration(ZeroCopyRegistration&&) noexcept = default;
  ZeroCopyRegistration& operator=(ZeroCopyRegistration&& other) noexcept;
  ~ZeroCopyRegistration() { release(); }

  // By address; empty if nothing could be registered, which is no error.
  [[nodiscard]] const std::vector<ZeroCopyRegion>& regions() const { return regions_; }
  // What was wanted and is in no region.
  [[nodiscard]] const PageSet& staged() const { return staged_; }
  [[nodiscard]] const ZeroCopyStats& stats() const { return stats_; }

  // Ends all regions: their keys are worth nothing from then on, and pages of a process that has
  // ended are free. Logs what cannot be ended. Again: nothing.
  void release();
  // Only if the keeper was killed by somebody else while it worked: takes its memory out of the
  // process. After the thaw.
  [[nodiscard]] Result<void> clean_up();
  [[nodiscard]] bool needs_clean_up() const { return !left_over_.empty(); }

 private:
  friend class ZeroCopySource;
  ZeroCopyRegistration(pid_t pid, Fd command, std::uint32_t driver)
      : pid_(pid), command_(std::move(command)), driver_(driver) {}

  pid_t pid_;
  Fd command_;
  std::uint32_t driver_;
  std::vector<ZeroCopyRegion> regions_;
  PageSet staged_;
  ZeroCopyStats stats_;
  std::vector<ZeroCopyKeeper::Mapping> left_over_;
};

// One process of which pages are to be registered. One thread at a time.
class ZeroCopySource {
 public:
  // Makes the keeper. `group` as for ZeroCopyKeeper::start(): not the one to be frozen. The
  // device has to stay open until register_pages(). Errors leave the process as it was.
  [[nodiscard]] static Result<ZeroCopySource> prepare(pid_t pid, const ZeroCopyDevice& device,
                                                      int group = -1);

  // Once, of the frozen process; ends the keeper. What cannot be registered is staged(), for
  // whichever reason; an error (kGone) only if the process has ended. No call of the kernel's
  // begins after the deadline.
  [[nodiscard]] Result<ZeroCopyRegistration> register_pages(const PageSet& wanted,
                                                            const ZeroCopyLimits& limits,
                                                            Deadline deadline);
  [[nodiscard]] pid_t keeper() const { return keeper_->pid(); }

 private:
  ZeroCopySource(pid_t pid, const ZeroCopyDevice& device, std::unique_ptr<ZeroCopyKeeper> keeper)
      : pid_(pid), device_(device), keeper_(std::move(keeper)) {}
  [[nodiscard]] Result<void> call_keeper(const std::vector<ZeroCopyRange>& ranges,
                                         Deadline deadline, std::vector<RegistrationCall>& calls);

  pid_t pid_;
  ZeroCopyDevice device_;
  std::unique_ptr<ZeroCopyKeeper> keeper_;
};

}  // namespace gestalt
