#include "migrate/deputize.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <linux/close_range.h>

#include <csignal>
#include <cstring>
#include <set>

#include "common/fd.h"
#include "common/proc.h"
#include "migrate/injector.h"

namespace gestalt {
namespace {

constexpr auto kStopTimeout = std::chrono::seconds(2);

Result<void> move_to_group(int directory, pid_t pid) {
  GESTALT_ASSIGN(auto file, open_at(directory, "cgroup.procs", O_WRONLY));
  auto text = std::to_string(pid);
  if (::write(file.get(), text.data(), text.size()) < 0)
    return fail_errno(errno, std::format("move process {} to another control group", pid));
  return {};
}

// The three arguments of execve(2), as they are to lie at an address of the other process.
struct ArgumentBlock {
  std::string bytes;
  std::uint64_t path = 0;
  std::uint64_t argv = 0;
  std::uint64_t environment = 0;

  std::uint64_t add(const std::string& text, std::uint64_t base) {
    auto at = base + bytes.size();
    bytes.append(text.c_str(), text.size() + 1);
    return at;
  }

  std::uint64_t add(const std::vector<std::string>& texts, std::uint64_t base) {
    std::vector<std::uint64_t> pointers;
    for (const auto& text : texts) pointers.push_back(add(text, base));
    pointers.push_back(0);
    bytes.resize((bytes.size() + 7) & ~std::size_t{7});
    auto at = base + bytes.size();
    bytes.append(reinterpret_cast<const char*>(pointers.data()), pointers.size() * 8);
    return at;
  }

  ArgumentBlock(const DeputyProgram& program, std::uint64_t base) {
    path = add(program.path, base);
    argv = add(program.argv, base);
    environment = add(program.environment, base);
  }
};

// All of it runs in a task of its own (run_apart), which traces.
class Deputizing {
 public:
  Deputizing(pid_t pid, const DeputyPlan& plan) : pid_(pid), plan_(plan) {}

  Result<void> run() {
    GESTALT_TRY(stop_threads());
    GESTALT_ASSIGN(auto main, Injector::attach_main(pid_));
    GESTALT_TRY(stop_threads());  // none is new now
    if (plan_.group >= 0) GESTALT_TRY(move_to_group(plan_.group, pid_));
    auto done = replace(main);
    // It must not run its own program again, not for a moment.
    if (!done && plan_.frozen_group >= 0) (void)move_to_group(plan_.frozen_group, pid_);
    return done;
  }

 private:
  Result<void> stop_threads() {
    for (bool found = true; found;) {
      found = false;
      auto threads = list_pids(std::format("/proc/{}/task", pid_));
      if (!threads) return fail(ErrorCode::kGone, std::format("process {} has ended", pid_));
      for (pid_t thread : *threads) {
        if (thread == pid_ || stopped_.contains(thread)) continue;
        GESTALT_TRY(stop(thread));
        found = true;
      }
    }
    return {};
  }

  Result<void> stop(pid_t thread) {
    if (::ptrace(PTRACE_SEIZE, thread, nullptr, PTRACE_O_TRACESYSGOOD) != 0) {
      if (errno == ESRCH) return {};  // it has ended meanwhile
      return fail_errno(errno, std::format("trace thread {} of process {}", thread, pid_));
    }
    stopped_.insert(thread);
    if (::ptrace(PTRACE_INTERRUPT, thread, nullptr, nullptr) != 0 && errno != ESRCH)
      return fail_errno(errno, std::format("stop thread {} of process {}", thread, pid_));
    for (auto deadline = deadline_in(kStopTimeout); Clock::now() < deadline;) {
      int status = 0;
      pid_t got = ::waitpid(thread, &status, __WALL | WNOHANG);
      if (got == thread) return {};
      ::usleep(200);
    }
    return fail(ErrorCode::kBusy,
                std::format("thread {} of process {} cannot be stopped", thread, pid_));
  }

  Result<void> replace(Injector& main) {
    GESTALT_ASSIGN(auto block, write_arguments(main));
    if (plan_.on_keeper) GESTALT_TRY(leave_keeper(main));
    GESTALT_ASSIGN([[maybe_unused]] auto closed,
                   main.call(SYS_close_range, {3, ~0U, CLOSE_RANGE_CLOEXEC}));
    auto reap_threads = [this] {
      std::erase_if(stopped_,
                    [](pid_t thread) { return ::waitpid(thread, nullptr, __WALL | WNOHANG) != 0; });
    };
    GESTALT_TRY(main.execute(block.path, block.argv, block.environment, reap_threads));
    main.detach();
    return {};
  }

  // Into memory of their own: what lies below the stack pointer may be in use.
  Result<ArgumentBlock> write_arguments(Injector& main) {
    std::size_t bytes = ArgumentBlock(plan_.program, 0).bytes.size();
    GESTALT_ASSIGN(auto address, main.call(SYS_mmap, {0, bytes, PROT_READ | PROT_WRITE,
                                                      MAP_PRIVATE | MAP_ANONYMOUS, ~0ULL, 0}));
    if (address < 0 && address > -4096)
      return fail_errno(static_cast<int>(-address), std::format("map memory in process {}", pid_));
    ArgumentBlock block(plan_.program, static_cast<std::uint64_t>(address));
    GESTALT_ASSIGN(auto memory, open_file(std::format("/proc/{}/mem", pid_), O_RDWR));
    if (::pwrite(memory.get(), block.bytes.data(), block.bytes.size(), address) !=
        static_cast<ssize_t>(block.bytes.size()))
      return fail_errno(errno, std::format("write to the memory of process {}", pid_));
    return block;
  }

  // Out of its session, so that no signal of the terminal's or to the group reaches it, and
  // without descriptors, so that nobody waits for the end of a pipe that it would hold.
  Result<void> leave_keeper(Injector& main) {
    GESTALT_ASSIGN(auto keeper, main.clone_with_memory());
    auto prepared = [&]() -> Result<void> {
      GESTALT_ASSIGN([[maybe_unused]] auto session, keeper.call(SYS_setsid, {}));
      GESTALT_ASSIGN([[maybe_unused]] auto closed, keeper.call(SYS_close_range, {0, ~0U, 0}));
      if (plan_.frozen_group >= 0) GESTALT_TRY(move_to_group(plan_.frozen_group, keeper.pid()));
      return {};
    }();
    if (!prepared) {
      (void)::kill(keeper.pid(), SIGKILL);
      return prepared;
    }
    plan_.on_keeper(keeper.pid());
    keeper.detach();
    return {};
  }

  pid_t pid_;
  const DeputyPlan& plan_;
  std::set<pid_t> stopped_;  // threads other than the main one
};

}  // namespace

Result<void> deputize(pid_t pid, const DeputyPlan& plan) {
  return run_apart([&] { return Deputizing(pid, plan).run(); });
}

}  // namespace gestalt
