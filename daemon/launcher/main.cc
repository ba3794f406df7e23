// gestalt-launcher: starts CRIU as a child of the parent to which a process comes home, and, should
// that fail, the process's deputy again. A process can only be given to a parent by one of the
// parent's own children (clone(2), CLONE_PARENT): the deputy is made to clone itself and to execute
// this (migrate/home_place.h). It is set-user-id root, as CRIU needs root where the deputy is an
// ordinary user's. Whoever else runs it gets nothing: it does only what the job's stand-in says,
// which knows the process that it waits for, by a socket in a directory of root's.
#include <fcntl.h>
#include <grp.h>
#include <linux/close_range.h>
#include <linux/sched.h>
#include <sys/personality.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <termios.h>
#include <unistd.h>

#include <cerrno>
#include <csignal>
#include <cstdio>
#include <cstring>
#include <optional>

#include "common/fd.h"
#include "common/paths.h"
#include "common/unix_socket.h"
#include "migrate/deputize.h"
#include "migrate/launcher_orders.h"

namespace gestalt {
namespace {

constexpr char kUsage[] =
    "Usage: gestalt-launcher JOB\n"
    "Started where a process of a session comes home; not meant to be run by hand.\n";

constexpr int kStartNumbers = 1;
constexpr int kDeputyNumbers = 8;
constexpr int kMostTries = 500;
constexpr useconds_t kRetryMicroseconds = 10'000;
// Beyond any number that a program is to see.
constexpr int kFirstSpare = 100;

// What the session's user may have limited is not for CRIU. What cannot be lifted stays.
void lift_limits() {
  for (auto which : {RLIMIT_AS, RLIMIT_CPU, RLIMIT_FSIZE, RLIMIT_MEMLOCK, RLIMIT_NPROC, RLIMIT_DATA,
                     RLIMIT_STACK}) {
    rlimit limit{RLIM_INFINITY, RLIM_INFINITY};
    if (which == RLIMIT_STACK) limit.rlim_cur = 8U << 20;
    (void)::setrlimit(which, &limit);
  }
}

// As the session's user has it, and a deputy is to.
rlimit the_files_limit{};

void lift_files_limit() {
  (void)::getrlimit(RLIMIT_NOFILE, &the_files_limit);
  rlimit files{1U << 16, 1U << 16};
  (void)::setrlimit(RLIMIT_NOFILE, &files);
}

// A whole request, with the descriptors' own numbers here.
struct Received {
  LaunchRequest request;
  std::vector<Fd> descriptors;
};

Result<Received> receive(int socket) {
  Received out;
  LaunchHeader header;
  GESTALT_TRY(read_exact(socket, std::as_writable_bytes(std::span(&header, 1)), Deadline::max()));
  if (header.numbers > kMaxLaunchNumbers || header.text_bytes > kMaxLaunchText ||
      header.descriptors > kMaxLaunchDescriptors || header.descriptors > header.numbers)
    return fail(ErrorCode::kProtocol, "an order beyond all bounds");
  auto& request = out.request;
  request.order = header.order;
  request.numbers.resize(header.numbers);
  auto deadline = deadline_in(std::chrono::seconds(5));
  GESTALT_TRY(read_exact(socket, std::as_writable_bytes(std::span(request.numbers)), deadline));
  std::string text(header.text_bytes, '\0');
  GESTALT_TRY(read_exact(socket, std::as_writable_bytes(std::span(text)), deadline));
  GESTALT_TRY(parse_launch_text(text, request));
  if (header.descriptors > 0) {
    GESTALT_ASSIGN(out.descriptors, receive_fds(socket, header.descriptors, deadline));
  }
  for (std::size_t i = 0; i < out.descriptors.size(); ++i)
    request.descriptors.emplace_back(out.descriptors[i].get(),
                                     request.numbers[header.numbers - header.descriptors + i]);
  request.numbers.resize(header.numbers - header.descriptors);
  return out;
}

std::vector<char*> pointers(std::vector<std::string>& texts) {
  std::vector<char*> out;
  for (auto& text : texts) out.push_back(text.data());
  out.push_back(nullptr);
  return out;
}

// In the new process.
int arrange_descriptors(const LaunchRequest& request, int report) {
  bool given[3] = {};
  int spare = kFirstSpare;
  for (auto [ours, theirs] : request.descriptors)
    if (::dup2(ours, spare++) < 0) return errno;
  int moved = kFirstSpare;
  for (auto [ours, theirs] : request.descriptors) {
    if (::dup2(moved++, theirs) < 0) return errno;
    if (theirs < 3) given[theirs] = true;
  }
  for (int number = 0; number < 3 && request.order == LaunchOrder::kStart; ++number)
    if (!given[number]) {
      int null = ::open("/dev/null", O_RDWR);
      if (null < 0 || ::dup2(null, number) < 0) return errno;
    }
  // All that is not named goes with the exec, and so does `report`.
  for (int fd = 3; fd < kFirstSpare + static_cast<int>(kMaxLaunchDescriptors); ++fd) {
    bool named = fd == report;
    for (auto [ours, theirs] : request.descriptors) named = named || theirs == fd;
    if (!named) (void)::fcntl(fd, F_SETFD, FD_CLOEXEC);
  }
  return 0;
}

int become_criu(const LaunchRequest& request) {
  lift_limits();
  for (int signal : {SIGHUP, SIGINT, SIGQUIT, SIGTSTP, SIGTTIN, SIGTTOU}) ::signal(signal, SIG_IGN);
  sigset_t none;
  sigemptyset(&none);
  (void)::sigprocmask(SIG_SETMASK, &none, nullptr);
  auto personality = static_cast<unsigned long>(request.numbers[0]);
  return personality != 0 && ::personality(personality) < 0 ? errno : 0;
}

int become_deputy(const LaunchRequest& request) {
  const auto* n = request.numbers.data();
  if (n[1] == kOwnSession && ::setsid() < 0) return errno;
  if (n[1] > 0 && ::setpgid(0, n[1]) != 0) return errno;
  (void)::setrlimit(RLIMIT_NOFILE, &the_files_limit);
  auto id = [n](int at) { return static_cast<unsigned>(n[at]); };
  if (::setresgid(id(5), id(6), id(7)) != 0) return errno;
  return ::setresuid(id(2), id(3), id(4)) != 0 ? errno : 0;
}

// The new one's pid, or a negative errno value.
std::int64_t launch(LaunchRequest& request) {
  auto argv = pointers(request.argv);
  auto environment = pointers(request.environment);
  auto report = make_pipe();
  if (!report || argv.size() < 2) return -EINVAL;
  if (::dup3(report->write.get(), kFirstSpare - 1, O_CLOEXEC) < 0) return -errno;
  report->write = Fd(kFirstSpare - 1);
  clone_args arguments{};
  arguments.flags = CLONE_PARENT;
  pid_t wanted = request.order == LaunchOrder::kDeputy ? request.numbers[0] : 0;
  if (wanted != 0) {
    arguments.set_tid = reinterpret_cast<std::uint64_t>(&wanted);
    arguments.set_tid_size = 1;
  }
  auto pid = static_cast<pid_t>(::syscall(SYS_clone3, &arguments, sizeof arguments));
  if (pid < 0) return -errno;
  if (pid == 0) {
    int failed = arrange_descriptors(request, report->write.get());
    if (failed == 0)
      failed = request.order == LaunchOrder::kStart ? become_criu(request) : become_deputy(request);
    const char* program = request.order == LaunchOrder::kDeputy ? kDeputyProgram : argv[0];
    if (failed == 0) {
      ::execve(program, argv.data(), environment.data());
      failed = errno;
    }
    (void)!::write(report->write.get(), &failed, sizeof failed);
    ::_exit(127);
  }
  report->write.reset();
  int failed = 0;
  auto got = read_exact(report->read.get(), std::as_writable_bytes(std::span(&failed, 1)),
                        deadline_in(std::chrono::seconds(5)));
  return got ? -failed : pid;
}

std::int64_t own_group(bool session) {
  return (session ? ::setsid() : ::setpgid(0, 0)) < 0 ? -errno : 0;
}

std::int64_t give_terminal(pid_t group) {
  auto terminal = open_file("/dev/tty", O_RDWR | O_NOCTTY);
  if (!terminal) return -ENOTTY;
  return ::tcsetpgrp(terminal->get(), group) == 0 ? 0 : -errno;
}

// What is to be done if the stand-in crashes: the parent would miss a child.
std::optional<Received> the_remembered;

std::int64_t obey(Received& received) {
  auto& request = received.request;
  switch (request.order) {
    case LaunchOrder::kRemember:
      if (request.numbers.size() != kDeputyNumbers) return -EINVAL;
      request.order = LaunchOrder::kDeputy;
      the_remembered = std::move(received);
      return 0;
    case LaunchOrder::kForget:
      the_remembered.reset();
      return 0;
    case LaunchOrder::kOwnGroup:
      return request.numbers.size() == 1 ? own_group(request.numbers[0] != 0) : -EINVAL;
    case LaunchOrder::kForeground:
      return request.numbers.size() == 1 ? give_terminal(request.numbers[0]) : -EINVAL;
    case LaunchOrder::kStart:
      return request.numbers.size() == kStartNumbers ? launch(request) : -EINVAL;
    case LaunchOrder::kDeputy:
      return request.numbers.size() == kDeputyNumbers ? launch(request) : -EINVAL;
  }
  return -EINVAL;
}

// It ends a launcher that is not needed any more.
int stand_in_gone() {
  for (int tries = 0; the_remembered && tries < kMostTries; ++tries) {
    auto launched = launch(the_remembered->request);
    if (launched != -EEXIST) break;  // what is being removed has the pid still
    ::usleep(kRetryMicroseconds);
  }
  return 0;
}

int serve(const std::string& job) {
  auto socket = connect_unix(paths::kHomeSocket + job);
  if (!socket) return 1;
  auto peer = peer_credentials(socket->get());
  if (!peer || peer->uid != 0) return 1;
  while (true) {
    auto received = receive(socket->get());
    if (!received) return stand_in_gone();
    std::int64_t answer = obey(*received);
    auto sent = write_all(socket->get(), std::as_bytes(std::span(&answer, 1)),
                          deadline_in(std::chrono::seconds(5)));
    if (!sent) return 1;
  }
}

}  // namespace
}  // namespace gestalt

int main(int argc, char** argv) {
  bool number = argc == 2 && argv[1][0] != '\0' &&
                std::strspn(argv[1], "0123456789") == std::strlen(argv[1]) &&
                std::strlen(argv[1]) < 20;
  if (!number) {
    std::fputs(gestalt::kUsage, stderr);
    return 2;
  }
  // To be nothing to the session's user and terminal.
  sigset_t all;
  sigfillset(&all);
  (void)::sigprocmask(SIG_SETMASK, &all, nullptr);
  if (::setresgid(0, 0, 0) != 0 || ::setresuid(0, 0, 0) != 0) return 1;
  (void)::close_range(3, ~0U, 0);
  if (::clearenv() != 0) return 1;
  gestalt::lift_files_limit();
  return gestalt::serve(argv[1]);
}
