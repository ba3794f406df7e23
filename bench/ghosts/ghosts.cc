// What ghosts cost: adds COUNT of them in a pid namespace of its own, and prints, as JSON, the
// time for it and the memory that the machine has less then, by two books:
//
//   available  MemAvailable of /proc/meminfo: everything, also what others do meanwhile
//   parts      Slab, KernelStack, PageTables and Percpu of /proc/meminfo, and our own pages
//
//   ghosts COUNT
#include <sched.h>
#include <sys/wait.h>
#include <unistd.h>

#include <charconv>
#include <cstdio>
#include <cstring>
#include <string_view>

#include "daemon/ghosts/ghost_keeper.h"

namespace gestalt {
namespace {

constexpr pid_t kFirst = 1000;

struct Memory {
  std::int64_t available_bytes = 0;
  std::int64_t parts_bytes = 0;
};

std::int64_t kib_of(std::string_view text, std::string_view name) {
  auto start = text.find(name);
  if (start == std::string_view::npos) return 0;
  start = text.find_first_not_of(" \t", start + name.size());
  std::int64_t value = 0;
  std::from_chars(text.data() + start, text.data() + text.size(), value);
  return value * 1024;
}

// Once what was freed late (by RCU) is free.
Memory memory_now() {
  ::usleep(300'000);
  auto machine = read_file("/proc/meminfo");
  auto own = read_file("/proc/self/status");
  if (!machine || !own) return {};
  Memory memory{.available_bytes = kib_of(*machine, "MemAvailable:")};
  for (const char* part : {"\nSlab:", "KernelStack:", "PageTables:", "Percpu:"})
    memory.parts_bytes += kib_of(*machine, part);
  memory.parts_bytes += kib_of(*own, "VmRSS:");
  return memory;
}

int measure(int count) {
  EventLoop loop;
  std::size_t signals = 0;
  GhostKeeper keeper(loop, [&](const GhostSignal&) { ++signals; });
  auto started = keeper.start();
  if (!started) {
    std::fprintf(stderr, "ghosts: %s\n", started.error().text().c_str());
    return 1;
  }
  GhostUpdate update;
  for (int i = 0; i < count; ++i) update.add.push_back({kFirst + i, 1001, 1001});
  auto before = memory_now();
  auto began = Clock::now();
  auto failures = keeper.update(update);
  auto added = Clock::now();
  auto after = memory_now();
  auto removing = Clock::now();
  auto left = keeper.update({.full = true});
  auto removed = Clock::now();
  if (!failures.empty() || !left.empty()) {
    const auto& failure = failures.empty() ? left.front() : failures.front();
    std::fprintf(stderr, "ghosts: %s\n", failure.error.text().c_str());
    return 1;
  }
  auto each = [&](std::int64_t bytes) { return static_cast<double>(bytes) / count; };
  std::printf(
      "{\"count\":%d,\"available_bytes_each\":%.0f,\"parts_bytes_each\":%.0f,"
      "\"add_seconds_each\":%.9f,\"remove_seconds_each\":%.9f}\n",
      count, each(before.available_bytes - after.available_bytes),
      each(after.parts_bytes - before.parts_bytes), seconds_between(began, added) / count,
      seconds_between(removing, removed) / count);
  return 0;
}

// The keeper is a child of the namespace's init, as in a cluster.
int run(int count) {
  if (::unshare(CLONE_NEWPID) != 0) {
    std::perror("ghosts: make a pid namespace (are you root?)");
    return 1;
  }
  pid_t init = ::fork();
  if (init == 0) {
    pid_t keeper = ::fork();
    if (keeper == 0) {
      int result = measure(count);
      std::fflush(nullptr);
      ::_exit(result);
    }
    int status = 0;
    (void)::waitpid(keeper, &status, 0);
    ::_exit(WIFEXITED(status) ? WEXITSTATUS(status) : 1);
  }
  int status = 0;
  (void)::waitpid(init, &status, 0);
  return WIFEXITED(status) ? WEXITSTATUS(status) : 1;
}

}  // namespace
}  // namespace gestalt

int main(int argc, char** argv) {
  int count = 0;
  if (argc == 2) std::from_chars(argv[1], argv[1] + std::strlen(argv[1]), count);
  if (count < 1 || count > 30'000) {
    std::fputs("usage: ghosts COUNT (1 to 30000)\n", stderr);
    return 2;
  }
  return gestalt::run(count);
}
