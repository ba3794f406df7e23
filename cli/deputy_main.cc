// gestalt-deputy: what a process that has moved away leaves in its place, under its pid
// (migrate/deputize.h). To its parent, its terminal and who signals it, it is that process; to the
// daemon it is the client of the job that the process is now. Not meant to be run by hand: who
// injects it says by the environment what it stands for (AdoptedProcess::deputy()).
#include <malloc.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <csignal>
#include <cstdlib>
#include <cstring>
#include <ctime>
#include <sstream>
#include <thread>

#include "cli/client.h"
#include "cli/exit_codes.h"
#include "cli/report.h"
#include "cli/run_session.h"

namespace gestalt::cli {
namespace {

constexpr auto kRetry = milliseconds(200);
constexpr auto kSettled = milliseconds(500);

struct Task {
  std::uint64_t job_id = 0;
  wire::Stdio stdio;
  std::uint64_t moved_signals = 0;         // pending here, and there, too
  std::optional<wire::DeputyState> state;  // of the deputy before it, if there was one
};

// The process was to come home, and did not (migrate/home_place.h).
std::optional<wire::DeputyState> read_state() {
  const char* text = std::getenv("GESTALT_DEPUTY_STATE");
  if (text == nullptr) return std::nullopt;
  Fd file(std::atoi(text));
  wire::DeputyState state;
  auto size = ::lseek(file.get(), 0, SEEK_END);
  if (size < 0 || ::lseek(file.get(), 0, SEEK_SET) != 0) return std::nullopt;
  std::string bytes(static_cast<std::size_t>(size), '\0');
  auto read = read_exact(file.get(), std::as_writable_bytes(std::span(bytes)), Deadline::max());
  if (!read || !state.ParseFromString(bytes)) return std::nullopt;
  return state;
}

std::optional<Task> read_task() {
  const char* text = std::getenv("GESTALT_DEPUTY");
  std::istringstream words(text != nullptr ? text : "");
  Task task;
  std::array<int, 3> kinds{};
  bool merged = false;
  words >> task.job_id >> kinds[0] >> kinds[1] >> kinds[2] >> merged >> std::hex >>
      task.moved_signals;
  bool known = std::ranges::all_of(kinds, wire::StdioKind_IsValid);
  if (!words || task.job_id == 0 || !known) return std::nullopt;
  task.stdio.set_in(static_cast<wire::StdioKind>(kinds[0]));
  task.stdio.set_out(static_cast<wire::StdioKind>(kinds[1]));
  task.stdio.set_err(static_cast<wire::StdioKind>(kinds[2]));
  task.stdio.set_merge_err(merged);
  task.state = read_state();
  return task;
}

// Of those that are blocked; the process gets them where it is.
void take_moved_signals(std::uint64_t mask) {
  for (int signal = 1; signal <= SIGRTMAX; ++signal) {
    if ((mask >> (signal - 1) & 1) == 0) continue;
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, signal);
    timespec now{};
    (void)::sigtimedwait(&set, nullptr, &now);
  }
}

// Those of the process whose copies end here, and a memory keeper.
void reap_children() {
  while (::waitpid(-1, nullptr, WNOHANG | __WALL) > 0) {
  }
}

Fd watch_children(EventLoop& loop) {
  ::signal(SIGCHLD, SIG_DFL);
  sigset_t set;
  sigemptyset(&set);
  sigaddset(&set, SIGCHLD);
  ::sigprocmask(SIG_BLOCK, &set, nullptr);
  Fd children(::signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK));
  if (children)
    loop.watch(children.get(), EPOLLIN, [fd = children.get()](std::uint32_t) {
      signalfd_siginfo info{};
      while (::read(fd, &info, sizeof info) == sizeof info) {
      }
      reap_children();
    });
  reap_children();
  return children;
}

Result<Fd> connect_patiently(const std::string& path) {
  auto deadline = deadline_in(DaemonLink::kPatience);
  while (true) {
    auto socket = connect_daemon(path);
    if (socket || Clock::now() >= deadline) return socket;
    std::this_thread::sleep_for(kRetry);
  }
}

// Arguments and environment, which lie behind each other.
std::span<char> title_area(char** argv) {
  char* end = argv[0] + std::strlen(argv[0]) + 1;
  for (char** list : {argv + 1, environ})
    for (; *list != nullptr && *list == end; ++list) end = *list + std::strlen(*list) + 1;
  return {argv[0], end};
}

Result<Outcome> stand_for(const Task& task, std::span<char> title) {
  auto path = daemon_socket_path();
  EventLoop loop;
  auto children = watch_children(loop);
  GESTALT_ASSIGN(auto socket, connect_patiently(path));
  wire::RunRequest request;
  *request.mutable_spec()->mutable_stdio() = task.stdio;
  RunSession session(loop, path, std::move(socket), std::move(request), task.job_id);
  GroupWitness witness(title);
  session.use(witness);
  if (task.state) session.go_on_from(*task.state);
  // There may be many of us, and most have nothing to do for long.
  (void)loop.after(kSettled, [] { (void)::malloc_trim(0); });
  auto outcome = session.run();
  loop.unwatch(children.get());
  return outcome;
}

int run_deputy(char** argv) {
  auto task = read_task();
  if (!task) {
    std::fputs(
        "gestalt-deputy stands for a process that has moved to another node. gestalt migrate\n"
        "puts it in its place; it is not meant to be run by hand.\n",
        stderr);
    return 2;
  }
  if (const char* name = std::getenv("GESTALT_DEPUTY_NAME")) (void)::prctl(PR_SET_NAME, name);
  take_moved_signals(task->moved_signals);
  auto outcome = stand_for(*task, title_area(argv));
  if (!outcome) return report(outcome.error(), kExitGestalt);
  if (outcome->error) report(*outcome->error);
  if (outcome->signal != 0) die_as(outcome->signal);
  return outcome->exit_code;
}

}  // namespace
}  // namespace gestalt::cli

int main(int, char** argv) {
  gestalt::cli::fill_standard_descriptors();
  return gestalt::cli::run_deputy(argv);
}
