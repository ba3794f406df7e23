#include "migrate/zero_copy_keeper.h"

#include <linux/close_range.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstring>

#include "common/cgroup.h"
#include "common/format.h"
#include "common/log.h"
#include "common/proc.h"
#include "common/unix_socket.h"

namespace gestalt {
namespace {

constexpr std::size_t kMostMappings = 8;
constexpr int kReapTries = 100;

// What would make its clones noticed, or its pids others than ours.
Result<void> refuse_unsuitable(pid_t pid) {
  auto text = read_file(formatted("/proc/{}/status", pid));
  if (!text) return fail(ErrorCode::kGone, formatted("process {} does not exist", pid));
  // The kernel would map one for each clone, into the process's memory.
  if (status_field(*text, "x86_Thread_features").contains("shstk"))
    return fail(ErrorCode::kBlocked, formatted("process {} has a shadow stack", pid));
  if (status_field(*text, "NSpid").contains('\t'))
    return fail(ErrorCode::kBlocked, formatted("process {} is in another pid namespace", pid));
  return {};
}

// The task in between is a child of the process, which has to wait for it.
void reap(Injector& process, pid_t child) {
  for (int i = 0; i < kReapTries; ++i) {
    auto reaped =
        process.call(SYS_wait4, {static_cast<std::uint64_t>(child), 0, __WALL | WNOHANG, 0});
    if (!reaped || *reaped != 0) return;
    ::usleep(100);
  }
}

Result<Injector> clone_adopted(pid_t pid) {
  GESTALT_ASSIGN(auto process, Injector::attach(pid));
  pid_t between = 0;
  auto keeper = [&]() -> Result<Injector> {
    GESTALT_ASSIGN(auto task, process.clone_keeper());
    between = task.pid();
    return task.clone_keeper();
  }();
  if (between > 0) reap(process, between);
  return keeper;
}

std::string group_of(const std::string& pid) {
  return read_file(formatted("/proc/{}/cgroup", pid)).value_or("");
}

// What recvmsg(2) needs, at an address of the process.
struct Receiving {
  msghdr message;
  iovec data;
  alignas(cmsghdr) char control[CMSG_SPACE(sizeof(int))];
  int sockets[2];
  char byte;

