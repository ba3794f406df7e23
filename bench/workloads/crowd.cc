// Many processes that mostly sleep, some of which change.
//
//   crowd TASKS CHANGES   forks TASKS children; CHANGES of them a second, each in its turn,
//                         run for a moment and touch a page that they had not
//   crowd clock           one process whose name is CLOCK_MONOTONIC in milliseconds, of the
//                         last 20 ms: who reads its name can tell how old that is
//
// Prints "ready PID" and goes on until it gets SIGTERM.
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <charconv>
#include <csignal>
#include <cstdio>
#include <cstring>
#include <ctime>
#include <string_view>
#include <vector>

namespace {

constexpr int kTicksPerSecond = 20;
constexpr std::size_t kPageBytes = 4096;
constexpr std::size_t kPages = 32;

void say_ready() {
  std::printf("ready %d\n", ::getpid());
  std::fflush(stdout);
}

sigset_t block(std::initializer_list<int> signals) {
  sigset_t set;
  sigemptyset(&set);
  for (int signal : signals) sigaddset(&set, signal);
  sigprocmask(SIG_BLOCK, &set, nullptr);
  return set;
}

// Never returns. SIGTERM is not blocked in it.
[[noreturn]] void be_one_of_many(char* memory, const sigset_t& wake) {
  ::prctl(PR_SET_PDEATHSIG, SIGKILL);
  std::signal(SIGTERM, SIG_DFL);
  sigset_t unblocked;
  sigemptyset(&unblocked);
  sigaddset(&unblocked, SIGTERM);
  sigprocmask(SIG_UNBLOCK, &unblocked, nullptr);
  for (std::size_t page = 0;; page = (page + 1) % kPages) {
    int signal = 0;
    ::sigwait(&wake, &signal);
    if (page == 0) ::madvise(memory, kPages * kPageBytes, MADV_DONTNEED);
    memory[page * kPageBytes] = 1;
  }
}

int be_many(std::size_t tasks, std::size_t changes) {
  auto* memory = static_cast<char*>(::mmap(nullptr, kPages * kPageBytes, PROT_READ | PROT_WRITE,
                                           MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
  if (memory == MAP_FAILED) {
    std::perror("crowd: mmap");
    return 1;
  }
  sigset_t wake = block({SIGUSR1});
  sigset_t end = block({SIGTERM, SIGCHLD});
  sigdelset(&end, SIGUSR1);
  std::vector<pid_t> children;
  for (std::size_t i = 0; i < tasks; ++i) {
    pid_t child = ::fork();
    if (child < 0) {
      std::perror("crowd: fork");
      return 1;
    }
    if (child == 0) be_one_of_many(memory, wake);
    children.push_back(child);
  }
  say_ready();
  const timespec tick{0, 1'000'000'000 / kTicksPerSecond};
  std::size_t turn = 0;
  for (std::size_t ticks = 1;; ++ticks) {
    siginfo_t got{};
    int signal = ::sigtimedwait(&end, &got, &tick);
    if (signal == SIGTERM) break;
    if (signal == SIGCHLD) {
      std::fprintf(stderr, "crowd: child %d ended\n", got.si_pid);
      return 1;
    }
    // So many until now, whatever the rounding.
    std::size_t due = changes * ticks / kTicksPerSecond - changes * (ticks - 1) / kTicksPerSecond;
    for (std::size_t i = 0; i < due; ++i) ::kill(children[turn++ % children.size()], SIGUSR1);
  }
  for (pid_t child : children) ::kill(child, SIGKILL);
  for (pid_t child : children) ::waitpid(child, nullptr, 0);
  return 0;
}

int be_a_clock() {
  sigset_t end = block({SIGTERM});
  say_ready();
  const timespec tick{0, 20'000'000};
  do {
    timespec now{};
    ::clock_gettime(CLOCK_MONOTONIC, &now);
    char name[16];
    std::snprintf(name, sizeof name, "%lld",
                  static_cast<long long>(now.tv_sec) * 1000 + now.tv_nsec / 1'000'000);
    ::prctl(PR_SET_NAME, name);
  } while (::sigtimedwait(&end, nullptr, &tick) < 0);
  return 0;
}

bool parse(std::string_view text, std::size_t& value) {
  auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  return error == std::errc() && end == text.data() + text.size();
}

}  // namespace

int main(int argc, char** argv) {
  std::size_t tasks = 0;
  std::size_t changes = 0;
  if (argc == 2 && std::string_view(argv[1]) == "clock") return be_a_clock();
  if (argc == 3 && parse(argv[1], tasks) && parse(argv[2], changes) && tasks > 0)
    return be_many(tasks, changes);
  std::fprintf(stderr, "usage: crowd TASKS CHANGES | crowd clock\n");
  return 2;
}
