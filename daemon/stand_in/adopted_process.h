// A process, with its descendants, that is to leave its node although its parent stays: a member
// of a session, or of another job on the leader. It becomes a job of its own, in whose stand-in
// this lives until it has left or is given back. What stays is its deputy, whose program attaches
// to the job as its client (cli/deputy_main.cc), and so has the standard streams relayed.
#pragma once

#include <memory>
#include <vector>

#include "common/cgroup.h"
#include "common/proto/control.pb.h"
#include "common/proto/handover.pb.h"
#include "migrate/blockers.h"
#include "migrate/deputize.h"

namespace gestalt {

// All that are in `from`, however many they become meanwhile. What cannot go there ends.
void move_members(Cgroup& from, Cgroup& to);

class AdoptedProcess {
 public:
  // Takes it and its descendants into `group`, which must outlive this. An error leaves them
  // where they were.
  [[nodiscard]] static Result<std::unique_ptr<AdoptedProcess>> adopt(pid_t pid, Cgroup& group);

  // Back to the control group that they were in. What cannot go back (its session is over) ends.
  void give_back();

  [[nodiscard]] pid_t parent_pid() const { return parent_pid_; }
  [[nodiscard]] pid_t session_pid() const { return session_pid_; }
  [[nodiscard]] pid_t group_pid() const { return group_pid_; }
  [[nodiscard]] const wire::Identity& identity() const { return identity_; }
  [[nodiscard]] int mounts() const { return mounts_.get(); }
  [[nodiscard]] int home_group() const { return home_->directory_fd(); }

  // Of the frozen process: how its standard streams and its terminal are to be made there.
  [[nodiscard]] Result<void> describe(wire::HandOver& hand_over);
  // After describe().
  [[nodiscard]] InjectedProgram deputy(std::uint64_t job_id) const;

 private:
  AdoptedProcess(pid_t pid, Cgroup& group) : pid_(pid), group_(group) {}
  [[nodiscard]] Result<void> look();
  [[nodiscard]] Result<void> take_tree();
  [[nodiscard]] std::string shared_file(int number) const;
  [[nodiscard]] Result<void> describe_terminal(wire::HandOver& hand_over, int number) const;
  [[nodiscard]] std::string descriptor_path(int number) const;

  pid_t pid_;
  Cgroup& group_;
  std::optional<Cgroup> home_;
  Fd mounts_;
  pid_t parent_pid_ = 0;
  pid_t session_pid_ = 0;
  pid_t group_pid_ = 0;
  wire::Identity identity_;
  wire::Stdio stdio_;
  std::uint64_t pending_signals_ = 0;  // that its image has, too
};

}  // namespace gestalt
