#pragma once

#include <sys/types.h>

#include "common/result.h"

namespace gestalt {

// Whether a process could be given this pid (or thread, group or session id) now, found by
// doing it: for a moment after its task has been reaped, a pid belongs to nobody and is not
// free either (the kernel's release_task()). Needs CAP_SYS_ADMIN or CAP_CHECKPOINT_RESTORE.
// Thread-safe.
[[nodiscard]] Result<bool> pid_is_free(pid_t pid);

}  // namespace gestalt
