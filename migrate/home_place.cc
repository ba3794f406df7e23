#include "migrate/home_place.h"

#include <poll.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <filesystem>
#include <sstream>

#include "common/cgroup.h"
#include "common/format.h"
#include "common/frame.h"
#include "common/log.h"
#include "common/paths.h"
#include "common/pid_probe.h"
#include "common/proc.h"
#include "common/unix_socket.h"
#include "migrate/deputize.h"
#include "migrate/state_dump.h"

namespace gestalt {
namespace {

constexpr auto kPeerTimeout = std::chrono::seconds(3);
constexpr auto kEndTimeout = std::chrono::seconds(5);
constexpr auto kOrderTimeout = std::chrono::seconds(5);
constexpr auto kFreePidPoll = std::chrono::milliseconds(1);
constexpr std::size_t kMaxArguments = 128U << 10;
constexpr int kStateDescriptor = 3;
// In the held parent's memory.
constexpr std::size_t kSetAt = 0;
constexpr std::size_t kTimeAt = 64;
constexpr std::size_t kInfoAt = 128;

Fd open_process(pid_t pid) { return Fd(static_cast<int>(::syscall(SYS_pidfd_open, pid, 0))); }

std::vector<std::string> split(const std::string& text, char separator) {
  std::vector<std::string> out;
  std::istringstream parts(text);
  for (std::string part; std::getline(parts, part, separator);) out.push_back(std::move(part));
  return out;
}

std::string file_of(pid_t pid, const char* name) {
  auto text = read_file(formatted("/proc/{}/{}", pid, name), 8U << 20).value_or("");
  text.resize(std::min(text.size(), kMaxArguments));
  return text;
}

Result<void> read_frame(int socket, FrameDecoder& decoder, wire::Message& out, Deadline deadline) {
  std::byte buffer[4096];
  while (true) {
    GESTALT_ASSIGN(auto message, decoder.next());
    if (message) {
      out = std::move(*message);
      return {};
    }
    GESTALT_TRY(wait_for(socket, POLLIN, deadline));
    ssize_t count = ::recv(socket, buffer, sizeof buffer, 0);
    if (count == 0) return fail(ErrorCode::kGone, "the deputy has gone");
    if (count < 0) return fail_errno(errno, "hear the deputy");
    decoder.append(std::span(buffer, static_cast<std::size_t>(count)));
  }
}

void log_unless(const Result<void>& done, const char* what, pid_t pid) {
  if (!done) log::error(what, log::field("pid", pid), log::field("error", done.error().text()));
}

}  // namespace

std::string HomePlace::socket_path(std::uint64_t job_id) {
  return paths::kHomeSocket + std::to_string(job_id);
}

Result<std::unique_ptr<HomePlace>> HomePlace::create(std::uint64_t job_id, pid_t root) {
  std::unique_ptr<HomePlace> out(new HomePlace(job_id, root));
  GESTALT_TRY(out->look());
  out->path_ = socket_path(job_id);
  GESTALT_ASSIGN(out->listener_, listen_unix(out->path_, 0666));
  return out;
}

Result<void> HomePlace::check(pid_t root) {
  HomePlace place(0, root);
  return place.look();
}

HomePlace::~HomePlace() { give_up(); }

// ------------------------------------------------------------------ what there is

Result<void> HomePlace::look() {
  GESTALT_ASSIGN(auto stat, read_stat("/proc", root_));
  std::error_code error;
  auto program = std::filesystem::read_symlink(formatted("/proc/{}/exe", root_), error);
  if (program != kDeputyProgram)
    return fail(ErrorCode::kGone, formatted("process {} has no deputy here any more", root_));
  if (stat.state == 'T')
    return fail(ErrorCode::kBlocked, formatted("the deputy of process {} is stopped", root_),
                "continue it first (fg, bg, or kill -CONT)");
  parent_ = stat.parent_pid;
  group_ = stat.group_id;
  session_ = stat.session_id;
  GESTALT_ASSIGN(home_group_, Cgroup::of(root_));
  GESTALT_TRY(read_identity());
  return look_at_neighbours();
}

Result<void> HomePlace::read_identity() {
  std::istringstream lines(file_of(root_, "status"));
  bool no_new_privileges = false;
  for (std::string line; std::getline(lines, line);) {
    std::istringstream fields(line);
    std::string key;
    std::int32_t number = 0;
    fields >> key;
    auto* ids = key == "Uid:"   ? &identity_.user_ids
                : key == "Gid:" ? &identity_.group_ids
                                : nullptr;
    while (ids != nullptr && ids->size() < 3 && fields >> number) ids->push_back(number);
    if (key == "NoNewPrivs:" && fields >> number) no_new_privileges = number != 0;
  }
  if (identity_.user_ids.size() != 3 || identity_.group_ids.size() != 3)
    return fail(ErrorCode::kGone, formatted("process {} has ended", root_));
  if (no_new_privileges && identity_.user_ids[1] != 0)
    return fail(ErrorCode::kBlocked,
                formatted("process {} may not gain privileges (no_new_privs), and CRIU, which "
                          "restores it as a child of its parent, needs root's",
                          root_),
                "let it end where it is, or move it to another node");
  identity_.argv = split(file_of(root_, "cmdline"), '\0');
  for (const auto& entry : split(file_of(root_, "environ"), '\0')) {
    if (entry.starts_with("GESTALT_DEPUTY=")) kinds_ = entry.substr(0, entry.rfind(' '));
    if (entry.starts_with("GESTALT_DEPUTY_NAME=")) identity_.name = entry;
  }
  return {};
}

// A pid that is in use as that of a group or session cannot be given to a process.
Result<void> HomePlace::look_at_neighbours() {
  neighbours_.clear();
  if (group_ != root_ && session_ != root_) return {};
  GESTALT_ASSIGN(auto pids, list_pids("/proc"));
  for (pid_t pid : pids) {
    auto stat = read_stat("/proc", pid);
    if (!stat || pid == root_ || pid == launcher_pid_ || pid == criu_pid_) continue;
    // The deputy ends it when it stops relaying.
    if (stat->parent_pid == root_ && stat->comm == paths::kWitnessName) continue;
    if (stat->session_id == root_)
      return fail(ErrorCode::kBlocked,
                  formatted("process {} is in the session that {} leads", pid, root_),
                  "end it first, or let the process end where it is");
    if (stat->group_id != root_) continue;
    if (stat->state == 'Z')
      return fail(ErrorCode::kBusy,
                  formatted("process {} of its process group has ended, and its parent does not "
                            "collect its status",
                            pid),
                  "try again later");
    neighbours_.push_back(pid);
  }
  return {};
}

// ------------------------------------------------------------------ deputy and launcher

Result<Fd> HomePlace::await_peer(pid_t pid, Deadline deadline) {
  for (bool told = false;;) {
    GESTALT_TRY(wait_for(listener_.get(), POLLIN, deadline));
    Fd socket(::accept4(listener_.get(), nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK));
    if (!socket) continue;
    GESTALT_ASSIGN(auto peer, peer_credentials(socket.get()));
    if (peer.pid != pid) {
      // Anybody may try.
      if (!std::exchange(told, true))
        log::warning("not expected here", log::field("pid", peer.pid), log::field("uid", peer.uid));
      continue;
    }
    if (pid != root_ && peer.uid != 0)
      return fail(ErrorCode::kBlocked,
                  formatted("{} does not become root's: the file system does not allow that",
                            paths::kLauncherProgram),
                  "mount it without nosuid");
    return socket;
  }
}

Result<wire::DeputyState> HomePlace::ask_deputy(Deadline deadline) {
  wire::Message pause;
  pause.mutable_deputy_pause();
  GESTALT_ASSIGN(auto frame, encode_frame(pause));
  GESTALT_TRY(write_all(deputy_.get(), std::as_bytes(std::span(frame)), deadline));
  FrameDecoder decoder;
  wire::Message answer;
  while (!answer.has_deputy_state())
    GESTALT_TRY(read_frame(deputy_.get(), decoder, answer, deadline));
  return answer.deputy_state();
}

Result<wire::DeputyState> HomePlace::pause_deputy(Deadline deadline) {
  deadline = std::min(deadline, deadline_in(kPeerTimeout));
  auto connected = await_peer(root_, deadline);
  if (!connected)
    return fail(ErrorCode::kUnavailable,
                formatted("the deputy of process {} does not answer", root_),
                "continue it if it is stopped, and try again");
  deputy_ = std::move(*connected);
  GESTALT_ASSIGN(state_, ask_deputy(deadline));
  auto process = open_process(root_);
  for (int number = 0; number < 3; ++number)
    streams_[static_cast<std::size_t>(number)] =
        Fd(static_cast<int>(::syscall(SYS_pidfd_getfd, process.get(), number, 0)));
  GESTALT_TRY(launch(deadline));
  return state_;
}

void HomePlace::written_for_deputy(int number, std::uint64_t bytes) {
  if (number == STDOUT_FILENO) state_.set_output_offset(state_.output_offset() + bytes);
  if (number == STDERR_FILENO) state_.set_error_offset(state_.error_offset() + bytes);
}

Result<void> HomePlace::launch(Deadline deadline) {
  InjectedProgram program{.path = paths::kLauncherProgram,
                          .argv = {"gestalt-launcher", std::to_string(job_id_)},
                          .environment = {}};
  GESTALT_TRY(run_apart([&]() -> Result<void> {
    GESTALT_ASSIGN(auto deputy, Injector::attach_main(root_));
    GESTALT_ASSIGN(auto block, write_program(deputy, program));
    auto cloned = deputy.clone_as_sibling();
    (void)deputy.call(SYS_munmap, {block.start, block.bytes});
    if (!cloned) return std::unexpected(std::move(cloned).error());
    launcher_pid_ = cloned->pid();
    auto executed = cloned->execute(block.path, block.argv, block.environment, nullptr);
    // It would be a second deputy, with the same streams.
    if (!executed) (void)::kill(launcher_pid_, SIGKILL);
    return executed;
  }));
  GESTALT_ASSIGN(launcher_, await_peer(launcher_pid_, deadline));
  if (group_ != root_ && session_ != root_) return {};
  GESTALT_ASSIGN([[maybe_unused]] auto done,
                 order({.order = LaunchOrder::kOwnGroup, .numbers = {session_ == root_ ? 1 : 0}}));
  return {};
}

Result<std::int64_t> HomePlace::order(LaunchRequest request) {
  return order_launch(launcher_.get(), request, deadline_in(kOrderTimeout));
}

Result<CriuClient> HomePlace::start_criu(const CriuStart& options) {
  GESTALT_ASSIGN(auto sockets, make_socket_pair());
  LaunchRequest request{.order = LaunchOrder::kStart,
                        .numbers = {static_cast<std::int32_t>(options.personality)},
                        .argv = {paths::kCriuProgram, "swrk", std::to_string(kCriuRpcDescriptor)},
                        // As for the dump: it finds the node's own /proc in the session.
                        .environment = {"PATH=/usr/sbin:/usr/bin:/sbin:/bin",
                                        formatted("LD_PRELOAD={}", kStateDumpLibrary),
                                        "GESTALT_SESSION=1", "GESTALT_AT_HOME=1"},
                        .descriptors = options.descriptors};
  request.descriptors.emplace_back(sockets.theirs.get(), kCriuRpcDescriptor);
  GESTALT_ASSIGN(criu_, duplicate(sockets.ours.get()));
  GESTALT_ASSIGN(auto pid, order(std::move(request)));
  criu_pid_ = static_cast<pid_t>(pid);
  GESTALT_TRY(move_to_cgroup(options.cgroup_fd, criu_pid_));
  return CriuClient::of_another(std::move(sockets.ours));
}

// ------------------------------------------------------------------ the parent

Result<void> HomePlace::hold_parent() {
  if (parent_held_) return {};
  // It may have ended, and the deputy be another's child.
  if (!deputy_ended_) {
    GESTALT_ASSIGN(auto stat, read_stat("/proc", root_));
    parent_ = stat.parent_pid;
  }
  auto held = HeldProcess::hold(parent_);
  if (!held) return std::unexpected(std::move(held).error().in("stop its parent for a moment"));
  parent_held_ = std::move(*held);
  std::uint64_t set = 1ULL << (SIGCHLD - 1);
  timespec none{};
  GESTALT_TRY(parent_held_->put(kSetAt, &set, sizeof set));
  GESTALT_TRY(parent_held_->put(kTimeAt, &none, sizeof none));
  return {};
}

// What it hears of is what has changed apart from what was done here.
void HomePlace::release_parent() {
  if (!parent_held_) return;
  auto base = parent_held_->scratch();
  bool heard = false;
  while (true) {
    auto got = parent_held_->call(SYS_rt_sigtimedwait, {base + kSetAt, 0, base + kTimeAt, 8});
    if (!got || *got <= 0) break;
    heard = true;
  }
  siginfo_t info{};
  (void)parent_held_->put(kInfoAt, &info, sizeof info);
  constexpr auto kAll = WEXITED | WSTOPPED | WCONTINUED | WNOHANG | WNOWAIT;
  (void)parent_held_->call(SYS_waitid, {P_ALL, 0, base + kInfoAt, kAll, 0});
  (void)parent_held_->get(kInfoAt, &info, sizeof info);
  parent_held_.reset();
  if (heard && info.si_pid != 0) (void)::kill(parent_, SIGCHLD);
}

// The parent collects it without knowing.
Result<void> HomePlace::end_child(pid_t pid) {
  // While the parent is held its children keep their pids; others' pids are none of ours.
  auto process = open_process(pid);
  auto stat = read_stat("/proc", pid);
  if (process && stat && stat->parent_pid == parent_) {
    (void)::kill(pid, SIGKILL);
    GESTALT_TRY(wait_for(process.get(), POLLIN, deadline_in(kEndTimeout)));
  }
  auto children = static_cast<std::uint64_t>(pid);
  GESTALT_ASSIGN(auto waited, parent_held_->call(SYS_wait4, {children, 0, WNOHANG | __WALL, 0}));
  if (waited != pid && waited != -ECHILD)
    return fail(ErrorCode::kInternal,
                formatted("the status of process {} cannot be collected: {}", pid, waited));
  return {};
}

Result<void> HomePlace::await_free_pid(Deadline deadline) {
  while (true) {
    GESTALT_ASSIGN(bool free, pid_is_free(root_));
    if (free) return {};
    if (Clock::now() >= deadline)
      return fail(ErrorCode::kBusy, formatted("pid {} does not get free", root_));
    std::this_thread::sleep_for(kFreePidPoll);
  }
}

Result<void> HomePlace::move_neighbours(pid_t group) {
  if (group != root_) {
    GESTALT_TRY(look_at_neighbours());
    moved_.clear();
  }
  auto members = group == root_ ? std::exchange(moved_, {}) : neighbours_;
  for (pid_t pid : members) {
    std::int64_t result = 0;
    auto done = run_apart([&]() -> Result<void> {
      GESTALT_ASSIGN(auto member, Injector::attach(pid));
      GESTALT_ASSIGN(result, member.call(SYS_setpgid, {0, static_cast<std::uint64_t>(group)}));
      return {};
    });
    if (done && result < 0) done = fail_errno(static_cast<int>(-result), "change a process group");
    if (!done && done.error().code == ErrorCode::kGone) continue;
    if (!done && group != root_) return done;
    log_unless(done, "a process cannot go back to its group", pid);
    if (group != root_) moved_.push_back(pid);
  }
  return {};
}

void HomePlace::restore_foreground() {
  if (!in_foreground_) return;
  auto given = order({.order = LaunchOrder::kForeground, .numbers = {group_}});
  if (!given)
    log::error("the terminal's foreground group is lost",
               log::field("error", given.error().text()));
}

// ------------------------------------------------------------------ coming, or not

Result<void> HomePlace::make_room(Deadline deadline) {
  GESTALT_TRY(hold_parent());
  GESTALT_TRY(move_neighbours(launcher_pid_));
  GESTALT_ASSIGN(auto stat, read_stat("/proc", root_));
  in_foreground_ = group_ == root_ && stat.foreground_group == group_;
  Fd state;
  GESTALT_ASSIGN(auto deputy, deputy_request(LaunchOrder::kRemember, state));
  GESTALT_ASSIGN([[maybe_unused]] auto remembered, order(std::move(deputy)));
  GESTALT_TRY(end_child(root_));
  deputy_ended_ = true;
  return await_free_pid(std::min(deadline, deadline_in(kEndTimeout)));
}

Result<void> HomePlace::occupied() {
  (void)move_neighbours(root_);
  restore_foreground();
  auto forgotten = order({.order = LaunchOrder::kForget});
  release_parent();
  if (!forgotten) return std::unexpected(std::move(forgotten).error());
  return {};
}

void HomePlace::hide_end() {
  if (launcher_pid_ == 0 || finished_) return;
  log_unless(hold_parent(), "the parent cannot be held", parent_);
}

void HomePlace::remove_helpers() {
  for (pid_t* helper : {&criu_pid_, &launcher_pid_}) {
    if (*helper == 0) continue;
    if (parent_held_) {
      log_unless(end_child(*helper), "a helper is left", *helper);
    } else {
      (void)::kill(*helper, SIGKILL);
    }
    *helper = 0;
  }
  release_parent();
  criu_.reset();
  launcher_.reset();
  deputy_.reset();
  listener_.reset();
  (void)::unlink(path_.c_str());
}

void HomePlace::finish() {
  hide_end();
  finished_ = true;
  remove_helpers();
}

void HomePlace::give_up() {
  if (finished_) return;
  hide_end();
  finished_ = true;
  if (deputy_ended_) {
    log_unless(make_deputy(), "there is no deputy any more", root_);
  } else if (parent_held_) {
    (void)move_neighbours(root_);
  }
  if (!path_.empty()) remove_helpers();
}

Result<LaunchRequest> HomePlace::deputy_request(LaunchOrder order, Fd& state) const {
  state = Fd(::memfd_create("deputy-state", MFD_CLOEXEC));
  auto bytes = state_.SerializeAsString();
  GESTALT_TRY(write_all(state.get(), std::as_bytes(std::span(bytes)), deadline_in(kOrderTimeout)));
  LaunchRequest request{
      .order = order,
      .numbers = {root_, session_ == root_ ? kOwnSession
                         : group_ == root_ ? root_
                                           : 0},
      .argv = identity_.argv,
      .environment = {"PATH=/usr/sbin:/usr/bin:/sbin:/bin", kinds_ + " 0", identity_.name,
                      formatted("GESTALT_DEPUTY_STATE={}", kStateDescriptor)},
      .descriptors = {{state.get(), kStateDescriptor}}};
  for (const auto& ids : {identity_.user_ids, identity_.group_ids})
    request.numbers.insert(request.numbers.end(), ids.begin(), ids.end());
  return request;
}

Result<void> HomePlace::make_deputy() {
  if (criu_pid_ != 0 && parent_held_) (void)end_child(std::exchange(criu_pid_, 0));
  if (parent_held_) GESTALT_TRY(end_child(root_));
  auto deadline = deadline_in(kEndTimeout);
  // They are back in the group, if the process was there already; what it has started is not yet
  // collected, perhaps.
  auto moved = moved_.empty() ? move_neighbours(launcher_pid_) : Result<void>();
  while (!moved && Clock::now() < deadline) {
    std::this_thread::sleep_for(kFreePidPoll);
    moved = move_neighbours(launcher_pid_);
  }
  GESTALT_TRY(await_free_pid(deadline));
  Fd state;
  GESTALT_ASSIGN(auto request, deputy_request(LaunchOrder::kDeputy, state));
  GESTALT_ASSIGN([[maybe_unused]] auto pid, order(std::move(request)));
  (void)move_neighbours(root_);
  restore_foreground();
  log::info("deputy made again", log::field("pid", root_), log::field("parent", parent_));
  return {};
}

}  // namespace gestalt
