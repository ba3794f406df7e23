#include "daemon/view/view_worker.h"

#include <fcntl.h>
#include <sys/prctl.h>
#include <unistd.h>

#include <ctime>

#include "common/log.h"
#include "common/message_channel.h"
#include "common/paths.h"
#include "common/unix_socket.h"
#include "daemon/view/machine_fs.h"
#include "daemon/view/process_fs.h"

namespace gestalt {
namespace {

// For nodes that do not tell anything, to those who want to look.
constexpr auto kLongestWait = std::chrono::seconds(2);
constexpr auto kRetry = std::chrono::milliseconds(200);
constexpr auto kFetchTimeout = std::chrono::milliseconds(2500);

std::uint64_t boot_unix_nanoseconds() {
  timespec now{};
  timespec since_boot{};
  (void)::clock_gettime(CLOCK_REALTIME, &now);
  (void)::clock_gettime(CLOCK_BOOTTIME, &since_boot);
  return static_cast<std::uint64_t>(now.tv_sec - since_boot.tv_sec) * 1'000'000'000U +
         static_cast<std::uint64_t>(now.tv_nsec) - static_cast<std::uint64_t>(since_boot.tv_nsec);
}

std::string host_name() {
  char name[256] = {};
  (void)::gethostname(name, sizeof name - 1);
  return name;
}

class ViewWorker {
 public:
  explicit ViewWorker(uid_t viewer) : viewer_(viewer) {}

  Result<void> run(ViewWorkerOptions options) {
    GESTALT_ASSIGN(auto native, open_file("/proc", O_RDONLY | O_DIRECTORY));
    GESTALT_ASSIGN(auto native_too, duplicate(native.get()));
    GESTALT_ASSIGN(auto stat, read_file("/proc/stat"));
    std::uint32_t cpus = 0;
    for (auto at = stat.find("\ncpu"); at != std::string::npos; at = stat.find("\ncpu", at + 1))
      ++cpus;
    leader_ = host_name();
    model_.set_leader(leader_, boot_unix_nanoseconds(), cpus);
    ProcessFs processes(model_,
                        {.viewer = viewer_,
                         .hidepid = options.hidepid,
                         .native = std::move(native),
                         .native_path = kNativeProcPath,
                         .machine_path = kMachinePath,
                         .machine_names = MachineFs::names_in_proc(),
                         .on_cold_listing =
                             [fd = options.cold_listings.get()](std::uint64_t entries) {
                               (void)!::write(fd, &entries, sizeof entries);
                             }},
                        [this](const wire::ViewFetch& request, ProcessFs::OnFetched on_fetched) {
                          fetch(request, std::move(on_fetched));
                        });
    MachineFs machine(
        model_,
        {.leader = leader_, .native = std::move(native_too), .native_path = kNativeProcPath});
    processes_ = &processes;
    auto stop = [this] { loop_.stop(); };
    GESTALT_TRY(machine.serve(loop_, std::move(options.machine_device), stop));
    GESTALT_TRY(processes.serve(loop_, std::move(options.process_device), stop));
    connect();
    (void)loop_.after(kLongestWait, [this] { processes_->set_ready(); });
    loop_.run();
    return {};
  }

 private:
  void connect() {
    auto socket = connect_unix(paths::kViewSocket);
    if (!socket) {
      (void)loop_.after(kRetry, [this] { connect(); });
      return;
    }
    channel_ = std::make_unique<MessageChannel>(
        loop_, std::move(*socket),
        [this](wire::Message message) { on_message(std::move(message)); },
        [this](const Error& error) {
          log::info("lost gestaltd", log::field("error", error.text()));
          (void)loop_.after(kRetry, [this] { connect(); });
        });
    wire::Message hello;
    hello.mutable_view_hello()->set_uid(viewer_);
    (void)channel_->send(hello);
  }

  void on_message(wire::Message message) {
    if (message.has_view_delta())
      processes_->changed(model_.apply(std::move(*message.mutable_view_delta()), Clock::now()));
    else if (message.has_view_nodes())
      processes_->changed(model_.set_nodes(message.view_nodes()));
    else if (message.has_view_node_gone())
      processes_->changed(model_.remove_node(message.view_node_gone().node()));
    if (model_.complete()) processes_->set_ready();
  }

  void fetch(const wire::ViewFetch& request, ProcessFs::OnFetched on_fetched) {
    if (!channel_ || !channel_->open())
      return on_fetched(fail(ErrorCode::kUnavailable, "no connection to the leader's daemon"));
    wire::Message message;
    *message.mutable_view_fetch() = request;
    channel_->request(std::move(message), kFetchTimeout,
                      [on_fetched = std::move(on_fetched)](Result<wire::Message> reply) {
                        if (!reply) return on_fetched(std::unexpected(std::move(reply).error()));
                        on_fetched(std::move(*reply->mutable_view_fetched()));
                      });
  }

  uid_t viewer_;
  std::string leader_;
  EventLoop loop_;
  ClusterModel model_;
  ProcessFs* processes_ = nullptr;
  std::unique_ptr<MessageChannel> channel_;
};

}  // namespace

Result<void> run_view_worker(ViewWorkerOptions options) {
  ViewWorker worker(options.viewer);
  return worker.run(std::move(options));
}

}  // namespace gestalt
