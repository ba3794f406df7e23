#include "common/child.h"

#include <fcntl.h>
#include <linux/close_range.h>
#include <linux/sched.h>
#include <poll.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <csignal>
#include <cstdint>

#include "common/fd.h"
#include "common/format.h"

namespace gestalt {
namespace {

std::vector<char*> pointers(const std::vector<std::string>& strings) {
  std::vector<char*> out;
  for (const auto& text : strings) out.push_back(const_cast<char*>(text.c_str()));
  out.push_back(nullptr);
  return out;
}

// By the kernel's own interface: the C library keeps two signals for itself, and would
// not reset them where they were inherited as ignored.
void reset_signals() {
  struct {
    void (*handler)(int);
    unsigned long flags;
    void (*restorer)();
    std::uint64_t mask;
  } by_default{};
  for (int signal = 1; signal <= 64; ++signal)
    (void)::syscall(SYS_rt_sigaction, signal, &by_default, nullptr, sizeof by_default.mask);
  sigset_t none;
  sigemptyset(&none);
  (void)::sigprocmask(SIG_SETMASK, &none, nullptr);
}

// What the child reports when it could not become the program.
struct SpawnFailure {
  bool in_exec = false;
  int error_number = 0;
};

constexpr std::size_t kMaxDescriptors = 64;

// Moves every source out of the way of the targets, then into place. 0 or an errno.
int arrange_descriptors(const std::vector<std::pair<int, int>>& wanted, int& report) {
  int above = 3;
  for (auto [ours, theirs] : wanted) above = std::max({above, ours + 1, theirs + 1});
  report = ::fcntl(report, F_DUPFD_CLOEXEC, above);
  if (report < 0) return errno;
  std::array<int, kMaxDescriptors> copies;
  for (std::size_t i = 0; i < wanted.size(); ++i) {
    copies[i] = ::fcntl(wanted[i].first, F_DUPFD_CLOEXEC, above);
    if (copies[i] < 0) return errno;
  }
  for (std::size_t i = 0; i < wanted.size(); ++i)
    if (::dup2(copies[i], wanted[i].second) < 0) return errno;
  for (int fd = 0; fd < 3; ++fd) {
    if (std::ranges::any_of(wanted, [fd](auto entry) { return entry.second == fd; })) continue;
    int null = ::open("/dev/null", O_RDWR | O_CLOEXEC);
    if (null < 0 || ::dup2(null, fd) < 0) return errno;
  }
  return 0;
}

// Tries the candidates as execvp(3) does, also scripts without an interpreter line.
int execute(const std::vector<char*>& programs, char* const* argv, char** shell_argv,
            char* const* environment) {
  int error_number = ENOENT;
  for (char* program : programs) {
    if (program == nullptr) break;
    ::execve(program, argv, environment);
    if (errno == ENOEXEC) {
      shell_argv[1] = program;
      ::execve(shell_argv[0], shell_argv, environment);
    }
    if (errno != ENOENT && errno != ENOTDIR) error_number = errno;
    if (errno != ENOENT && errno != ENOTDIR && errno != EACCES) break;
  }
  return error_number;
}

struct Prepared {
  std::vector<char*> programs;
  std::vector<char*> argv;
  std::vector<char*> shell_argv;  // "/bin/sh", program, argv[1]...
  std::vector<char*> environment;
};

int join_cgroup(int directory) {
  int procs = ::openat(directory, "cgroup.procs", O_WRONLY | O_CLOEXEC);
  if (procs < 0) return errno;
  int error_number = ::write(procs, "0", 1) == 1 ? 0 : errno;
  ::close(procs);
  return error_number;
}

constexpr char kAlive = 'A';

[[noreturn]] void run_child(const SpawnOptions& options, const std::function<int()>& setup,
                            Prepared& prepared, int report, bool must_join_cgroup) {
  (void)!::write(report, &kAlive, 1);
  reset_signals();
  // Whatever this process was itself given without close-on-exec goes no further.
  (void)::close_range(3, ~0U, CLOSE_RANGE_CLOEXEC);
  SpawnFailure failure;
  if (must_join_cgroup) failure.error_number = join_cgroup(options.cgroup_fd);
  if (failure.error_number == 0)
    failure.error_number = arrange_descriptors(options.descriptors, report);
  if (failure.error_number == 0 && options.new_session && ::setsid() < 0)
    failure.error_number = errno;
  if (failure.error_number == 0 && setup) failure.error_number = setup();
  if (failure.error_number == 0) {
    failure.in_exec = true;
    failure.error_number = execute(prepared.programs, prepared.argv.data(),
                                   prepared.shell_argv.data(), prepared.environment.data());
  }
  (void)!::write(report, &failure, sizeof failure);
  ::_exit(127);
}

Unexpected explain(const SpawnFailure& failure, const std::string& program) {
  if (!failure.in_exec) return fail_errno(failure.error_number, formatted("start {}", program));
  auto error = fail_errno(failure.error_number, program);
  bool missing = failure.error_number == ENOENT || failure.error_number == ENOTDIR;
  error.error().code = missing ? ErrorCode::kExecNotFound : ErrorCode::kExecDenied;
  return error;
}

// kUnavailable: the child was killed at its birth. Kernels from 6.14 on do that to a
// child that is to start in another control group than its parent's, if one of the two
// was once ended by cgroup.kill and the other not (cgroup_css_set_fork compares their
// counters). Then it has to be born here and go there by itself.
Result<pid_t> start_child(const SpawnOptions& options, const std::function<int()>& setup,
                          Prepared& prepared, bool into_cgroup) {
  GESTALT_ASSIGN(auto report, make_pipe());
  pid_t wanted_pid = options.pid;
  clone_args arguments{};
  arguments.exit_signal = SIGCHLD;
  if (options.pid != 0) {
    arguments.set_tid = reinterpret_cast<std::uint64_t>(&wanted_pid);
    arguments.set_tid_size = 1;
  }
  if (into_cgroup) {
    arguments.flags |= CLONE_INTO_CGROUP;
    arguments.cgroup = static_cast<std::uint64_t>(options.cgroup_fd);
  }
  bool must_join_cgroup = options.cgroup_fd >= 0 && !into_cgroup;
  auto pid = static_cast<pid_t>(::syscall(SYS_clone3, &arguments, sizeof arguments));
  if (pid == 0) run_child(options, setup, prepared, report.write.get(), must_join_cgroup);
  if (pid < 0)
    return fail_errno(
        errno, formatted("start {}{}", options.argv[0],
                         options.pid != 0 ? formatted(" as pid {}", options.pid) : std::string()));
  report.write.reset();
  Deadline deadline = deadline_in(std::chrono::seconds(10));
  char alive = 0;
  auto got = read_exact(report.read.get(), std::as_writable_bytes(std::span(&alive, 1)), deadline);
  SpawnFailure failure;
  if (got) {
    got = read_exact(report.read.get(), std::as_writable_bytes(std::span(&failure, 1)), deadline);
    // The pipe closed by exec: the program runs.
    if (!got && got.error().code == ErrorCode::kUnavailable) return pid;
  }
  if (!got) (void)::kill(pid, SIGKILL);
  (void)::waitpid(pid, nullptr, 0);
  if (!got) return std::unexpected(std::move(got).error());
  return explain(failure, options.argv[0]);
}

}  // namespace

Result<pid_t> spawn(const SpawnOptions& options, const std::function<int()>& setup) {
  if (options.argv.empty()) return fail(ErrorCode::kInvalidArgument, "no program to start");
  if (options.descriptors.size() > kMaxDescriptors)
    return fail(ErrorCode::kInvalidArgument, "too many descriptors to pass on");
  Prepared prepared{
      pointers(options.programs), pointers(options.argv), {}, pointers(options.environment)};
  if (options.programs.empty()) prepared.programs = {prepared.argv[0], nullptr};
  static char shell[] = "/bin/sh";
  prepared.shell_argv = {shell, nullptr};
  prepared.shell_argv.insert(prepared.shell_argv.end(), prepared.argv.begin() + 1,
                             prepared.argv.end());
  auto first = start_child(options, setup, prepared, options.cgroup_fd >= 0);
  if (first || first.error().code != ErrorCode::kUnavailable) return first;
  return start_child(options, setup, prepared, false);
}

Result<int> wait_child(pid_t pid, Deadline deadline) {
  Fd pidfd(static_cast<int>(::syscall(SYS_pidfd_open, pid, 0)));
  if (!pidfd) return fail_errno(errno, formatted("watch process {}", pid));
  GESTALT_TRY(wait_for(pidfd.get(), POLLIN, deadline));
  int status = 0;
  if (::waitpid(pid, &status, 0) != pid)
    return fail_errno(errno, formatted("wait for process {}", pid));
  return status;
}

}  // namespace gestalt
