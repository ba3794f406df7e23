// The destination's end of a migration.
#pragma once

#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "common/cgroup.h"
#include "migrate/criu_client.h"
#include "migrate/image_transfer.h"
#include "migrate/migration.h"
#include "migrate/page_sink.h"
#include "migrate/page_wire.h"
#include "migrate/state.h"
#include "migrate/verdict.h"

namespace gestalt {

// How the descriptors that lead out of the unit are reconnected.
struct RestorePlan {
  // {CRIU's key, for instance "pipe:[123]" as it was at the source; our descriptor}
  std::vector<std::pair<std::string, int>> inherited;
  int terminal = -1;  // becomes CRIU's stdin: the unit's terminal
  pid_t root = 0;     // the pid that the restored root must have
};

// What the engine needs of the process that will own the unit. Called on the engine's
// thread.
class DestinationHost {
 public:
  virtual ~DestinationHost() = default;
  virtual void listening(std::uint16_t port) = 0;
  // Makes this end's pipes and terminal from what the source's host handed over.
  [[nodiscard]] virtual Result<RestorePlan> prepare_io(const std::string& handover) = 0;
  // The leader's verdict; returns once it is other than undecided, or by the deadline.
  [[nodiscard]] virtual Result<Verdict> await_verdict(Deadline deadline) = 0;
  // Restored, about to run: `root` is a child of this process now.
  [[nodiscard]] virtual Result<void> before_resume(pid_t root) = 0;
  // It runs: tell the leader, start relaying.
  virtual void resumed(pid_t root) = 0;
  // Whether the leader has confirmed: kCompleted or kRolledBack by the deadline.
  [[nodiscard]] virtual Result<Verdict> await_confirmation(Deadline deadline) = 0;
};

class MigrationDestination {
 public:
  // `group`: an empty control group, in which the unit will run.
  MigrationDestination(MigrationParameters parameters, std::string listen_address,
                       std::uint16_t port, Cgroup& group, DestinationHost& host);

  // Success: the unit runs here and the leader has confirmed it. Error: nothing of it
  // is left here.
  [[nodiscard]] Result<void> run();
  // After run() failed: the source need not wait. To be called once the leader knows, so
  // that it hears of the cause before it hears of the consequence.
  void tell_source(const Error& error);
  // Makes run() fail soon, if the unit does not run here yet. From any thread.
  void cancel();

 private:
  [[nodiscard]] Result<void> receive_unit();
  [[nodiscard]] Result<void> accept_source();
  [[nodiscard]] Result<std::string> receive_handover();
  [[nodiscard]] Result<void> restore(const RestorePlan& plan);
  [[nodiscard]] Result<void> on_restored(PageSink& sink);
  [[nodiscard]] Result<void> confirm();
  [[nodiscard]] criu_req restore_request(const RestorePlan& plan) const;
  [[nodiscard]] bool is_cancelled();
  void destroy();
  void enter(DestinationState state) { state_.change(state_.get(), state); }

  MigrationParameters parameters_;
  std::string listen_address_;
  std::uint16_t port_;
  Cgroup& group_;
  pid_t root_ = 0;
  DestinationHost& host_;
  StateMachine<DestinationState> state_;
  std::unique_ptr<PageConnection> connection_;
  std::unique_ptr<ImageDirectory> images_;
  Fd image_fd_;
  std::mutex connection_mutex_;  // guards the pointer against cancel()
  bool cancelled_ = false;
  bool resumed_ = false;
};

}  // namespace gestalt
