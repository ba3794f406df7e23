// The destination's end of a migration.
#pragma once

#include <condition_variable>
#include <future>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <string_view>
#include <thread>
#include <utility>
#include <vector>

#include "common/cgroup.h"
#include "migrate/criu_client.h"
#include "migrate/file_cache.h"
#include "migrate/home_place.h"
#include "migrate/image_transfer.h"
#include "migrate/migration.h"
#include "migrate/page_sink.h"
#include "migrate/page_wire.h"
#include "migrate/rdma_transport.h"
#include "migrate/state.h"
#include "migrate/traits.h"
#include "migrate/unit_network.h"
#include "migrate/verdict.h"

namespace gestalt {

// How the descriptors that lead out of the unit are reconnected.
struct RestorePlan {
  // {CRIU's key, for instance "pipe:[123]" as it was at the source; our descriptor}
  std::vector<std::pair<std::string, int>> inherited;
  int terminal = -1;               // becomes CRIU's stdin: the unit's terminal
  std::string terminal_name;       // at the source: "/dev/pts/3"
  pid_t root = 0;                  // the pid that the restored root must have
  pid_t group = 0;                 // its process group, if it is not that of the host; 0: is
  UnitNetwork* network = nullptr;  // not connected; of a unit that had one to itself
  HomePlace* home = nullptr;       // it becomes the child of its own parent
};

// Where the source finds this end.
struct ListeningPorts {
  std::uint16_t tcp = 0;
  std::uint16_t rdma = 0;   // 0: not by RDMA,
  std::string rdma_reason;  // and why not
};

// What the engine needs of the process that will own the unit. Called on the engine's
// thread.
class DestinationHost {
 public:
  virtual ~DestinationHost() = default;
  virtual void listening(const ListeningPorts& ports) = 0;
  // Makes this end's pipes and terminal from what the source's host handed over.
  [[nodiscard]] virtual Result<RestorePlan> prepare_io(const std::string& handover) = 0;
  // The leader's verdict; returns once it is other than undecided, or by the deadline.
  [[nodiscard]] virtual Result<Verdict> await_verdict(Deadline deadline) = 0;
  // Restored, about to run: `root` is a child of this process now, or of its parent at home.
  [[nodiscard]] virtual Result<void> before_resume(pid_t root) = 0;
  // The leader wants it to run here: the last moment before it does.
  [[nodiscard]] virtual Result<void> granted() = 0;
  // It runs: tell the leader, start relaying.
  virtual void resumed(pid_t root) = 0;
  // Whether the leader has confirmed: kCompleted or kRolledBack by the deadline.
  [[nodiscard]] virtual Result<Verdict> await_confirmation(Deadline deadline) = 0;
  // After run(): every page is here and the source knows it. On a thread of the engine's;
  // close() must not be called from within.
  virtual void paging_finished() = 0;
};

class MigrationDestination {
 public:
  // `group`: an empty control group, in which the unit will run.
  MigrationDestination(MigrationParameters parameters, std::string listen_address,
                       std::uint16_t port, Cgroup& group, DestinationHost& host);

  ~MigrationDestination();

  // Success: the unit runs here and the leader has confirmed it, though pages may still
  // be at the source: keep this object until paging_finished(). Error: nothing of the
  // unit is left here.
  [[nodiscard]] Result<void> run();

  // After run(), from any thread but the host's callbacks.
  [[nodiscard]] bool paging();
  void hurry();  // fetch all pages now
  // Hurries and waits; kTimeout.
  [[nodiscard]] Result<void> finish_paging(Deadline deadline);
  // The unit's processes have all ended: no page is needed any more.
  void processes_ended();
  // Reads files ahead, perhaps longer than the migration takes: to be kept until it is of no use
  // any more. May be nothing. After run().
  [[nodiscard]] std::unique_ptr<FileWarmer> take_warmer() { return std::move(warmer_); }
  // Ends all threads and connections.
  void close();

  // After run() failed: the source need not wait. To be called once the leader knows, so
  // that it hears of the cause before it hears of the consequence.
  void tell_source(const Error& error);
  // Makes run() fail soon, if the unit does not run here yet. From any thread.
  void cancel();

 private:
  // destination.cc
  [[nodiscard]] Result<void> receive_unit();
  [[nodiscard]] Result<void> receive_file_cache();
  [[nodiscard]] Result<void> receive_sets();
  [[nodiscard]] Result<std::string> receive_handover();
  [[nodiscard]] Result<void> restore(const RestorePlan& plan);
  // Why: of all that failed, what made the rest fail.
  [[nodiscard]] Result<void> restore_failed(Result<criu_resp> response,
                                            const std::shared_future<Result<void>>& sets,
                                            std::future<Result<void>>& fetched);
  [[nodiscard]] Result<void> on_notify(std::string_view script);
  [[nodiscard]] Result<void> on_restored();
  void on_resumed();
  [[nodiscard]] Result<void> check_registered();
  [[nodiscard]] Result<void> confirm();
  [[nodiscard]] Result<void> connect_network();
  [[nodiscard]] criu_req restore_request(const RestorePlan& plan) const;
  [[nodiscard]] bool is_cancelled();
  [[nodiscard]] Result<CriuClient> start_criu(const CriuStart& start);
  void destroy();
  void enter(DestinationState state) { state_.change(state_.get(), state); }

  // destination_links.cc
  [[nodiscard]] Result<void> listen();
  [[nodiscard]] Result<void> listen_by_rdma();
  void accept_links(Listener& listener);
  void take_link(std::unique_ptr<PageConnection> connection, std::uint64_t link);
  [[nodiscard]] Result<void> await_control();
  void start_finisher();
  void tell_done();

  MigrationParameters parameters_;
  Strategy strategy_;
  std::string listen_address_;
  std::uint16_t port_;
  Cgroup& group_;
  pid_t root_ = 0;
  UnitNetwork* network_ = nullptr;
  HomePlace* home_ = nullptr;
  DestinationHost& host_;
  StateMachine<DestinationState> state_;
  std::unique_ptr<Listener> listener_;
  std::unique_ptr<Listener> rdma_listener_;     // may be null
  std::mutex attach_mutex_;                     // links come one after the other
  std::shared_ptr<PageConnection> connection_;  // the control link
  UserfaultKeeper keeper_;
  std::unique_ptr<PageSink> sink_;
  std::unique_ptr<FileWarmer> warmer_;
  std::vector<ProcessTraits> traits_;
  std::map<std::uint32_t, PageSet> present_;
  std::unique_ptr<ImageDirectory> images_;
  Fd image_fd_;
  std::mutex connection_mutex_;  // guards all below, and connection_
  std::condition_variable changed_;
  bool cancelled_ = false;
  bool pages_complete_ = false;
  bool source_knows_ = false;
  bool closing_ = false;
  bool resumed_ = false;
  double cpu_seconds_at_start_ = 0;
  std::jthread acceptor_;
  std::jthread rdma_acceptor_;
  std::jthread finisher_;
};

}  // namespace gestalt
