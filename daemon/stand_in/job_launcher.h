// Starts a job's program as its user.
#pragma once

#include <string>
#include <vector>

#include "common/cgroup.h"
#include "common/fd.h"
#include "common/proto/control.pb.h"
#include "common/result.h"
#include "daemon/stand_in/stdio_relay.h"

namespace gestalt {

// Namespaces to start in, each -1 for this process's own.
struct JobNamespaces {
  int mounts = -1;
  int network = -1;
};

// The program becomes a child of this process, the leader of a process group of its own
// and the terminal's foreground, a member of `group`, with the job's identity, limits,
// directory and environment. kExecNotFound and kExecDenied as execvp(3) has them.
[[nodiscard]] Result<pid_t> launch_job(const wire::JobSpec& spec, const StdioRelay& stdio,
                                       int terminal, Cgroup& group,
                                       const JobNamespaces& namespaces = {});

// A user's single view of the cluster, kept for as long as the socket is open.
struct ViewSession {
  Fd socket;
  Fd mounts;  // the mount namespace in which /proc is that view
};
// Waits for one that is only being mounted.
[[nodiscard]] Result<ViewSession> enter_view(uid_t uid, Deadline deadline);

// The paths that execvp(3) would try for this command in this environment.
[[nodiscard]] std::vector<std::string> program_candidates(
    const std::string& command, const std::vector<std::string>& environment);

}  // namespace gestalt
