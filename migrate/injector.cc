#include "migrate/injector.h"

#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <sched.h>
#include <sys/auxv.h>
#include <sys/mman.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <charconv>
#include <csignal>
#include <cstring>
#include <optional>
#include <string_view>

#include "common/format.h"
#include "common/proc.h"
#include "migrate/memory_map.h"

namespace gestalt {
namespace {

constexpr Clock::duration kStopTimeout = milliseconds(300);
constexpr Clock::duration kCallTimeout = milliseconds(300);
constexpr Clock::duration kKeeperCallTimeout =
    std::chrono::seconds(5);  // not frozen; what gave up would kill it
constexpr Clock::duration kRecoverTimeout = std::chrono::seconds(5);
constexpr Clock::duration kExecuteTimeout = std::chrono::seconds(10);
constexpr std::size_t kStackBytes = 512U << 10;
constexpr std::uint64_t kCode64 = 0x33;  // the code segment of 64-bit programs
// From the kernel's include/linux/errno.h; a stopped thread shows them.
constexpr std::int64_t kFirstRestart = -516;  // ERESTART_RESTARTBLOCK
constexpr std::int64_t kLastRestart = -512;   // ERESTARTSYS

struct Apart {
  const std::function<Result<void>()>* work;
  Result<void> result;
};

int run_work(void* argument) {
  // Its own dispositions: a process that ignores SIGCHLD would not hear of stops.
  (void)std::signal(SIGCHLD, SIG_DFL);
  auto& apart = *static_cast<Apart*>(argument);
  apart.result = (*apart.work)();
  return 0;
}

struct ThreadStatus {
  pid_t thread = 0;
  char state = '?';
  pid_t tracer = 0;
  bool has_seccomp_filter = false;
  std::uint64_t pending = 0;  // its own and the process's, whatever is blocked
  std::uint64_t blocked = 0;
};

Result<ThreadStatus> read_thread_status(pid_t pid, pid_t thread) {
  auto text = read_file(formatted("/proc/{}/task/{}/status", pid, thread));
  if (!text) return fail(ErrorCode::kGone, formatted("process {} does not exist", pid));
  auto number = [&](std::string_view name, int base) {
    auto field = status_field(*text, name);
    std::uint64_t value = 0;
    (void)std::from_chars(field.data(), field.data() + field.size(), value, base);
    return value;
  };
  ThreadStatus out;
  out.thread = thread;
  if (auto state = status_field(*text, "State"); !state.empty()) out.state = state[0];
  out.tracer = static_cast<pid_t>(number("TracerPid", 10));
  out.pending = number("SigPnd", 16) | number("ShdPnd", 16);
  out.blocked = number("SigBlk", 16);
  out.has_seccomp_filter = number("Seccomp", 10) != 0;
  return out;
}

// Those first that will stop at once. A job-control stop (T) is as good as sleep.
Result<std::vector<ThreadStatus>> threads_to_try(pid_t pid) {
  auto threads = list_pids(formatted("/proc/{}/task", pid));
  if (!threads) return fail(ErrorCode::kGone, formatted("process {} does not exist", pid));
  std::vector<ThreadStatus> ranked;
  for (pid_t thread : *threads) {
    auto status = read_thread_status(pid, thread);
    if (!status) continue;
    if (status->tracer != 0)
      return fail(ErrorCode::kBlocked,
                  formatted("process {} is being traced by process {}", pid, status->tracer),
                  "detach the debugger");
    if (status->state == 'Z' || status->state == 'X') continue;
    ranked.push_back(*status);
  }
  if (ranked.empty()) return fail(ErrorCode::kGone, formatted("process {} has ended", pid));
  std::ranges::sort(
      ranked, {}, [](const auto& status) { return std::pair(status.state == 'D', status.thread); });
  if (ranked.size() > 3) ranked.resize(3);
  return ranked;
}

std::optional<std::uint64_t> find_syscall_in(pid_t pid, const MemoryArea& area) {
  constexpr std::uint64_t kMostBytes = 4U << 20;
  std::vector<unsigned char> code(std::min(area.end - area.start, kMostBytes));
  iovec local{code.data(), code.size()};
  iovec remote{reinterpret_cast<void*>(area.start), code.size()};
  ssize_t count = ::process_vm_readv(pid, &local, 1, &remote, 1, 0);
  for (ssize_t i = 0; i + 1 < count; ++i) {
    auto at = static_cast<std::size_t>(i);
    if (code[at] == 0x0f && code[at + 1] == 0x05) return area.start + at;
  }
  return std::nullopt;
}

// 0: there is none, or the process has told the kernel something else (PR_SET_MM_AUXV).
std::uint64_t vdso_of(pid_t pid) {
  auto text = read_file(formatted("/proc/{}/auxv", pid)).value_or("");
  std::array<std::uint64_t, 2> entry{};
  for (std::size_t at = 0; at + sizeof entry <= text.size(); at += sizeof entry) {
    std::memcpy(entry.data(), text.data() + at, sizeof entry);
    if (entry[0] == AT_SYSINFO_EHDR) return entry[1];
  }
  return 0;
}

// The vdso has a `syscall` for where its quick ways fail; without a vdso, some code has.
Result<std::uint64_t> find_syscall(pid_t pid) {
  GESTALT_ASSIGN(auto map, MemoryMap::open(pid));
  GESTALT_ASSIGN(auto vdso, map.find(vdso_of(pid)));
  if (vdso && vdso->name == "[vdso]" && vdso->is_executable()) {
    if (auto found = find_syscall_in(pid, *vdso)) return *found;
  }
  // Restored on another kernel it is where the auxiliary vector does not say.
  GESTALT_ASSIGN(auto areas, read_memory_map(pid));
  std::ranges::stable_partition(areas, [](const auto& area) { return area.name == "[vdso]"; });
  for (const auto& area : areas) {
    if (!area.is_executable() || area.name == "[vsyscall]") continue;
    if (auto found = find_syscall_in(pid, area)) return *found;
  }
  if (areas.empty()) return fail(ErrorCode::kGone, formatted("process {} has ended", pid));
  return fail(ErrorCode::kBlocked, formatted("process {} has no system call instruction", pid));
}

// These return EINTR after any stop, also where no signal handler ran: signal(7).
bool returns_eintr_after_stop(std::uint64_t number) {
  switch (number) {
    case SYS_epoll_wait:
    case SYS_epoll_pwait:
    case SYS_epoll_pwait2:
    case SYS_semop:
    case SYS_semtimedop:
    case SYS_rt_sigtimedwait:
    case SYS_io_getevents:
    case SYS_io_pgetevents:
      return true;
    default:
      return false;
  }
}

std::uint64_t bit_of(int signal) { return 1ULL << (signal - 1); }

// Left unblocked: a fault that our system call raised would, if blocked, reset the process's
// own disposition of the signal.
std::uint64_t fault_signals() {
  return bit_of(SIGSEGV) | bit_of(SIGBUS) | bit_of(SIGILL) | bit_of(SIGFPE) | bit_of(SIGTRAP) |
         bit_of(SIGSYS);
}

struct RestartableSequence {  // struct rseq_cs of linux/rseq.h, without its alignment
  std::uint32_t version, flags;
  std::uint64_t start, length, abort;
};

Result<void> read_words(pid_t pid, std::uint64_t address, void* into, std::size_t bytes) {
  iovec local{into, bytes};
  iovec remote{reinterpret_cast<void*>(address), bytes};
  if (::process_vm_readv(pid, &local, 1, &remote, 1, 0) != static_cast<ssize_t>(bytes))
    return fail_errno(errno, formatted("read the memory of process {}", pid));
  return {};
}

// Where to go on. The kernel forgets about a restartable sequence of which the thread was moved
// out; then only its abort handler is right.
std::uint64_t instruction_after_sequence(pid_t thread, std::uint64_t instruction) {
  __ptrace_rseq_configuration configuration{};
  long size = ::ptrace(PTRACE_GET_RSEQ_CONFIGURATION, thread, sizeof configuration, &configuration);
  if (size != sizeof configuration || configuration.rseq_abi_pointer == 0) return instruction;
  std::uint64_t pointer = 0;
  RestartableSequence sequence{};
  if (!read_words(thread, configuration.rseq_abi_pointer + 8, &pointer, sizeof pointer) ||
      pointer == 0 || !read_words(thread, pointer, &sequence, sizeof sequence))
    return instruction;
  return instruction - sequence.start < sequence.length ? sequence.abort : instruction;
}

}  // namespace

Result<void> run_apart(const std::function<Result<void>()>& work) {
  void* stack = ::mmap(nullptr, kStackBytes, PROT_READ | PROT_WRITE,
                       MAP_PRIVATE | MAP_ANONYMOUS | MAP_STACK, -1, 0);
  if (stack == MAP_FAILED) return fail_errno(errno, "make a stack");
  Apart apart{&work, fail(ErrorCode::kInternal, "a helper task crashed")};
  // This process's signal handlers would run in it too. Without an exit signal, wait(2) for any
  // child passes it over.
  sigset_t all;
  sigset_t before;
  sigfillset(&all);
  (void)::pthread_sigmask(SIG_BLOCK, &all, &before);
  int pid = ::clone(run_work, static_cast<char*>(stack) + kStackBytes,
                    CLONE_VM | CLONE_VFORK | CLONE_FILES | CLONE_FS, &apart);
  int error_number = errno;
  if (pid > 0)
    while (::waitpid(pid, nullptr, __WALL) < 0 && errno == EINTR) {
    }
  (void)::pthread_sigmask(SIG_SETMASK, &before, nullptr);
  (void)::munmap(stack, kStackBytes);
  if (pid < 0) return fail_errno(error_number, "start a helper task");
  return std::move(apart.result);
}

Injector::Injector(Injector&& other) noexcept
    : pid_(other.pid_),
      thread_(other.thread_),
      attached_(std::exchange(other.attached_, false)),
      has_state_(std::exchange(other.has_state_, false)),
      is_keeper_(std::exchange(other.is_keeper_, false)),
      options_(other.options_),
      instruction_(other.instruction_),
      saved_(other.saved_),
      mask_(other.mask_),
      kept_(std::move(other.kept_)) {}

Result<void> Injector::trace(__ptrace_request request, std::uint64_t address, void* data) {
  if (::ptrace(request, thread_, address, data) == 0) return {};
  if (errno == ESRCH) return fail(ErrorCode::kGone, formatted("process {} has ended", pid_));
  return fail_errno(errno, formatted("trace process {}", pid_));
}

Result<Injector> Injector::attach(pid_t pid) {
  GESTALT_ASSIGN(auto threads, threads_to_try(pid));
  GESTALT_ASSIGN(auto instruction, find_syscall(pid));
  Error why;
  for (const auto& status : threads) {
    auto injector = attach_thread(pid, status.thread, status.has_seccomp_filter);
    if (injector) {
      injector->instruction_ = instruction;
      return injector;
    }
    why = std::move(injector).error();
    if (why.code != ErrorCode::kBusy && why.code != ErrorCode::kGone) break;
  }
  return std::unexpected(std::move(why));
}

Result<Injector> Injector::attach_main(pid_t pid) {
  GESTALT_ASSIGN(auto instruction, find_syscall(pid));
  GESTALT_ASSIGN(auto status, read_thread_status(pid, pid));
  GESTALT_ASSIGN(auto injector, attach_thread(pid, pid, status.has_seccomp_filter));
  injector.instruction_ = instruction;
  return injector;
}

Result<Injector> Injector::attach_thread(pid_t pid, pid_t thread, bool has_seccomp_filter) {
  Injector injector(pid, thread);
  injector.options_ = PTRACE_O_TRACESYSGOOD;
  if (has_seccomp_filter) injector.options_ |= PTRACE_O_SUSPEND_SECCOMP;
  if (::ptrace(PTRACE_SEIZE, thread, nullptr, injector.options_) != 0) {
    if (errno == ESRCH) return fail(ErrorCode::kGone, formatted("process {} has ended", pid));
    return fail(ErrorCode::kBlocked, formatted("process {} cannot be traced", pid));
  }
  // Should this fail, the thread is let go of at the end of run_apart().
  GESTALT_TRY(injector.stop());
  GESTALT_TRY(injector.take_state());
  return injector;
}

// kTimeout: no stop yet. The wait status otherwise.
Result<int> Injector::wait_stop(Patience& patience, const std::function<void()>& meanwhile) {
  sigset_t child;
  sigemptyset(&child);
  sigaddset(&child, SIGCHLD);
  constexpr Clock::duration kOften = std::chrono::microseconds(500);
  constexpr Clock::duration kSeldom = milliseconds(50);  // only if somebody else had the signal
  while (true) {
    int status = 0;
    pid_t got = ::waitpid(thread_, &status, __WALL | WNOHANG);
    if (got == thread_ && WIFSTOPPED(status)) return status;
    if (got != 0) {
      attached_ = has_state_ = false;
      return fail(ErrorCode::kGone, formatted("process {} has ended", pid_));
    }
    if (patience.is_over()) return fail(ErrorCode::kTimeout, "no stop");
    if (meanwhile) meanwhile();
    timespec moment{0, patience.next_wait(meanwhile ? kOften : kSeldom).count()};
    (void)::sigtimedwait(&child, nullptr, &moment);
  }
}

Result<void> Injector::stop() {
  GESTALT_TRY(trace(PTRACE_INTERRUPT, 0, nullptr));
  Patience patience(kStopTimeout);
  while (true) {
    auto status = wait_stop(patience);
    if (!status && status.error().code == ErrorCode::kTimeout)
      return fail(ErrorCode::kBusy, formatted("process {} cannot be stopped now", pid_),
                  "try again later");
    if (!status) return std::unexpected(std::move(status).error());
    if (*status >> 16 == PTRACE_EVENT_STOP) break;
    // A signal was on its way in: it goes where it was going, and our stop comes next.
    GESTALT_TRY(trace(PTRACE_CONT, 0, reinterpret_cast<void*>(WSTOPSIG(*status))));
  }
  attached_ = true;
  return {};
}

Result<void> Injector::take_state() {
  GESTALT_TRY(trace(PTRACE_GETREGS, 0, &saved_));
  GESTALT_TRY(trace(PTRACE_GETSIGMASK, sizeof mask_, &mask_));
  if (saved_.cs != kCode64)
    return fail(ErrorCode::kBlocked, formatted("process {} is a 32-bit program", pid_));
  GESTALT_TRY(make_resumable());
  has_state_ = true;
  std::uint64_t mask = ~fault_signals();
  return trace(PTRACE_SETSIGMASK, sizeof mask, &mask);
}

// What the kernel would not do by itself for a thread that was stopped and moved.
Result<void> Injector::make_resumable() {
  auto result = static_cast<std::int64_t>(saved_.rax);
  bool in_syscall = static_cast<std::int64_t>(saved_.orig_rax) >= 0;
  if (!in_syscall) {
    saved_.rip = instruction_after_sequence(thread_, saved_.rip);
    return {};
  }
  if (result >= kFirstRestart && result <= kLastRestart) return {};  // the kernel does it
  if (result != -EINTR || !returns_eintr_after_stop(saved_.orig_rax)) return {};
  GESTALT_ASSIGN(auto status, read_thread_status(pid_, thread_));
  // With a signal on its way, EINTR may be the program's due.
  if ((status.pending & ~status.blocked) != 0) return {};
  saved_.rax = saved_.orig_rax;
  saved_.rip -= 2;
  saved_.orig_rax = ~0ULL;
  return {};
}

Result<void> Injector::keep_signal(int signal) {
  siginfo_t info{};
  GESTALT_TRY(trace(PTRACE_GETSIGINFO, 0, &info));
  // Raised by the kernel for what our call did: not the program's business.
  if (signal != SIGSTOP && info.si_code > 0)
    return fail(ErrorCode::kBlocked,
                formatted("process {} does not let a system call pass (signal {})", pid_, signal));
  info.si_signo = signal;
  kept_.push_back(info);
  return {};
}

Result<void> Injector::run_to_syscall_stop(Patience& patience,
                                           const std::function<void()>& meanwhile) {
  while (true) {
    GESTALT_TRY(trace(PTRACE_SYSCALL, 0, nullptr));
    GESTALT_ASSIGN(int status, wait_stop(patience, meanwhile));
    if (WSTOPSIG(status) == (SIGTRAP | 0x80)) return {};
    // A job-control stop of the whole process begins or ends: it applies when we have left.
    if (status >> 16 == PTRACE_EVENT_STOP) continue;
    GESTALT_TRY(keep_signal(WSTOPSIG(status)));
  }
}

Result<void> Injector::enter(user_regs_struct registers, long number, std::uint64_t instruction,
                             const Arguments& arguments) {
  if (!attached_) return fail(ErrorCode::kInternal, "a system call in a process that is let go of");
  registers.orig_rax = ~0ULL;  // or the kernel would restart the interrupted one
  registers.rax = static_cast<std::uint64_t>(number);
  registers.rip = instruction;
  registers.rdi = arguments[0];
  registers.rsi = arguments[1];
  registers.rdx = arguments[2];
  registers.r10 = arguments[3];
  registers.r8 = arguments[4];
  registers.r9 = arguments[5];
  return trace(PTRACE_SETREGS, 0, &registers);
}

Result<std::int64_t> Injector::call(long number, const Arguments& arguments) {
  return call_from(saved_, number, arguments);
}

Result<std::int64_t> Injector::call_from(const user_regs_struct& start, long number,
                                         const Arguments& arguments) {
  GESTALT_TRY(enter(start, number, instruction_, arguments));
  Patience patience(is_keeper_ ? kKeeperCallTimeout : kCallTimeout);
  auto ran = run_to_syscall_stop(patience);
  if (ran) ran = run_to_syscall_stop(patience);  // entry, then exit
  if (!ran && ran.error().code == ErrorCode::kTimeout) {
    attached_ = false;
    (void)::ptrace(PTRACE_INTERRUPT, thread_, nullptr, nullptr);
    Patience recovery(kRecoverTimeout);
    attached_ = wait_stop(recovery).has_value();
    detach();
    return fail(ErrorCode::kBusy, formatted("process {} does not run: is it frozen?", pid_),
                "thaw it, or try again later");
  }
  if (!ran) return std::unexpected(std::move(ran).error());
  user_regs_struct registers{};
  GESTALT_TRY(trace(PTRACE_GETREGS, 0, &registers));
  return static_cast<std::int64_t>(registers.rax);
}

Result<Injector> Injector::clone_with_memory() { return clone(CLONE_VM | SIGCHLD, saved_); }

Result<Injector> Injector::clone_as_sibling() { return clone(CLONE_PARENT | SIGCHLD, saved_); }

Result<Injector> Injector::clone_keeper() {
  user_regs_struct nothing{};
  nothing.cs = saved_.cs;
  nothing.ss = saved_.ss;
  nothing.ds = saved_.ds;
  nothing.es = saved_.es;
  nothing.fs = saved_.fs;
  nothing.gs = saved_.gs;
  nothing.fs_base = saved_.fs_base;
  nothing.gs_base = saved_.gs_base;
  nothing.eflags = saved_.eflags;
  GESTALT_ASSIGN(auto keeper, clone(CLONE_VM | CLONE_FILES, nothing));
  keeper.is_keeper_ = true;
  keeper.options_ = options_ | PTRACE_O_EXITKILL;
  GESTALT_TRY(keeper.trace(PTRACE_SETOPTIONS, 0, reinterpret_cast<void*>(keeper.options_)));
  return keeper;
}

Result<Injector> Injector::clone(std::uint64_t flags, const user_regs_struct& registers) {
  GESTALT_ASSIGN(auto made, call_from(registers, SYS_clone, {flags | CLONE_PTRACE}));
  if (made < 0) return fail_errno(static_cast<int>(-made), formatted("clone process {}", pid_));
  auto pid = static_cast<pid_t>(made);
  Injector child(pid, pid);
  child.instruction_ = instruction_;
  Patience patience(kStopTimeout);
  GESTALT_ASSIGN([[maybe_unused]] int status, child.wait_stop(patience));
  child.attached_ = true;
  GESTALT_TRY(child.take_state());
  return child;
}

Result<void> Injector::put_code(std::uint64_t address, std::span<const std::uint8_t> code) {
  for (std::size_t at = 0; at < code.size(); at += sizeof(long)) {
    long word = 0;
    std::memcpy(&word, code.data() + at, std::min(sizeof word, code.size() - at));
    GESTALT_TRY(trace(PTRACE_POKETEXT, address + at, reinterpret_cast<void*>(word)));
  }
  return {};
}

// The stop that was asked for comes first, also if the code has ended before it.
bool Injector::trap_is_pending() {
  constexpr int kMost = 8;
  std::array<siginfo_t, kMost> pending{};
  __ptrace_peeksiginfo_args range{.off = 0, .flags = 0, .nr = kMost};
  long count = ::ptrace(PTRACE_PEEKSIGINFO, thread_, &range, pending.data());
  for (std::size_t i = 0; static_cast<long>(i) < count; ++i)
    if (pending[i].si_signo == SIGTRAP && pending[i].si_code > 0) return true;
  return false;
}

Result<void> Injector::run_code(std::uint64_t address, const Arguments& arguments,
                                Deadline deadline) {
  GESTALT_TRY(enter(saved_, 0, address, arguments));
  bool interrupted = false;
  Patience patience(deadline);
  while (true) {
    GESTALT_TRY(trace(PTRACE_CONT, 0, nullptr));
    auto status = wait_stop(patience);
    if (!status && status.error().code == ErrorCode::kTimeout) {
      interrupted = true;
      GESTALT_TRY(trace(PTRACE_INTERRUPT, 0, nullptr));
      Patience recovery(kRecoverTimeout);
      status = wait_stop(recovery);
    }
    if (!status) return std::unexpected(std::move(status).error());
    if (*status >> 16 == PTRACE_EVENT_STOP) {
      if (interrupted && !trap_is_pending())
        return fail(ErrorCode::kTimeout, "injected code did not end in time");
      if (interrupted) patience = Patience(kRecoverTimeout);
      continue;
    }
    if (WSTOPSIG(*status) == SIGTRAP) return {};
    GESTALT_TRY(keep_signal(WSTOPSIG(*status)));
    if (interrupted && !trap_is_pending())
      return fail(ErrorCode::kTimeout, "injected code did not end in time");
  }
}

Result<void> Injector::execute(std::uint64_t path, std::uint64_t arguments,
                               std::uint64_t environment, const std::function<void()>& meanwhile) {
  GESTALT_TRY(enter(saved_, SYS_execve, instruction_, {path, arguments, environment}));
  Patience patience(kExecuteTimeout);
  GESTALT_TRY(run_to_syscall_stop(patience));
  GESTALT_TRY(run_to_syscall_stop(patience, meanwhile));
  user_regs_struct registers{};
  GESTALT_TRY(trace(PTRACE_GETREGS, 0, &registers));
  auto result = static_cast<std::int64_t>(registers.rax);
  if (result < 0)
    return fail_errno(static_cast<int>(-result), formatted("execute in process {}", pid_));
  has_state_ = false;  // registers and memory are the new program's
  return {};
}

// Allocates nothing: in a process that has crashed another thread may have the allocator's lock.
void Injector::kill_keeper() {
  is_keeper_ = attached_ = has_state_ = false;
  (void)::kill(pid_, SIGKILL);
  for (auto deadline = deadline_in(kRecoverTimeout); Clock::now() < deadline;) {
    int status = 0;
    pid_t got = ::waitpid(pid_, &status, __WALL | WNOHANG);
    if (got < 0 || (got == pid_ && !WIFSTOPPED(status))) return;
    timespec moment{0, 100'000};
    if (got == 0) (void)::nanosleep(&moment, nullptr);
  }
}

void Injector::detach() {
  if (is_keeper_) return kill_keeper();
  if (!attached_) return;
  if (has_state_) {
    (void)trace(PTRACE_SETREGS, 0, &saved_);
    (void)trace(PTRACE_SETSIGMASK, sizeof mask_, &mask_);
  }
  (void)trace(PTRACE_DETACH, 0, nullptr);
  attached_ = has_state_ = false;
  // With its sender and value where the kernel lets us.
  for (auto& info : kept_)
    if (info.si_code >= 0 ||
        ::syscall(SYS_rt_tgsigqueueinfo, pid_, thread_, info.si_signo, &info) != 0)
      (void)::syscall(SYS_tgkill, pid_, thread_, info.si_signo);
  kept_.clear();
}

Result<Fd> open_userfaultfd_of(pid_t pid) {
  Fd userfaultfd;
  auto work = [pid, &userfaultfd]() -> Result<void> {
    Fd process(static_cast<int>(::syscall(SYS_pidfd_open, pid, 0)));
    if (!process && errno == ESRCH)
      return fail(ErrorCode::kGone, formatted("process {} does not exist", pid));
    if (!process) return fail_errno(errno, formatted("watch process {}", pid));
    GESTALT_ASSIGN(auto injector, Injector::attach(pid));
    // User mode only: what an unprivileged program may have. Asynchronous write-protection
    // needs nobody's answer to faults in the kernel.
    constexpr std::uint64_t kFlags = O_CLOEXEC | O_NONBLOCK | UFFD_USER_MODE_ONLY;
    GESTALT_ASSIGN(auto fd, injector.call(SYS_userfaultfd, {kFlags}));
    if (fd < 0)
      return fail(ErrorCode::kBlocked,
                  formatted("process {} gets no userfaultfd (errno {})", pid, -fd));
    userfaultfd = Fd(static_cast<int>(::syscall(SYS_pidfd_getfd, process.get(), fd, 0)));
    int error_number = errno;
    GESTALT_ASSIGN([[maybe_unused]] auto closed,
                   injector.call(SYS_close, {static_cast<std::uint64_t>(fd)}));
    if (!userfaultfd) return fail_errno(error_number, "take a userfaultfd out of a process");
    return {};
  };
  GESTALT_TRY(run_apart(work));
  return userfaultfd;
}

}  // namespace gestalt
