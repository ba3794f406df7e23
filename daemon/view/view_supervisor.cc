#include "daemon/view/view_supervisor.h"

#include <fcntl.h>
#include <sched.h>
#include <sys/epoll.h>
#include <sys/file.h>
#include <sys/mount.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <csignal>

#include "common/child.h"
#include "common/format.h"
#include "common/log.h"
#include "common/paths.h"
#include "common/unix_socket.h"

namespace gestalt {
namespace {

constexpr auto kHeartbeat = std::chrono::seconds(1);
constexpr auto kHungAfter = std::chrono::seconds(3);
constexpr auto kRestart = std::chrono::milliseconds(100);
constexpr auto kRestartAfterFailures = std::chrono::seconds(10);
constexpr int kManyFailures = 5;
constexpr auto kGoodRun = std::chrono::seconds(10);
constexpr auto kUnusedFor = std::chrono::seconds(60);
constexpr int kProcessDevice = 10;  // descriptors of the worker
constexpr int kMachineDevice = 11;
constexpr int kColdListings = 12;

}  // namespace

std::string view_session_socket(uid_t viewer) {
  return formatted("{}{}.sock", paths::kViewSessions, viewer);
}

Result<bool> ViewSupervisor::start() {
  GESTALT_ASSIGN(lock_,
                 open_file(formatted("{}/view-{}.lock", paths::kRunDirectory, options_.viewer),
                           O_RDWR | O_CREAT));
  if (::flock(lock_.get(), LOCK_EX | LOCK_NB) != 0) {
    if (errno == EWOULDBLOCK) return false;
    return fail_errno(errno, "lock the view");
  }
  // Ours stays as it is now: /proc is native here for ever.
  if (::unshare(CLONE_NEWNS) != 0) return fail_errno(errno, "make a mount namespace");
  if (::mount("none", "/", nullptr, MS_REC | MS_SLAVE, nullptr) != 0)
    return fail_errno(errno, "make the mounts slaves of the node's");
  sigset_t set;
  sigemptyset(&set);
  sigaddset(&set, SIGCHLD);
  sigaddset(&set, SIGTERM);
  (void)::sigprocmask(SIG_BLOCK, &set, nullptr);
  signals_ = Fd(::signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK));
  if (!signals_) return fail_errno(errno, "make a signal descriptor");
  GESTALT_ASSIGN(mounts_, SessionMounts::make(loop_, options_.hidepid));
  socket_path_ = view_session_socket(options_.viewer);
  GESTALT_ASSIGN(listener_, listen_unix(socket_path_, 0600));
  loop_.watch(signals_.get(), EPOLLIN, [this](std::uint32_t) { on_signals(); });
  loop_.watch(listener_.get(), EPOLLIN, [this](std::uint32_t) { accept_session(); });
  last_needed_ = Clock::now();
  mount();
  (void)loop_.after(kHeartbeat, [this] { heartbeat(); });
  return true;
}

// The devices are mounted before the program gets them, and are the program's alone when it
// has them: its end is then the end of whatever waits for it.
void ViewSupervisor::mount() {
  auto process_device = open_file("/dev/fuse", O_RDWR);
  auto machine_device = open_file("/dev/fuse", O_RDWR);
  started_ = Clock::now();
  state_ = State::kMounting;
  if (!process_device || !machine_device) {
    const auto& error = process_device ? machine_device.error() : process_device.error();
    log::error("no FUSE on this node", log::field("error", error.text()));
    return failed();
  }
  auto devices =
      std::make_shared<std::pair<Fd, Fd>>(std::move(*process_device), std::move(*machine_device));
  mounts_->mount(
      devices->first.get(), devices->second.get(), [this, devices](const Result<void>& mounted) {
        if (mounted) return start_worker(std::move(*devices));
        log::error("the view is not mounted", log::field("error", mounted.error().text()));
        failed();
      });
}

