// A `criu swrk` process and the RPC protocol to it (CRIU's rpc.proto).
#pragma once

#include <functional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "common/child.h"
#include "common/clock.h"
#include "common/fd.h"
#include "common/result.h"
#include "rpc.pb.h"

namespace gestalt {

struct CriuStart {
  // {ours, number that CRIU shall see}: for inherit_fd, page-server socket, terminal.
  std::vector<std::pair<int, int>> descriptors;
  int cgroup_fd = -1;  // restored processes start in CRIU's own control group
  // The process to be dumped. Reading the resource limits of somebody else's takes
  // CAP_SYS_RESOURCE, or the same real ids: where root lacks the one, CRIU gets the other.
  pid_t target = 0;
  // For dumps without anonymous memory (migrate/state_dump.h). Of no effect where the library is
  // not installed.
  bool state_only = false;
  std::string smaps_directory;  // of snapshot_smaps(), by the time of the dump; may be empty
  pid_t group = 0;  // a process group to be in, if it is of this session; 0: the caller's
  int mounts = -1;  // a mount namespace to be in: the target's
  std::uint32_t personality = 0;  // of CRIU, which restored processes inherit
};

// The number under which a started CRIU has its end of the RPC socket.
inline constexpr int kCriuRpcDescriptor = 10;

class CriuClient {
 public:
  // CRIU becomes a child of this process, and so do the trees it restores (rst_sibling).
  [[nodiscard]] static Result<CriuClient> start(const CriuStart& options);
  // One that another has started, whose child it is: who has to end it.
  [[nodiscard]] static CriuClient of_another(Fd socket) { return CriuClient(0, std::move(socket)); }
  CriuClient(CriuClient&&) = default;
  CriuClient& operator=(CriuClient&&) = delete;
  ~CriuClient();  // kills CRIU if it still runs

  // Called at each of CRIU's notifications. After an error CRIU is told so (it gives up
  // where it can; from pre-resume on it goes on regardless), and no other is passed on.
  using Notify = std::function<Result<void>(std::string_view script)>;
  // Sends one request and serves notifications until the response. A response without
  // success is the notification's error, if there was one, else one that quotes CRIU's own log
  // (`log_path`).
  [[nodiscard]] Result<criu_resp> request(const criu_req& request, const Notify& notify,
                                          const std::string& log_path, Deadline deadline);
  // Ends CRIU, by force if it is still there after a moment, and reaps it.
  void end();

 private:
  CriuClient(pid_t pid, Fd socket) : pid_(pid), socket_(std::move(socket)) {}
  [[nodiscard]] Result<criu_resp> receive(Deadline deadline);

  pid_t pid_ = 0;
  Fd socket_;
};

// `criu check`: finds out what the kernel can do and leaves that for later runs, which
// are 50 ms quicker for it.
[[nodiscard]] SpawnOptions criu_check();

// The first errors of a CRIU log, for people; empty if there are none.
[[nodiscard]] std::string first_criu_errors(const std::string& log);

}  // namespace gestalt
