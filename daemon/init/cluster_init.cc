#include "daemon/init/cluster_init.h"

#include <sys/epoll.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>

#include "common/child.h"
#include "common/format.h"
#include "common/log.h"
#include "common/paths.h"
#include "common/unix_socket.h"
#include "migrate/criu_client.h"
#include "migrate/image_transfer.h"
#include "migrate/zero_copy_probe.h"

namespace gestalt {
namespace {

constexpr auto kGhostsRestart = std::chrono::milliseconds(500);
constexpr auto kDevicesPoll = std::chrono::seconds(5);

std::vector<std::string> helper_environment() {
  std::vector<std::string> out = {"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "LANG=C.UTF-8"};
  for (const char* name : {"GESTALT_LOG", "GESTALT_FAULT"})
    if (const char* value = std::getenv(name)) out.push_back(formatted("{}={}", name, value));
  return out;
}

// A child that finds out what there is to know once, and logs it.
Result<pid_t> spawn_probe(const char* what) {
  SpawnOptions probe;
  probe.argv = {paths::kInitProgram, what};
  probe.environment = {"PATH=/usr/sbin:/usr/bin:/sbin:/bin"};
  probe.descriptors = {{STDERR_FILENO, STDERR_FILENO}};
  return spawn(probe);
}

}  // namespace

Result<void> ClusterInit::start(const std::string& socket_path) {
  GESTALT_ASSIGN(auto keeper, PidSliceKeeper::open());
  slice_ = std::make_unique<PidSliceKeeper>(std::move(keeper));
  // A namespace's init gets no signal that it does not handle; SIGCHLD is read here.
  sigset_t set;
  sigfillset(&set);
  (void)::sigprocmask(SIG_SETMASK, &set, nullptr);
  sigemptyset(&set);
  sigaddset(&set, SIGCHLD);
  signals_ = Fd(::signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK));
  if (!signals_) return fail_errno(errno, "make a signal descriptor");
  loop_.watch(signals_.get(), EPOLLIN, [this](std::uint32_t) { reap(); });
  GESTALT_ASSIGN(listener_, listen_unix(socket_path, 0600));
  loop_.watch(listener_.get(), EPOLLIN, [this](std::uint32_t) { accept_agent(); });
  keep_slice();
  watch_for_module();
  start_probe();
  watch_devices();
  log::info("cluster pid namespace ready");
  return {};
}

ClusterInit::ClusterInit()
    : device_probe_([] { return spawn_probe("--probe-devices"); },
                    [](const DeviceProbe::Devices& devices) {
                      return all_work(known_zero_copy(), devices);
                    }) {}

void ClusterInit::start_probe() {
  auto devices = rdma_devices();
  auto pid = spawn_probe("--probe");
  if (!pid)
    log::warning("cannot find out what CRIU can do", log::field("error", pid.error().text()));
  else
    device_probe_.started(*pid, std::move(devices));
}

// Their events would come to the first network namespace only.
void ClusterInit::watch_devices() {
  device_probe_.look(rdma_devices());
  (void)loop_.after(kDevicesPoll, [this] { watch_devices(); });
}

void ClusterInit::watch_for_module() {
  auto opened = ModuleWatch::open();
  if (!opened) {
    log::warning("the module gestalt will not be noticed when it is loaded",
                 log::field("error", opened.error().text()));
    return;
  }
  module_watch_.emplace(std::move(*opened));
  loop_.watch(module_watch_->descriptor(), EPOLLIN, [this](std::uint32_t) {
    if (module_watch_->take()) slice_->look_for_module();
  });
}

void ClusterInit::keep_slice() {
  (void)loop_.after(slice_->poll(), [this] { keep_slice(); });
}

void ClusterInit::reap() {
  signalfd_siginfo info;
  while (::read(signals_.get(), &info, sizeof info) == sizeof info) {
  }
  bool crashed = false;
  int status = 0;
  for (pid_t pid = 0; (pid = ::waitpid(-1, &status, WNOHANG)) > 0;) {
    crashed = crashed || status != 0;
    device_probe_.ended(pid);
    if (pid != ghosts_) continue;
    ghosts_ = 0;
    (void)loop_.after(kGhostsRestart, [this] { spawn_ghosts(); });
  }
  // Perhaps a stand-in, amid a migration.
  if (crashed) remove_orphaned_images(paths::kImageDirectory);
}

void ClusterInit::accept_agent() {
  Fd socket(::accept4(listener_.get(), nullptr, nullptr, SOCK_CLOEXEC));
  if (!socket) return;
  auto peer = peer_credentials(socket.get());
  if (!peer || peer->uid != 0) {
    log::warning("refused a connection that is not root's");
    return;
  }
  auto place = agents_.emplace(agents_.end());
  *place = std::make_unique<MessageChannel>(
      loop_, std::move(socket),
      [this, place](const wire::Message& message) { on_message(**place, message); },
      [this, place](const Error&) { loop_.defer([this, place] { agents_.erase(place); }); });
  wire::Message hello;
  hello.mutable_init_hello()->set_init_pid(1);
  (void)(*place)->send(hello);
}

void ClusterInit::on_message(MessageChannel& agent, const wire::Message& message) {
  wire::Message reply;
  Result<void> done;
  if (message.has_spawn_stand_in() || message.has_spawn_view()) {
    auto pid = message.has_spawn_view() ? spawn_view(message.spawn_view())
                                        : spawn_stand_in(message.spawn_stand_in());
    if (pid) {
      reply.mutable_spawn_reply()->set_pid(static_cast<std::uint32_t>(*pid));
    } else {
      done = std::unexpected(std::move(pid).error());
    }
  } else if (message.has_set_pid_slice()) {
    done = slice_->set_slice(message.set_pid_slice().first(), message.set_pid_slice().last());
    reply.mutable_empty();
  } else {
    done = fail(ErrorCode::kProtocol, "gestalt-init does not know this message");
  }
  if (!done) {
    log::warning("request failed", log::field("error", done.error().text()));
    (void)agent.send(error_reply(message.request_id(), done.error()));
    return;
  }
  reply.set_request_id(message.request_id());
  reply.set_is_reply(true);
  (void)agent.send(reply);
}

Result<pid_t> ClusterInit::spawn_stand_in(const wire::SpawnStandIn& request) {
  if (!slice_->has_slice()) return fail(ErrorCode::kUnavailable, "this node has no pid slice yet");
  auto pid = static_cast<pid_t>(request.pid());
  SpawnOptions options;
  options.argv = {paths::kStandInProgram, "--job", std::to_string(request.job_id())};
  if (request.migration_id() != 0) {
    options.argv.emplace_back("--migration");
    options.argv.push_back(std::to_string(request.migration_id()));
  }
  options.environment = helper_environment();
  options.descriptors = {{STDERR_FILENO, STDERR_FILENO}};
  options.pid = pid;
  options.new_session = true;
  auto session = static_cast<pid_t>(request.session_pid());
  if (session != 0 && session != pid) {
    options.argv.emplace_back("--session-of");
    options.argv.push_back(std::to_string(pid));
    options.pid = session;
  }
  return spawn(options);
}

// From the first view on for ever.
void ClusterInit::spawn_ghosts() {
  if (ghosts_ != 0) return;
  SpawnOptions options;
  options.argv = {paths::kGhostsProgram, "--socket", paths::kViewSocket};
  options.environment = helper_environment();
  options.descriptors = {{STDERR_FILENO, STDERR_FILENO}};
  options.new_session = true;
  auto pid = spawn(options);
  if (pid) {
    ghosts_ = *pid;
  } else {
    log::error("signals do not reach other nodes", log::field("error", pid.error().text()));
  }
}

// One that finds another at work ends at once.
Result<pid_t> ClusterInit::spawn_view(const wire::SpawnView& request) {
  spawn_ghosts();
  SpawnOptions options;
  options.argv = {paths::kViewProgram, "--uid", std::to_string(request.uid()), "--hidepid",
                  std::to_string(request.hidepid())};
  options.environment = helper_environment();
  options.descriptors = {{STDERR_FILENO, STDERR_FILENO}};
  options.new_session = true;
  return spawn(options);
}

}  // namespace gestalt
