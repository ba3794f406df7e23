// Serves one user's view: listens to the leader's daemon and answers the kernel.
#pragma once

#include <sys/types.h>

#include <string>

#include "common/fd.h"
#include "common/result.h"

namespace gestalt {

struct ViewWorkerOptions {
  uid_t viewer = 0;
  int hidepid = 0;
  Fd process_device;  // /dev/fuse, mounted as /proc
  Fd machine_device;  // and where kMachinePath is
  Fd cold_listings;   // a pipe: a std::uint64_t as ProcessFsOptions::on_cold_listing has it
};

// Where the session's mount namespace has what the view refers to.
inline constexpr char kNativeProcPath[] = "/run/gestalt/proc";
inline constexpr char kMachinePath[] = "/run/gestalt/machine";

// Until one of the file systems is unmounted. Must see a native procfs as its own /proc.
[[nodiscard]] Result<void> run_view_worker(ViewWorkerOptions options);

}  // namespace gestalt