void ViewSupervisor::start_worker(std::pair<Fd, Fd> devices) {
  SpawnOptions spawn_options;
  spawn_options.argv = {options_.program, "--worker",
                        "--uid",          std::to_string(options_.viewer),
                        "--hidepid",      std::to_string(options_.hidepid)};
  spawn_options.environment = {"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "LANG=C.UTF-8"};
  if (const char* level = std::getenv("GESTALT_LOG"))
    spawn_options.environment.push_back(formatted("GESTALT_LOG={}", level));
  spawn_options.descriptors = {{STDERR_FILENO, STDERR_FILENO},
                               {devices.first.get(), kProcessDevice},
                               {devices.second.get(), kMachineDevice}};
  auto listings = make_pipe();
  if (listings && set_nonblocking(listings->read.get(), true) &&
      set_nonblocking(listings->write.get(), true)) {
    spawn_options.descriptors.emplace_back(listings->write.get(), kColdListings);
    cold_listings_ = std::move(listings->read);
    loop_.watch(cold_listings_.get(), EPOLLIN, [this](std::uint32_t) { on_cold_listing(); });
  }
  (void)::stat(options_.program.c_str(), &program_);
  auto worker = spawn(spawn_options);
  devices.first.reset();
  devices.second.reset();
  if (!worker) {
    log::error("the view's program does not start", log::field("error", worker.error().text()));
    return failed();
  }
  worker_ = *worker;
  mounts_->bind([this](const Result<void>& bound) { complete(bound); });
}

void ViewSupervisor::complete(const Result<void>& bound) {
  if (worker_ == 0) return failed();
  if (!bound) {
    log::error("the view is not complete", log::field("error", bound.error().text()));
    (void)::kill(worker_, SIGKILL);
    return;
  }
  state_ = State::kUp;
  log::info("view mounted", log::field("uid", options_.viewer));
  let_in();
}

void ViewSupervisor::let_in() {
  ready_ = true;
  for (auto& socket : std::exchange(waiting_, {})) {
    serve_session(socket.get());
    sessions_.push_back(std::move(socket));
  }
}

void ViewSupervisor::failed() {
  bool good = std::exchange(replacing_, false) || Clock::now() - started_ > kGoodRun;
  failures_ = good ? 0 : failures_ + 1;
  uncover();
}

// Whatever the reason: the connections it served are gone, and readers get errors.
void ViewSupervisor::worker_ended(int status) {
  log::warning("the view's program ended", log::field("uid", options_.viewer),
               log::field("wait_status", status));
  worker_ = 0;
  if (cold_listings_) loop_.unwatch(cold_listings_.get());
  cold_listings_.reset();
  // A step under way fails by itself now, and is answered first.
  if (!mounts_->busy()) failed();
}

// A listing that is helped is over sooner; one that is not is none the worse.
void ViewSupervisor::on_cold_listing() {
  std::uint64_t entries = 0;
  auto count = ::read(cold_listings_.get(), &entries, sizeof entries);
  if (count == 0) return loop_.unwatch(cold_listings_.get());
  if (count != sizeof entries || state_ != State::kUp || mounts_->busy()) return;
  mounts_->read_ahead(entries, [](const Result<void>& begun) {
    if (!begun) log::info("nothing read ahead", log::field("error", begun.error().text()));
  });
}

void ViewSupervisor::uncover() {
  if (state_ == State::kUnmounting) return;
  state_ = State::kUnmounting;
  mounts_->unmount([this](const Result<void>&) {
    state_ = State::kDown;
    bool many = failures_ >= kManyFailures;
    if (many) let_in();  // sessions go on with the native /proc
    (void)loop_.after(many ? Clock::duration(kRestartAfterFailures) : Clock::duration(kRestart),
                      [this] { mount(); });
  });
}

void ViewSupervisor::on_signals() {
  signalfd_siginfo info;
  while (::read(signals_.get(), &info, sizeof info) == sizeof info)
    if (info.ssi_signo == SIGTERM) loop_.stop();
  int status = 0;
  pid_t pid = 0;
  while ((pid = ::waitpid(-1, &status, WNOHANG)) > 0)
    if (pid == worker_) worker_ended(status);
}

void ViewSupervisor::heartbeat() {
  (void)loop_.after(kHeartbeat, [this] { heartbeat(); });
  stop_when_unused();
  if (probing_ || state_ == State::kMounting) {
    auto since = probing_ ? asked_ : started_;
    if (Clock::now() - since > kHungAfter) hung();
    return;
  }
  if (state_ != State::kUp || mounts_->busy()) return;
  if (worker_ != 0 && !replacing_ && program_replaced()) {
    log::info("the view's program was replaced: the new one is started",
              log::field("uid", options_.viewer));
    replacing_ = true;
    (void)::kill(worker_, SIGKILL);
    return;
  }
  asked_ = Clock::now();
  probing_ = true;
  mounts_->probe([this](const Result<void>& alive) {
    probing_ = false;
    if (!alive && worker_ != 0) {
      log::error("the view does not work", log::field("error", alive.error().text()));
      (void)::kill(worker_, SIGKILL);
    }
    if (worker_ == 0) failed();
  });
}

// By an upgrade: sessions stay for days, and are to get what it mends.
bool ViewSupervisor::program_replaced() const {
  struct stat now{};
  if (::stat(options_.program.c_str(), &now) != 0) return false;  // amid an upgrade
  return now.st_dev != program_.st_dev || now.st_ino != program_.st_ino ||
         now.st_mtim.tv_sec != program_.st_mtim.tv_sec ||
         now.st_mtim.tv_nsec != program_.st_mtim.tv_nsec;
}

// The end of the program ends its connections, and with them all that waits.
void ViewSupervisor::hung() {
  if (worker_ == 0) return;
  log::error("the view hangs: its program is ended", log::field("uid", options_.viewer));
  (void)::kill(worker_, SIGKILL);
}

void ViewSupervisor::accept_session() {
  Fd socket(::accept4(listener_.get(), nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK));
  if (!socket) return;
  auto peer = peer_credentials(socket.get());
  if (!peer || peer->uid != 0) return;
  last_needed_ = Clock::now();
  if (!ready_) {
    waiting_.push_back(std::move(socket));
    return;
  }
  serve_session(socket.get());
  sessions_.push_back(std::move(socket));
}

void ViewSupervisor::serve_session(int socket) {
  int fds[] = {mounts_->namespace_fd()};
  if (auto sent = send_fds(socket, fds); !sent)
    log::info("session not served", log::field("error", sent.error().text()));
  loop_.watch(socket, EPOLLIN, [this, socket](std::uint32_t) {
    loop_.unwatch(socket);
    std::erase_if(sessions_, [socket](const Fd& each) { return each.get() == socket; });
    last_needed_ = Clock::now();
  });
}

void ViewSupervisor::stop_when_unused() {
  if (!sessions_.empty() || !waiting_.empty() || Clock::now() - last_needed_ < kUnusedFor) return;
  log::info("view no longer needed", log::field("uid", options_.viewer));
  // Before the lock is free for the next one.
  (void)::unlink(socket_path_.c_str());
  loop_.stop();
}

}  // namespace gestalt
