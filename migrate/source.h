// The source's end of a migration.
#pragma once

#include <memory>
#include <mutex>
#include <string>
#include <string_view>

#include "common/cgroup.h"
#include "migrate/criu_client.h"
#include "migrate/image_transfer.h"
#include "migrate/migration.h"
#include "migrate/page_wire.h"
#include "migrate/process_tree.h"
#include "migrate/state.h"
#include "migrate/verdict.h"

namespace gestalt {

// What the engine needs of the process that owns the unit. Called on the engine's thread.
class SourceHost {
 public:
  virtual ~SourceHost() = default;
  // The unit is about to be frozen: keep what comes for it (signals) from now on.
  virtual void before_freeze() = 0;
  // The unit is frozen: stop relaying, rescue what lies in pipes, and give all that the
  // destination's host needs (opaque here, at most kMaxHandoverBytes).
  [[nodiscard]] virtual Result<std::string> freeze_io() = 0;
  // The unit goes on here: relay again (if freeze_io was called), deliver what was kept.
  virtual void resume_io() = 0;
  // Asks the leader; returns once it granted or denied. kTimeout by the deadline means
  // that it was not asked successfully or did not answer: the question stays open.
  [[nodiscard]] virtual Result<Verdict> ask(Deadline deadline) = 0;
  // The final verdict of a granted migration: kCompleted or kRolledBack. Waits as long
  // as it takes, because only the leader knows.
  [[nodiscard]] virtual Verdict await_outcome() = 0;
  virtual void progress(std::string_view phase, std::uint64_t done_bytes,
                        std::uint64_t total_bytes) = 0;
};

struct SourceUnit {
  pid_t root = 0;
  Cgroup* group = nullptr;  // holds exactly the unit
  std::string address;      // where the destination listens
  std::uint16_t port = 0;
};

class MigrationSource {
 public:
  MigrationSource(MigrationParameters parameters, SourceUnit unit, SourceHost& host);

  // Moves the unit by mode eager. On success the unit's processes here have been
  // killed (the host reaps them). On an error they run here as before.
  [[nodiscard]] Result<MigrationReport> run();
  // After run() failed: the destination need not wait. To be called once the leader
  // knows, so that it hears of the cause before it hears of the consequence.
  void tell_destination(const Error& error);
  // Makes run() fail soon, if the leader has not granted. From any thread.
  void cancel();

 private:
  [[nodiscard]] Result<void> move_until_granted();
  [[nodiscard]] Result<void> connect();
  [[nodiscard]] Result<void> preflight();
  [[nodiscard]] Result<void> dump();
  [[nodiscard]] Result<void> freeze();
  [[nodiscard]] Result<void> send_state();
  [[nodiscard]] Result<void> send_pages();
  [[nodiscard]] Result<void> await_ready();
  [[nodiscard]] Result<void> ask_leader();
  [[nodiscard]] Result<MigrationReport> finish_granted();
  [[nodiscard]] Error roll_back(Error cause);
  [[nodiscard]] criu_req dump_request(int image_fd, std::uint16_t taken_port) const;
  void enter(SourceState state);

  MigrationParameters parameters_;
  SourceUnit unit_;
  SourceHost& host_;
  StateMachine<SourceState> state_;
  std::unique_ptr<PageConnection> connection_;
  std::unique_ptr<ImageDirectory> images_;
  std::mutex connection_mutex_;  // guards the pointer against cancel()
  bool cancelled_ = false;
  ProcessTree tree_;
  std::string handover_;
  MigrationReport report_;
  Clock::time_point started_;
  Clock::time_point frozen_at_;
  bool group_frozen_ = false;  // must be thawed
  bool held_ = false;          // CRIU may let go
  bool io_held_ = false;       // before_freeze was called
};

}  // namespace gestalt
