// What a process notices of being tracked: nothing. Each new tracker stops it once.
#include "migrate/injector.h"

#include <fcntl.h>
#include <linux/futex.h>
#include <poll.h>
#include <sys/epoll.h>
#include <sys/ptrace.h>
#include <sys/rseq.h>
#include <sys/syscall.h>

#include <atomic>
#include <cerrno>
#include <vector>

#include "common/format.h"
#include "migrate/test_victim.h"

namespace gestalt {
namespace {

using InjectorTest = DirtyTrackerTest;

TEST_F(InjectorTest, ATracedProcessIsRefused) {
  Victim victim([](const auto& side) {
    side.step(1);
    side.step(7);
  });
  victim.next();
  ASSERT_EQ(::ptrace(PTRACE_SEIZE, victim.pid(), nullptr, nullptr), 0);
  auto refused = tracker_->harvest(victim.pid());
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().code, ErrorCode::kBlocked);
  EXPECT_EQ(victim.step(), 7U);
}

TEST_F(InjectorTest, AStoppedProcessStaysStopped) {
  Victim victim([](const auto& side) {
    char* memory = map_touched(kMiB);
    side.step(memory);
    side.step(5);
  });
  auto memory = victim.next();
  ::kill(victim.pid(), SIGSTOP);
  int status = 0;
  ASSERT_EQ(::waitpid(victim.pid(), &status, WUNTRACED), victim.pid());
  EXPECT_EQ(harvest(victim.pid()).pages_in(memory, memory + kMiB), 256U);
  EXPECT_TRUE(reaches_state(victim.pid(), 'T'));
  victim.go();
  std::this_thread::sleep_for(milliseconds(50));
  EXPECT_EQ(state_of(victim.pid()), 'T');
  // Its parent is told of nothing that it did not do itself.
  EXPECT_EQ(::waitpid(victim.pid(), &status, WUNTRACED | WNOHANG), 0);
  ::kill(victim.pid(), SIGCONT);
  EXPECT_EQ(victim.next(), 5U);
}

// Shared with the victim.
struct Counts {
  std::atomic<int> queued = 0;
  std::atomic<int> faults = 0;
};
Counts* counts = nullptr;
void count_signal(int signal) { ++(signal == SIGSEGV ? counts->faults : counts->queued); }

TEST_F(InjectorTest, SignalsThatArriveMeanwhileAreNotLost) {
  constexpr int kRounds = 300;
  void* shared =
      ::mmap(nullptr, kPageBytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  ASSERT_NE(shared, MAP_FAILED);
  counts = new (shared) Counts;
  Victim victim([](const auto& side) {
    struct sigaction action{};
    action.sa_handler = count_signal;
    action.sa_flags = SA_RESTART;
    sigfillset(&action.sa_mask);
    for (int signal : {SIGRTMIN, SIGSEGV}) ::sigaction(signal, &action, nullptr);
    side.tell(1);
    while (counts->queued < kRounds) {
    }
    side.step(2);
  });
  victim.next();
  int sent_faults = 0;
  std::jthread sender([&] {
    for (int i = 0; i < kRounds; ++i) {
      sigval value{};
      ::sigqueue(victim.pid(), SIGRTMIN, value);
      // Two of these that are pending at a time are one: the next only after the last.
      if (i % 10 != 0 || counts->faults < sent_faults) continue;
      ::kill(victim.pid(), SIGSEGV);
      ++sent_faults;
      std::this_thread::sleep_for(milliseconds(3));
    }
  });
  for (int i = 0; i < 100; ++i) {
    UffdWpTracker fresh;  // stops the process
    auto harvested = fresh.harvest(victim.pid());
    ASSERT_TRUE(harvested) << harvested.error().text();
  }
  sender.join();
  EXPECT_EQ(victim.next(), 2U);
  EXPECT_EQ(counts->queued, kRounds);
  for (int i = 0; i < 2000 && counts->faults < sent_faults; ++i)
    std::this_thread::sleep_for(milliseconds(1));
  EXPECT_EQ(counts->faults, sent_faults);
  EXPECT_GE(sent_faults, 1);
  ::munmap(shared, kPageBytes);
}

TEST_F(InjectorTest, AJobControlStopThatArrivesMeanwhileIsNotLost) {
  Victim victim([](const auto& side) {
    side.tell(1);
    while (true) ::getppid();
  });
  victim.next();
  for (int i = 0; i < 50; ++i) {
    std::jthread stopper([&] { ::kill(victim.pid(), SIGSTOP); });
    UffdWpTracker fresh;
    ASSERT_TRUE(fresh.harvest(victim.pid()));
    stopper.join();
    ASSERT_TRUE(reaches_state(victim.pid(), 'T')) << i;
    ::kill(victim.pid(), SIGCONT);
  }
}

// Blocks in many ways at once, a thread each; 1 when all of them ended as they should.
struct BlockingCalls {
  int pipe_ends[2];
  std::uint32_t word = 0;

  bool in_read() {
    char byte = 0;
    return ::read(pipe_ends[0], &byte, 1) == 1;
  }
  static bool in_nanosleep() {
    timespec time{0, 400'000'000};
    auto began = Clock::now();
    return ::nanosleep(&time, nullptr) == 0 && Clock::now() - began >= milliseconds(400);
  }
  bool in_futex() {
    timespec time{0, 400'000'000};
    return ::syscall(SYS_futex, &word, FUTEX_WAIT, 0, &time, nullptr, 0) == -1 &&
           errno == ETIMEDOUT;
  }
  static bool in_poll() { return ::poll(nullptr, 0, 400) == 0; }
  static bool in_epoll() {
    int epoll = ::epoll_create1(0);
    epoll_event event;
    return ::epoll_wait(epoll, &event, 1, 400) == 0;
  }
  static bool in_ppoll() {
    timespec time{0, 400'000'000};
    sigset_t set;
    sigemptyset(&set);
    return ::ppoll(nullptr, 0, &time, &set) == 0;
  }
};

TEST_F(InjectorTest, BlockingCallsGoOn) {
  using Call = std::function<bool(BlockingCalls&)>;
  const std::vector<Call> calls = {
      [](auto& c) { return c.in_read(); },  [](auto& c) { return c.in_nanosleep(); },
      [](auto& c) { return c.in_futex(); }, [](auto& c) { return c.in_poll(); },
      [](auto& c) { return c.in_epoll(); }, [](auto& c) { return c.in_ppoll(); }};
  for (std::size_t i = 0; i < calls.size(); ++i) {
    Victim victim([&](const auto& side) {
      BlockingCalls blocking;
      if (::pipe(blocking.pipe_ends) != 0) ::_exit(7);
      side.tell(static_cast<std::uint64_t>(blocking.pipe_ends[1]));
      side.step(calls[i](blocking) ? 1 : 0);
    });
    auto write_end = victim.next();
    ASSERT_TRUE(reaches_state(victim.pid(), 'S'));
    for (int round = 0; round < 5; ++round) {
      UffdWpTracker fresh;
      ASSERT_TRUE(fresh.harvest(victim.pid()));
      std::this_thread::sleep_for(milliseconds(20));
    }
    if (i == 0) {
      auto end = open_file(formatted("/proc/{}/fd/{}", victim.pid(), write_end), O_WRONLY);
      ASSERT_TRUE(end);
      EXPECT_EQ(::write(end->get(), "x", 1), 1);
    }
    EXPECT_EQ(victim.next(), 1U) << "call " << i;
  }
}

TEST_F(InjectorTest, ASeccompFilteredProcess) {
  Victim victim([](const auto& side) {
    char* memory = map_touched(kMiB);
    allow_nothing();
    side.step(memory);
    memory[kPageBytes] = 2;
    side.step(1);
    ::syscall(SYS_exit_group, 0);  // in _exit() a sanitizer makes system calls of its own
  });
  auto memory = victim.next();
  EXPECT_EQ(harvest(victim.pid()).pages_in(memory, memory + kMiB), 256U);
  victim.step();
  EXPECT_EQ(harvest(victim.pid()).pages_in(memory, memory + kMiB), 1U);
  victim.go();
  EXPECT_EQ(victim.join(), 0);
}

TEST_F(InjectorTest, AProcessOfSomebodyElse) {
  Victim victim([](const auto& side) {
    if (::setgid(65534) != 0 || ::setuid(65534) != 0) ::_exit(5);
    char* memory = map_touched(kMiB);
    side.step(memory);
    memory[kPageBytes] = 2;
    side.step(1);
  });
  auto memory = victim.next();
  EXPECT_EQ(harvest(victim.pid()).pages_in(memory, memory + kMiB), 256U);
  victim.step();
  EXPECT_EQ(harvest(victim.pid()).pages_in(memory, memory + kMiB), 1U);
}

// Spins in a restartable sequence, which sees its own registration as long as it runs. True if
// it went on without: the kernel had forgotten it, and nobody had aborted it.
bool sequence_loses_its_registration() {
  char* registration = static_cast<char*>(__builtin_thread_pointer()) + __rseq_offset + 8;
  bool lost = false;
  asm volatile(
      ".pushsection .data.rseq_test, \"aw\"\n .balign 32\n"
      "7: .long 0, 0\n .quad 1f, 4f - 1f, 5f\n .popsection\n"
      "leaq 7b(%%rip), %%rax\n movq %%rax, (%[registration])\n"
      "1: movl $100000, %%ecx\n"
      "2: cmpq $0, (%[registration])\n je 6f\n decl %%ecx\n jnz 2b\n"
      "4: jmp 8f\n"
      ".long 0x53053053\n"  // must stand before an abort handler
      "5: jmp 8f\n"
      "6: movb $1, %[lost]\n"
      "8: movq $0, (%[registration])\n"
      : [lost] "+m"(lost)
      : [registration] "r"(registration)
      : "rax", "rcx", "cc", "memory");
  return lost;
}

TEST_F(InjectorTest, RestartableSequencesAreAborted) {
  if (__rseq_size == 0) GTEST_SKIP() << "the C library has no restartable sequences here";
  Victim victim([](const auto& side) {
    std::atomic<bool> stop = false;
    std::uint64_t lost = 0;
    side.tell(1);
    std::thread waiter([&] {
      side.wait();
      stop = true;
    });
    while (!stop) lost += sequence_loses_its_registration() ? 1 : 0;
    waiter.join();
    side.step(lost);
  });
  victim.next();
  for (Rounds rounds(20, 200); rounds.next();) {
    UffdWpTracker fresh;
    ASSERT_TRUE(fresh.harvest(victim.pid()));
  }
  EXPECT_EQ(victim.step(), 0U);
}

TEST_F(InjectorTest, AProcessWithThreads) {
  Victim victim([](const auto& side) {
    std::atomic<bool> stop = false;
    std::atomic<std::uint64_t> turns = 0;
    std::vector<std::thread> threads;
    for (int i = 0; i < 8; ++i)
      threads.emplace_back([&] {
        while (!stop) ++turns;
      });
    side.step(1);
    stop = true;
    for (auto& thread : threads) thread.join();
    side.step(turns);
  });
  victim.next();
  for (Rounds rounds(5, 50); rounds.next();) {
    UffdWpTracker fresh;
    ASSERT_TRUE(fresh.harvest(victim.pid()));
  }
  EXPECT_GT(victim.step(), 0U);
}

TEST_F(InjectorTest, AFrozenProcessIsBusy) {
  auto mount = cgroup2_mount();
  if (!mount || ::access(mount->c_str(), W_OK) != 0) GTEST_SKIP() << "no cgroup2 hierarchy here";
  auto group = Cgroup::create(formatted("gestalt-test-{}", ::getpid()));
  if (!group) GTEST_SKIP() << "no control group: " << group.error().text();
  {
    Victim victim([](const auto& side) {
      side.step(1);
      side.step(6);
    });
    victim.next();
    ASSERT_TRUE(write_control_file(group->path() + "/cgroup.procs", std::to_string(victim.pid())));
    ASSERT_TRUE(group->freeze(deadline_in(std::chrono::seconds(5))));
    auto refused = tracker_->harvest(victim.pid());
    ASSERT_FALSE(refused);
    EXPECT_EQ(refused.error().code, ErrorCode::kBusy) << refused.error().text();
    EXPECT_GT(harvest_frozen(victim.pid()).pages(), 0U);
    ASSERT_TRUE(group->thaw(deadline_in(std::chrono::seconds(5))));
    EXPECT_EQ(victim.step(), 6U);
    harvest(victim.pid());
  }
  EXPECT_TRUE(group->wait_empty(deadline_in(std::chrono::seconds(5))));
  EXPECT_TRUE(group->remove());
}

TEST(RunApart, GivesTheResultAndLeavesNoChild) {
  int seen = 0;
  EXPECT_TRUE(run_apart([&]() -> Result<void> {
    seen = ::getppid();
    return {};
  }));
  EXPECT_EQ(seen, ::getpid());
  auto failed = run_apart([]() -> Result<void> { return fail(ErrorCode::kBusy, "no"); });
  ASSERT_FALSE(failed);
  EXPECT_EQ(failed.error().code, ErrorCode::kBusy);
  EXPECT_EQ(::waitpid(-1, nullptr, __WALL | WNOHANG), -1);
}

}  // namespace
}  // namespace gestalt
