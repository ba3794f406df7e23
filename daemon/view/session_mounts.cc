#include "daemon/view/session_mounts.h"

#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <sys/epoll.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <csignal>
#include <functional>

#include "common/format.h"
#include "common/proc.h"
#include "common/unix_socket.h"
#include "daemon/view/process_entries.h"
#include "daemon/view/view_worker.h"

namespace gestalt {
namespace {

constexpr char kMount = 'M';
constexpr char kBind = 'B';
constexpr char kUnmount = 'U';
constexpr char kProbe = 'P';
constexpr char kReadAhead = 'R';
constexpr unsigned kReadAheadSeconds = 30;
constexpr auto kReady = std::chrono::seconds(10);

// What an order came to: an errno, and the step that failed.
struct Answer {
  int error_number = 0;
  char step[60] = {};
};

struct Bind {
  const char* from;
  const char* to;
};
// sysctl(8) asks for the real path of what it reads.
constexpr Bind kBinds[] = {{"/run/gestalt/proc/sys", "/proc/sys"},
                           {"/run/gestalt/machine/cpu", "/sys/devices/system/cpu"},
                           {"/run/gestalt/machine/node", "/sys/devices/system/node"}};

Answer failed(const char* step) {
  Answer out{.error_number = errno};
  std::string_view(step).copy(out.step, sizeof out.step - 1);
  return out;
}

bool mount_fuse(int device, const char* where) {
  auto options = formatted(
      "fd={},rootmode=40555,user_id=0,group_id=0,default_permissions,allow_other", device);
  return ::mount("gestalt", where, "fuse.gestalt", MS_NOSUID | MS_NODEV | MS_NOEXEC,
                 options.c_str()) == 0;
}

// As often as there is something of the view: a restart may have left two.
void uncover() {
  for (const auto& bind : kBinds)
    if (std::string_view(bind.to).starts_with("/sys")) (void)::umount2(bind.to, MNT_DETACH);
  (void)::umount2("/proc/sys", MNT_DETACH);
  (void)::umount2("/proc", MNT_DETACH);
  (void)::umount2(kMachinePath, MNT_DETACH);
}

Answer cover(int process_device, int machine_device) {
  if (!mount_fuse(machine_device, kMachinePath)) return failed("mount the machine's files");
  if (!mount_fuse(process_device, "/proc")) {
    auto out = failed("mount the view over /proc");
    (void)::umount2(kMachinePath, MNT_DETACH);
    return out;
  }
  return {};
}

Answer bind_all() {
  for (const auto& bind : kBinds) {
    // A kernel without NUMA has no node directory to cover.
    if (::mount(bind.from, bind.to, nullptr, MS_BIND, nullptr) == 0 || errno == ENOENT) continue;
    return failed(bind.to);
  }
  return {};
}

// By attributes that must come from who serves it, not from a cache.
Answer try_out() {
  for (const char* path : {"/proc", kMachinePath}) {
    struct statx out{};
    if (::statx(AT_FDCWD, path, AT_STATX_FORCE_SYNC, STATX_BASIC_STATS, &out) != 0)
      return failed(path);
  }
  return {};
}

void read_all(const std::string& path) {
  char buffer[16384];
  int fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
  while (fd >= 0 && ::read(fd, buffer, sizeof buffer) > 0) {
  }
  if (fd >= 0) (void)::close(fd);
}

// In a process of its own, which may wait for the view.
[[noreturn]] void read_upper_half(std::uint64_t entries) {
  (void)::prctl(PR_SET_PDEATHSIG, SIGKILL);
  (void)::prctl(PR_SET_NAME, "gestalt-ahead");
  (void)::alarm(kReadAheadSeconds);
  auto pids = list_pids("/proc").value_or(std::vector<pid_t>());
  std::ranges::sort(pids, std::greater());
  pids.resize(pids.size() / 2);
  for (pid_t pid : pids)
    for (std::size_t i = 0; i < process_entries().size(); ++i)
      if ((entries >> i & 1) != 0)
        read_all(formatted("/proc/{}/{}", pid, process_entries()[i].name));
  ::_exit(0);
}

Answer start_reading_ahead(int socket) {
  std::uint64_t entries = 0;
  Answer answer;
  if (::recv(socket, &entries, sizeof entries, 0) != sizeof entries) return failed("read ahead");
  pid_t reader = ::fork();
  if (reader == 0) read_upper_half(entries);
  return reader < 0 ? failed("read ahead") : answer;
}

[[noreturn]] void obey(int socket) {
  (void)::signal(SIGCHLD, SIG_IGN);  // nobody waits for those
  while (true) {
    char what = 0;
    if (::recv(socket, &what, 1, 0) != 1) ::_exit(0);
    Answer answer;
    if (what == kMount) {
      auto devices = receive_fds(socket, 2, deadline_in(kReady));
      if (devices) {
        answer = cover((*devices)[0].get(), (*devices)[1].get());
      } else {
        answer.error_number = EPROTO;
      }
    } else if (what == kBind) {
      answer = bind_all();
    } else if (what == kUnmount) {
      uncover();
    } else if (what == kReadAhead) {
      answer = start_reading_ahead(socket);
    } else {
      answer = try_out();
    }
    if (::send(socket, &answer, sizeof answer, MSG_NOSIGNAL) != sizeof answer) ::_exit(0);
  }
}

Answer enter_new_namespace(int hidepid) {
  if (::unshare(CLONE_NEWNS) != 0) return failed("make the sessions' mount namespace");
  // What the node mounts later appears here too; nothing of ours there.
  if (::mount("none", "/", nullptr, MS_REC | MS_SLAVE, nullptr) != 0) return failed("slave /");
  for (const char* path : {kNativeProcPath, kMachinePath})
    if (::mkdir(path, 0755) != 0 && errno != EEXIST) return failed(path);
  auto options = formatted("hidepid={}", hidepid);
  if (::mount("proc", kNativeProcPath, "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC,
              hidepid > 0 ? options.c_str() : nullptr) != 0)
    return failed(kNativeProcPath);
  return {};
}

}  // namespace

Result<std::unique_ptr<SessionMounts>> SessionMounts::make(EventLoop& loop, int hidepid) {
  GESTALT_ASSIGN(auto sockets, make_socket_pair());
  auto& [ours, theirs] = sockets;
  pid_t helper = ::fork();
  if (helper < 0) return fail_errno(errno, "start the mount helper");
  if (helper == 0) {
    (void)::prctl(PR_SET_PDEATHSIG, SIGKILL);
    (void)::prctl(PR_SET_NAME, "gestalt-mounts");
    // Above all not the lock of the one who supervises.
    int socket = ::dup3(theirs.get(), 3, O_CLOEXEC) == 3 ? 3 : theirs.get();
    if (socket == 3) (void)::close_range(4, ~0U, 0);
    Answer answer = enter_new_namespace(hidepid);
    (void)!::send(socket, &answer, sizeof answer, MSG_NOSIGNAL);
    if (answer.error_number != 0) ::_exit(1);
    obey(socket);
  }
  theirs.reset();
  Answer answer;
  GESTALT_TRY(wait_for(ours.get(), POLLIN, deadline_in(kReady)));
  if (::recv(ours.get(), &answer, sizeof answer, 0) != sizeof answer)
    return fail(ErrorCode::kInternal, "the mount helper ended");
  if (answer.error_number != 0) return fail_errno(answer.error_number, answer.step);
  GESTALT_ASSIGN(auto name_space, open_file(formatted("/proc/{}/ns/mnt", helper), O_RDONLY));
  std::unique_ptr<SessionMounts> out(
      new SessionMounts(loop, helper, std::move(ours), std::move(name_space)));
  loop.watch(out->socket_.get(), EPOLLIN, [self = out.get()](std::uint32_t) { self->on_answer(); });
  return out;
}

SessionMounts::~SessionMounts() {
  loop_.unwatch(socket_.get());
  (void)::kill(helper_, SIGKILL);
}

void SessionMounts::order(char what, std::span<const int> devices, OnDone on_done) {
  on_done_ = std::move(on_done);
  bool sent = ::send(socket_.get(), &what, 1, MSG_NOSIGNAL) == 1;
  if (sent && !devices.empty()) sent = send_fds(socket_.get(), devices).has_value();
  if (sent) return;
  loop_.defer([this] {
    if (auto tell = std::exchange(on_done_, nullptr))
      tell(fail(ErrorCode::kUnavailable, "the mount helper is gone"));
  });
}

void SessionMounts::on_answer() {
  Answer answer;
  ssize_t count = ::recv(socket_.get(), &answer, sizeof answer, MSG_DONTWAIT);
  if (count < 0 && errno == EAGAIN) return;
  Result<void> done;
  if (count != sizeof answer) {
    loop_.unwatch(socket_.get());
    done = fail(ErrorCode::kUnavailable, "the mount helper is gone");
  } else if (answer.error_number != 0) {
    answer.step[sizeof answer.step - 1] = '\0';
    done = fail_errno(answer.error_number, answer.step);
  }
  if (auto tell = std::exchange(on_done_, nullptr)) tell(std::move(done));
}

void SessionMounts::mount(int process_device, int machine_device, OnDone on_done) {
  int devices[] = {process_device, machine_device};
  order(kMount, devices, std::move(on_done));
}

void SessionMounts::bind(OnDone on_done) { order(kBind, {}, std::move(on_done)); }

void SessionMounts::unmount(OnDone on_done) { order(kUnmount, {}, std::move(on_done)); }

void SessionMounts::read_ahead(std::uint64_t entries, OnDone on_done) {
  order(kReadAhead, {}, std::move(on_done));
  (void)::send(socket_.get(), &entries, sizeof entries, MSG_NOSIGNAL);
}

void SessionMounts::probe(OnDone on_done) { order(kProbe, {}, std::move(on_done)); }

}  // namespace gestalt
