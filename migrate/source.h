// The source's end of a migration.
#pragma once

#include <condition_variable>
#include <future>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>

#include "common/cgroup.h"
#include "migrate/criu_client.h"
#include "migrate/deputize.h"
#include "migrate/image_transfer.h"
#include "migrate/migration.h"
#include "migrate/page_server.h"
#include "migrate/page_wire.h"
#include "migrate/precopy.h"
#include "migrate/process_tree.h"
#include "migrate/rdma_transport.h"
#include "migrate/state.h"
#include "migrate/state_dump.h"
#include "migrate/unit_network.h"
#include "migrate/verdict.h"
#include "migrate/zero_copy_unit.h"

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
  virtual void progress(const wire::MigrationProgress& progress) = 0;
  // The unit runs at the destination for good, which still needs pages from here. The
  // processes here stay frozen until run() returns, and are nobody's any more.
  virtual void serving(const wire::MigrationStats& so_far) = 0;
  // With SourceUnit::deputy_group: what is to stay of the root, now that the unit has moved.
  [[nodiscard]] virtual InjectedProgram deputy() = 0;
};

struct SourceUnit {
  pid_t root = 0;
  Cgroup* group = nullptr;  // holds exactly the unit
  std::string address;      // where the destination listens
  std::uint16_t port = 0;
  std::uint16_t rdma_port = 0;             // 0: it does not listen by RDMA,
  std::string rdma_reason;                 // and why not
  wire::MigrationDestination destination;  // may be empty
  UnitNetwork* network = nullptr;          // that it has to itself
  int mounts = -1;                         // the mount namespace that it leaves
  // The root's parent is another than the host: a deputy stays, in this cgroup2 directory. -1:
  // nothing stays.
  int deputy_group = -1;
};

class MigrationSource {
 public:
  MigrationSource(MigrationParameters parameters, SourceUnit unit, SourceHost& host);

  // Moves the unit. On success the unit's processes here have been killed (their parents
  // reap them), but for the root of one that leaves a deputy. On an error they run here as before.
  [[nodiscard]] Result<wire::MigrationStats> run();
  // After run() failed: the destination need not wait. To be called once the leader
  // knows, so that it hears of the cause before it hears of the consequence.
  void tell_destination(const Error& error);
  // Ids of all threads that run() has killed. To be asked when it has returned.
  [[nodiscard]] const std::vector<pid_t>& killed() const { return killed_; }
  // Makes run() fail soon, if the leader has not granted; or, once it only serves pages,
  // end soon: nobody needs them any more. From any thread.
  void cancel();

 private:
  [[nodiscard]] Result<void> move_until_granted();
  [[nodiscard]] Result<void> preflight();
  [[nodiscard]] Result<void> send_file_cache();
  [[nodiscard]] Result<void> prepare_dump();
  [[nodiscard]] Result<void> send_rounds();
  [[nodiscard]] Result<void> dump();
  [[nodiscard]] Result<void> hold_network();
  void reconnect_network();
  [[nodiscard]] Result<void> finish_dump();
  [[nodiscard]] Result<void> freeze();
  [[nodiscard]] Result<void> refuse_strays();
  [[nodiscard]] Result<void> send_state();
  [[nodiscard]] Result<void> write_traits();
  [[nodiscard]] Result<void> send_sets(const std::map<std::uint32_t, PageSet>& present,
                                       const std::map<std::uint32_t, PageSet>& fresh);
  [[nodiscard]] Result<std::uint64_t> send_remote_memory(
      const std::map<std::uint32_t, PageSet>& missing);
  void prepare_zero_copy();
  [[nodiscard]] Result<void> send_handover();
  [[nodiscard]] Result<void> await_ready();
  [[nodiscard]] Result<void> check_memory_advice();
  void tell_memory_advice();
  [[nodiscard]] Result<void> ask_leader();
  [[nodiscard]] Result<wire::MigrationStats> finish_granted();
  void end_copy(bool pages_stay);
  void leave_deputy(bool pages_stay);
  void serve_pages();
  void report_served(SourceState state);
  [[nodiscard]] Result<void> await_done();
  [[nodiscard]] bool reconnect_control();
  void fill_stats();
  [[nodiscard]] std::string smaps_directory() const { return images_->path() + "/smaps"; }
  void mark(std::string_view step);
  [[nodiscard]] Error roll_back(Error cause);
  [[nodiscard]] static std::string external_network(int descriptor);
  [[nodiscard]] criu_req dump_request(int image_fd, std::uint16_t taken_port) const;
  void enter(SourceState state);
  [[nodiscard]] bool is_cancelled();
  void take_paging_stats(const wire::MigrationStats& seen);

  // source_links.cc
  [[nodiscard]] Result<void> connect();
  [[nodiscard]] Result<std::unique_ptr<PageConnection>> open_link(std::uint64_t link,
                                                                  Deadline deadline);
  [[nodiscard]] Result<std::unique_ptr<PageConnection>> open_link_by(Transport& transport,
                                                                     std::uint16_t port,
                                                                     std::uint64_t link,
                                                                     Deadline deadline);
  [[nodiscard]] Result<std::unique_ptr<PageConnection>> open_rdma_link(std::uint64_t link,
                                                                       Deadline deadline);
  [[nodiscard]] Result<void> prepare_rdma(Deadline deadline);
  [[nodiscard]] Result<void> go_without_rdma(Error why);

  MigrationParameters parameters_;
  Strategy strategy_;
  SourceUnit unit_;
  SourceHost& host_;
  StateMachine<SourceState> state_;
  std::unique_ptr<PageConnection> connection_;  // the control link
  std::shared_ptr<RdmaDomain> domain_;          // null: all links are TCP
  std::unique_ptr<Transport> rdma_;             // while the links are made for the first time
  std::unique_ptr<PageServer> server_;
  ZeroCopyUnit zero_copy_;  // ended before the unit may run here again
  std::unique_ptr<DirtyTracker> tracker_;
  std::unique_ptr<Precopy> precopy_;
  std::unique_ptr<ImageDirectory> images_;
  Fd image_fd_;
  StateDump state_dump_ = StateDump::kLazy;
  std::optional<CriuClient> criu_;
  std::unique_ptr<Listener> taken_port_;
  std::future<Result<void>> dumping_;
  std::mutex connection_mutex_;  // guards connection_ and cancelled_ against cancel()
  std::condition_variable cancelled_changed_;
  bool cancelled_ = false;
  ProcessTree tree_;
  std::string handover_;
  wire::MigrationStats stats_;
  std::uint64_t missing_bytes_ = 0;   // what the freeze leaves to be fetched
  std::uint64_t pages_in_place_ = 0;  // read there, as the destination has reported
  std::uint64_t old_wire_bytes_ = 0;
  std::vector<pid_t> killed_;
  double cpu_seconds_at_start_ = 0;
  Clock::time_point started_;
  Clock::time_point frozen_at_;
  std::string timeline_;       // of the freeze, for the log
  bool group_frozen_ = false;  // must be thawed
  bool held_ = false;          // CRIU may let go
  bool io_held_ = false;       // before_freeze was called
  bool network_held_ = false;  // the unit's own
};

}  // namespace gestalt
