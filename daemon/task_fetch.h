// One file, link or directory of a process, read for a view on demand.
#pragma once

#include <string>

#include "common/proto/control.pb.h"
#include "common/result.h"

namespace gestalt {

// `proc`: a procfs of the cluster pid namespace. The path must stay inside /proc/PID, follow no
// link and not be memory itself. kGone if there is no such process or entry (any more);
// kPermission if it is private and neither its owner nor root reads.
[[nodiscard]] Result<wire::ViewFetched> fetch_of_task(const std::string& proc,
                                                      const wire::ViewFetch& request);

}  // namespace gestalt
