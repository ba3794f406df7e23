// The place at home of a process that has a deputy there, made free for it: it becomes its
// parent's real child again, under its old pid.
//
// By one of the parent's own children, the deputy, a launcher is made another one of them
// (daemon/launcher/), which starts CRIU, likewise a child of the parent's, and so is what CRIU
// restores (clone(2), CLONE_PARENT). While the parent is held (migrate/held_process.h) the deputy
// is ended and its status collected in the parent's name, CRIU restores, and then the parent goes
// on. It is held once more, to collect launcher and CRIU. If anything fails, the launcher makes a
// new deputy under the old pid.
#pragma once

#include <sys/types.h>

#include <array>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "common/cgroup.h"
#include "common/fd.h"
#include "common/proto/control.pb.h"
#include "migrate/criu_client.h"
#include "migrate/held_process.h"
#include "migrate/launcher_orders.h"

namespace gestalt {

// Not thread-safe. The deputy's own state is told by DeputyState.
class HomePlace {
 public:
  // Listens for the deputy, which is process `root`, and is to be told to connect there.
  // kBlocked: the process cannot come home; why.
  [[nodiscard]] static Result<std::unique_ptr<HomePlace>> create(std::uint64_t job_id, pid_t root);
  // The same, of what stands in the way already; changes nothing.
  [[nodiscard]] static Result<void> check(pid_t root);
  // Does what give_up() does, unless finish() has succeeded.
  ~HomePlace();

  [[nodiscard]] static std::string socket_path(std::uint64_t job_id);

  // The deputy relays nothing from now on, unless we give up. Then the launcher is made.
  [[nodiscard]] Result<wire::DeputyState> pause_deputy(Deadline deadline);
  // Our copy of one of its standard streams, 0 to 2; -1: it has none. After pause_deputy().
  [[nodiscard]] int stream(int number) const {
    return streams_[static_cast<std::size_t>(number)].get();
  }
  // So much of output `number`, 1 or 2, was written in the deputy's stead: should there be another
  // deputy, it goes on behind that.
  void written_for_deputy(int number, std::uint64_t bytes);
  // The control group of its session.
  [[nodiscard]] Cgroup& home_group() { return *home_group_; }

  // CRIU in the place from where it restores.
  [[nodiscard]] Result<CriuClient> start_criu(const CriuStart& options);
  // Parent and children are as they were, and the parent is held; the deputy has ended. What
  // give_up() does later takes the deputy's state as it was.
  [[nodiscard]] Result<void> make_room(Deadline deadline);
  // The process is there, under its pid: the parent goes on.
  [[nodiscard]] Result<void> occupied();
  // Before CRIU or what it has restored is ended: the parent is not to see that.
  void hide_end();
  // The process runs, for good: nothing of all this is left.
  void finish();
  // Nothing of CRIU or of what it restored is left: there is a deputy again.
  void give_up();

 private:
  struct Identity {
    std::vector<std::int32_t> user_ids;   // real, effective, saved
    std::vector<std::int32_t> group_ids;  // likewise
    std::string name;
    std::vector<std::string> argv;
  };

  HomePlace(std::uint64_t job_id, pid_t root) : job_id_(job_id), root_(root) {}
  [[nodiscard]] Result<void> look();
  [[nodiscard]] Result<void> look_at_neighbours();
  [[nodiscard]] Result<void> read_identity();
  [[nodiscard]] Result<Fd> await_peer(pid_t pid, Deadline deadline);
  [[nodiscard]] Result<wire::DeputyState> ask_deputy(Deadline deadline);
  [[nodiscard]] Result<void> launch(Deadline deadline);
  [[nodiscard]] Result<std::int64_t> order(LaunchRequest request);
  [[nodiscard]] Result<void> hold_parent();
  [[nodiscard]] Result<void> move_neighbours(pid_t group);
  [[nodiscard]] Result<void> end_child(pid_t pid);
  [[nodiscard]] Result<void> await_free_pid(Deadline deadline);
  [[nodiscard]] Result<LaunchRequest> deputy_request(LaunchOrder order, Fd& state) const;
  [[nodiscard]] Result<void> make_deputy();
  void restore_foreground();
  void release_parent();
  void remove_helpers();

  std::uint64_t job_id_;
  pid_t root_;
  pid_t parent_ = 0;
  pid_t group_ = 0;
  pid_t session_ = 0;
  std::vector<pid_t> neighbours_;  // in the group that it leads
  std::vector<pid_t> moved_;       // of these, now in the launcher's group
  bool in_foreground_ = false;
  Identity identity_;
  std::optional<Cgroup> home_group_;
  std::string path_;
  Fd listener_;
  Fd deputy_;    // the connection
  Fd launcher_;  // likewise
  Fd criu_;      // a copy of its socket: CRIU ends with the last of them
  pid_t launcher_pid_ = 0;
  pid_t criu_pid_ = 0;
  std::array<Fd, 3> streams_;
  wire::DeputyState state_;
  std::string kinds_;  // of its standard streams, as a deputy is told
  std::unique_ptr<HeldProcess> parent_held_;
  bool deputy_ended_ = false;
  bool finished_ = false;
};

}  // namespace gestalt