  explicit Receiving(std::uint64_t at) : message{}, data{}, control{}, sockets{}, byte(0) {
    auto there = [at](std::size_t offset) { return reinterpret_cast<void*>(at + offset); };
    data = {there(offsetof(Receiving, byte)), 1};
    message.msg_iov = static_cast<iovec*>(there(offsetof(Receiving, data)));
    message.msg_iovlen = 1;
    message.msg_control = there(offsetof(Receiving, control));
    message.msg_controllen = sizeof control;
  }
};
static_assert(sizeof(Receiving) <= 256);

}  // namespace

Result<void> read_memory_of(pid_t pid, std::uint64_t address, std::span<std::byte> into) {
  iovec ours{into.data(), into.size()};
  iovec theirs{reinterpret_cast<void*>(address), into.size()};
  if (::process_vm_readv(pid, &ours, 1, &theirs, 1, 0) != static_cast<ssize_t>(into.size()))
    return fail_errno(errno, formatted("read the memory of process {}", pid));
  return {};
}

Result<void> write_memory_of(pid_t pid, std::uint64_t address, std::span<const std::byte> from) {
  iovec ours{const_cast<std::byte*>(from.data()), from.size()};
  iovec theirs{reinterpret_cast<void*>(address), from.size()};
  if (::process_vm_writev(pid, &ours, 1, &theirs, 1, 0) != static_cast<ssize_t>(from.size()))
    return fail_errno(errno, formatted("write to the memory of process {}", pid));
  return {};
}

Result<std::unique_ptr<ZeroCopyKeeper>> ZeroCopyKeeper::start(pid_t process, int group) {
  GESTALT_TRY(refuse_unsuitable(process));
  std::unique_ptr<ZeroCopyKeeper> out(new ZeroCopyKeeper(process));
  out->mappings_.reserve(kMostMappings);
  GESTALT_TRY(
      out->task_.start([keeper = out.get()](const auto& serve) { return keeper->live(serve); }));
  GESTALT_TRY(out->check_parent());
  out->set_limits();
  if (group >= 0) GESTALT_TRY(move_to_cgroup(group, out->pid_));
  return out;
}

void ZeroCopyKeeper::end() {
  if (auto done = task_.stop(); !done && pid_ > 0)
    log::info("a keeper's task ended early", log::field("pid", process_),
              log::field("error", done.error().text()));
  // If it is we who adopt orphans.
  if (pid_ > 0) (void)::waitpid(pid_, nullptr, __WALL | WNOHANG);
  pid_ = 0;
}

// Within the task. What comes after serve() allocates nothing: Injector::kill_keeper().
Result<void> ZeroCopyKeeper::live(const std::function<void()>& serve) {
  GESTALT_ASSIGN(auto keeper, clone_adopted(process_));
  pid_ = keeper.pid();
  injector_ = &keeper;
  // Descriptors: not even copies, which to close may be a file system's business. Session: no
  // signal of a terminal or to a group is meant for it.
  for (auto [number, last] : {std::pair{long{SYS_close_range}, std::uint64_t{~0U}},
                              std::pair{long{SYS_setsid}, std::uint64_t{0}}}) {
    GESTALT_ASSIGN(auto result, keeper.call(number, {0, last, CLOSE_RANGE_UNSHARE}));
    if (result < 0) return fail_errno(static_cast<int>(-result), formatted("set up task {}", pid_));
  }
  serve();
  while (!mappings_.empty()) {
    auto unmapped = keeper.call(SYS_munmap, {mappings_.back().start, mappings_.back().bytes});
    if (!unmapped) return std::unexpected(std::move(unmapped).error());
    if (*unmapped != 0) break;
    mappings_.pop_back();
  }
  return {};
}

// A relative that adopts orphans would see a child of which it knows nothing.
Result<void> ZeroCopyKeeper::check_parent() const {
  auto stat = read_stat("/proc", pid_);
  if (!stat) return fail(ErrorCode::kGone, formatted("process {} has ended", pid_));
  auto theirs = group_of(std::to_string(process_));
  if (theirs != group_of("self") && theirs == group_of(std::to_string(stat->parent_pid)))
    return fail(ErrorCode::kBlocked,
                formatted("process {} adopts orphans (PR_SET_CHILD_SUBREAPER)", stat->parent_pid));
  return {};
}

// Copies of the process's, they may be too low for what it is to do, or to map. Without
// CAP_SYS_RESOURCE they go as high as the process's own may, and the kernel will say what fails.
void ZeroCopyKeeper::set_limits() const {
  const rlimit none{RLIM_INFINITY, RLIM_INFINITY};
  const rlimit few{64, 64};
  const rlimit zero{0, 0};
  for (auto [resource, limit] : {std::pair{RLIMIT_MEMLOCK, none},
                                 {RLIMIT_AS, none},
                                 {RLIMIT_DATA, none},
                                 {RLIMIT_NOFILE, few},
                                 {RLIMIT_CORE, zero}}) {
    if (::prlimit(pid_, resource, &limit, nullptr) == 0) continue;
    rlimit own{};
    if (::prlimit(pid_, resource, nullptr, &own) != 0) continue;
    own.rlim_cur = own.rlim_max;
    (void)::prlimit(pid_, resource, &own, nullptr);
  }
}

Result<std::int64_t> ZeroCopyKeeper::call(long number, const Injector::Arguments& arguments) {
  Result<std::int64_t> out = 0;
  GESTALT_TRY(task_.run([&] { out = injector_->call(number, arguments); }));
  return out;
}

Result<std::uint64_t> ZeroCopyKeeper::map(std::uint64_t bytes, int protection) {
  Result<std::int64_t> mapped = 0;
  GESTALT_TRY(task_.run([&] {
    if (mappings_.size() == kMostMappings) mapped = -ENOMEM;
    if (*mapped < 0) return;
    mapped = injector_->call(SYS_mmap, {0, bytes, static_cast<std::uint64_t>(protection),
                                        MAP_PRIVATE | MAP_ANONYMOUS, ~0ULL, 0});
    if (mapped && (*mapped > 0 || *mapped < -4095))
      mappings_.push_back({static_cast<std::uint64_t>(*mapped), bytes});
  }));
  if (!mapped) return std::unexpected(std::move(mapped).error());
  if (*mapped < 0 && *mapped >= -4095)
    return fail_errno(static_cast<int>(-*mapped), formatted("map memory of process {}", process_));
  return static_cast<std::uint64_t>(*mapped);
}

Result<int> ZeroCopyKeeper::give(int fd, std::uint64_t scratch) {
  Receiving receiving(scratch);
  auto bytes = std::as_writable_bytes(std::span(&receiving, 1));
  GESTALT_ASSIGN(auto made, call(SYS_socketpair, {AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0,
                                                  scratch + offsetof(Receiving, sockets)}));
  if (made < 0) return fail_errno(static_cast<int>(-made), "make a socket in a task");
  GESTALT_TRY(read_memory_of(pid_, scratch + offsetof(Receiving, sockets),
                             std::as_writable_bytes(std::span(receiving.sockets))));
  Fd task(static_cast<int>(::syscall(SYS_pidfd_open, pid_, 0)));
  Fd ours(static_cast<int>(::syscall(SYS_pidfd_getfd, task.get(), receiving.sockets[1], 0)));
  if (!ours) return fail_errno(errno, "take a socket out of a task");
  GESTALT_TRY(send_fds(ours.get(), {&fd, 1}));
  GESTALT_TRY(write_memory_of(pid_, scratch, bytes));
  GESTALT_ASSIGN(auto received, call(SYS_recvmsg, {static_cast<std::uint64_t>(receiving.sockets[0]),
                                                   scratch, MSG_CMSG_CLOEXEC | MSG_DONTWAIT}));
  if (received < 0) return fail_errno(static_cast<int>(-received), "give a descriptor to a task");
  GESTALT_TRY(read_memory_of(pid_, scratch, bytes));
  cmsghdr header{};
  std::memcpy(&header, receiving.control, sizeof header);
  if (receiving.message.msg_controllen < CMSG_LEN(sizeof fd) || header.cmsg_type != SCM_RIGHTS)
    return fail(ErrorCode::kPermission, "a task was not allowed to take a descriptor");
  int theirs = -1;
  std::memcpy(&theirs, receiving.control + CMSG_LEN(0), sizeof theirs);
  return theirs;
}

Result<void> ZeroCopyKeeper::put_code(std::uint64_t address, std::span<const std::uint8_t> code) {
  Result<void> out;
  GESTALT_TRY(task_.run([&] { out = injector_->put_code(address, code); }));
  return out;
}

Result<void> ZeroCopyKeeper::run_code(std::uint64_t address, const Injector::Arguments& arguments,
                                      Deadline deadline) {
  Result<void> out;
  GESTALT_TRY(task_.run([&] { out = injector_->run_code(address, arguments, deadline); }));
  return out;
}

}  // namespace gestalt
