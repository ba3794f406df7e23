// Every case with real processes and the tracker that this kernel has.
#include "migrate/dirty_tracker.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/futex.h>
#include <linux/seccomp.h>
#include <poll.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cstring>
#include <filesystem>
#include <random>
#include <thread>
#include <unordered_map>

#include "common/fd.h"
#include "common/proc.h"
#include "migrate/memory_map.h"
#include "migrate/pagemap_scan.h"
#include "migrate/soft_dirty_tracker.h"
#include "migrate/uffd_wp_tracker.h"

namespace gestalt {
namespace {

constexpr std::uint64_t kMiB = 1U << 20;

// A forked child that goes step by step: tell() hands a number out, wait() waits for go().
class Victim {
 public:
  struct Side {
    int read, write;
    void tell(std::uint64_t value) const { (void)!::write(write, &value, sizeof value); }
    void tell(const void* address) const { tell(reinterpret_cast<std::uint64_t>(address)); }
    void wait() const {
      std::uint64_t value = 0;
      if (::read(read, &value, sizeof value) != sizeof value) ::_exit(9);
    }
  };
  explicit Victim(const std::function<void(const Side&)>& body) {
    auto down = make_pipe();
    auto up = make_pipe();
    pid_ = ::fork();
    if (pid_ == 0) {
      ::prctl(PR_SET_PDEATHSIG, SIGKILL);
      ::close(down->write.get());
      body(Side{down->read.get(), up->write.get()});
      ::_exit(0);
    }
    down_ = std::move(down->write);
    up_ = std::move(up->read);
  }
  ~Victim() {
    if (pid_ <= 0) return;
    ::kill(pid_, SIGKILL);
    ::waitpid(pid_, nullptr, __WALL);
  }
  Victim(const Victim&) = delete;
  Victim& operator=(const Victim&) = delete;

  [[nodiscard]] pid_t pid() const { return pid_; }
  std::uint64_t next() {
    std::uint64_t value = 0;
    auto got = read_exact(up_.get(), std::as_writable_bytes(std::span(&value, 1)),
                          deadline_in(std::chrono::seconds(20)));
    EXPECT_TRUE(got) << got.error().text();
    return value;
  }
  void go() {
    std::uint64_t value = 1;
    EXPECT_TRUE(write_all(down_.get(), std::as_bytes(std::span(&value, 1)),
                          deadline_in(std::chrono::seconds(5))));
  }
  std::uint64_t step() {
    go();
    return next();
  }
  int join() {
    int status = -1;
    ::waitpid(pid_, &status, 0);
    pid_ = -1;
    return status;
  }

 private:
  pid_t pid_ = -1;
  Fd down_, up_;
};

char* map_memory(std::uint64_t bytes, int flags = 0) {
  void* memory =
      ::mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | flags, -1, 0);
  if (memory == MAP_FAILED) ::_exit(8);
  return static_cast<char*>(memory);
}

void touch(char* memory, std::uint64_t bytes, char value = 1) {
  for (std::uint64_t at = 0; at < bytes; at += kPageBytes) memory[at] = value;
}

char state_of(pid_t pid) {
  auto stat = read_stat("/proc", pid);
  return stat ? stat->state : '?';
}

bool reaches_state(pid_t pid, char state) {
  for (int i = 0; i < 2000; ++i) {
    if (state_of(pid) == state) return true;
    std::this_thread::sleep_for(milliseconds(1));
  }
  return false;
}

// All threads: one may still run when another has stopped.
bool all_threads_stop(pid_t pid) {
  auto threads = list_pids(std::format("/proc/{}/task", pid));
  return threads && std::ranges::all_of(*threads, [](pid_t t) { return reaches_state(t, 'T'); });
}

class DirtyTrackerTest : public testing::Test {
 protected:
  void SetUp() override {
    if (probe_tracker() != TrackerKind::kUserfaultWriteProtect)
      GTEST_SKIP() << "this kernel has no asynchronous write-protection by userfaultfd";
  }
  PageSet harvest(pid_t pid) {
    auto pages = tracker_->harvest(pid);
    EXPECT_TRUE(pages) << pages.error().text();
    return pages ? std::move(*pages) : PageSet();
  }
  PageSet harvest_frozen(pid_t pid) {
    auto pages = tracker_->harvest_frozen(pid);
    EXPECT_TRUE(pages) << pages.error().text();
    return pages ? std::move(*pages) : PageSet();
  }
  std::unique_ptr<DirtyTracker> tracker_ = std::make_unique<UffdWpTracker>();
};

TEST_F(DirtyTrackerTest, ReportsExactlyWhatWasWritten) {
  Victim victim([](const auto& side) {
    char* memory = map_memory(kMiB);
    touch(memory, kMiB);
    side.tell(memory);
    side.wait();
    memory[3 * kPageBytes] = 2;
    memory[200 * kPageBytes] = 2;
    side.tell(1);
    side.wait();
    side.tell(1);
    side.wait();
    memory[7 * kPageBytes] = 2;
    side.tell(1);
    side.wait();
  });
  auto memory = victim.next();
  EXPECT_EQ(harvest(victim.pid()).pages_in(memory, memory + kMiB), 256U);
  EXPECT_EQ(harvest(victim.pid()).pages_in(memory, memory + kMiB), 0U);
  victim.step();
  auto second = harvest(victim.pid());
  EXPECT_EQ(second.pages_in(memory, memory + kMiB), 2U);
  EXPECT_TRUE(second.contains(memory + 3 * kPageBytes));
  EXPECT_TRUE(second.contains(memory + 200 * kPageBytes));
  victim.step();
  EXPECT_EQ(harvest(victim.pid()).pages_in(memory, memory + kMiB), 0U);
  victim.step();
  for (int i = 0; i < 2; ++i) {  // nothing is protected anew
    auto last = harvest_frozen(victim.pid());
    EXPECT_EQ(last.pages_in(memory, memory + kMiB), 1U);
    EXPECT_TRUE(last.contains(memory + 7 * kPageBytes));
  }
}

TEST_F(DirtyTrackerTest, WritesOfTheKernelCount) {
  Victim victim([](const auto& side) {
    char* memory = map_memory(kMiB);
    touch(memory, kMiB);
    side.tell(memory);
    side.wait();
    int zero = ::open("/dev/zero", O_RDONLY);
    side.tell(::read(zero, memory + 5 * kPageBytes, 2 * kPageBytes) == 2 * kPageBytes);
    side.wait();
  });
  auto memory = victim.next();
  harvest(victim.pid());
  EXPECT_EQ(victim.step(), 1U);
  auto pages = harvest(victim.pid());
  EXPECT_EQ(pages.pages_in(memory, memory + kMiB), 2U);
  EXPECT_TRUE(pages.contains(memory + 5 * kPageBytes, memory + 7 * kPageBytes));
}

TEST_F(DirtyTrackerTest, FrozenHarvestWithoutAnyBeforeHasAll) {
  Victim victim([](const auto& side) {
    char* memory = map_memory(kMiB);
    touch(memory, kMiB / 2);
    side.tell(memory);
    side.wait();
  });
  auto memory = victim.next();
  auto pages = harvest_frozen(victim.pid());
  EXPECT_EQ(pages.pages_in(memory, memory + kMiB), 128U);
  EXPECT_TRUE(pages.contains(memory, memory + kMiB / 2));
}

// What a destination would have: every page as of the last time that it was harvested.
class Shadow {
 public:
  void copy(pid_t pid, const PageSet& pages) {
    pages.for_each([&](std::uint64_t start, std::uint64_t end) {
      for (; start < end; start += kPageBytes)
        if (auto page = read(pid, start)) pages_[start] = *page;
    });
  }
  void expect_equal(pid_t pid, const PageSet& present) {
    std::uint64_t different = 0;
    present.for_each([&](std::uint64_t start, std::uint64_t end) {
      for (; start < end; start += kPageBytes) {
        auto page = read(pid, start);
        auto found = pages_.find(start);
        if (page && (found == pages_.end() || found->second != *page)) ++different;
      }
    });
    EXPECT_EQ(different, 0U);
  }

 private:
  static std::optional<std::string> read(pid_t pid, std::uint64_t address) {
    std::string page(kPageBytes, '\0');
    iovec local{page.data(), page.size()};
    iovec remote{reinterpret_cast<void*>(address), page.size()};
    if (::process_vm_readv(pid, &local, 1, &remote, 1, 0) != ssize_t{kPageBytes}) return {};
    return page;
  }
  std::unordered_map<std::uint64_t, std::string> pages_;
};

constexpr std::uint64_t kArenaBytes = 4 * kMiB;

// Writes all over the arena, and maps, moves and drops memory besides.
void write_at_random(char* arena, unsigned seed) {
  std::minstd_rand random(seed);
  int zero = ::open("/dev/zero", O_RDONLY);
  std::array<void*, 16> blocks{};
  for (std::uint64_t round = 0;; ++round) {
    char* place = arena + random() % (kArenaBytes - 64);
    std::memcpy(place, &round, sizeof round);
    if (round % 64 == 0) (void)!::read(zero, arena + random() % (kArenaBytes - 64), 64);
    if (round % 1024 == 0)
      ::madvise(arena + random() % (kArenaBytes / kPageBytes) * kPageBytes, kPageBytes,
                MADV_DONTNEED);
    if (round % 4096 != 0) continue;
    char* block = map_memory(64 * kPageBytes);
    touch(block, 64 * kPageBytes, static_cast<char>(round));
    void* moved = ::mremap(block, 64 * kPageBytes, 128 * kPageBytes, MREMAP_MAYMOVE);
    touch(static_cast<char*>(moved) + 60 * kPageBytes, 8 * kPageBytes, 3);
    auto& old = blocks[round / 4096 % blocks.size()];
    if (old != nullptr) ::munmap(old, 128 * kPageBytes);
    old = moved;
  }
}

TEST_F(DirtyTrackerTest, CopiesOfWhatItReportsMakeTheMemory) {
  Victim victim([](const auto& side) {
    char* arena = map_memory(kArenaBytes);
    std::vector<std::thread> writers;
    for (unsigned i = 0; i < 4; ++i) writers.emplace_back(write_at_random, arena, i + 1);
    side.tell(arena);
    writers.front().join();
  });
  victim.next();
  Shadow shadow;
  for (int round = 0; round < 8; ++round) {
    for (int i = 0; i < 8; ++i) {
      shadow.copy(victim.pid(), harvest(victim.pid()));
      std::this_thread::sleep_for(milliseconds(2));
    }
    ::kill(victim.pid(), SIGSTOP);
    ASSERT_TRUE(all_threads_stop(victim.pid()));
    shadow.copy(victim.pid(), harvest_frozen(victim.pid()));
    shadow.expect_equal(victim.pid(), *UffdWpTracker().harvest_frozen(victim.pid()));
    ::kill(victim.pid(), SIGCONT);
  }
}

TEST_F(DirtyTrackerTest, NewMappingsAreInTheNextHarvest) {
  Victim victim([](const auto& side) {
    side.tell(1);
    side.wait();
    char* memory = map_memory(kMiB);
    touch(memory, kMiB / 2);
    side.tell(memory);
    side.wait();
    ::munmap(memory, kMiB);
    char* again = static_cast<char*>(::mmap(memory, kMiB, PROT_READ | PROT_WRITE,
                                            MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0));
    touch(again, 8 * kPageBytes);
    side.tell(1);
    side.wait();
  });
  victim.next();
  harvest(victim.pid());
  auto memory = victim.step();
  EXPECT_EQ(harvest(victim.pid()).pages_in(memory, memory + kMiB), 128U);
  EXPECT_EQ(harvest(victim.pid()).pages_in(memory, memory + kMiB), 0U);
  victim.step();
  auto pages = harvest(victim.pid());
  EXPECT_EQ(pages.pages_in(memory, memory + kMiB), 8U);
  EXPECT_TRUE(pages.contains(memory, memory + 8 * kPageBytes));
}

TEST_F(DirtyTrackerTest, MovedMappingsAreInTheNextHarvest) {
  Victim victim([](const auto& side) {
    char* memory = map_memory(kMiB);
    touch(memory, kMiB);
    char* target = map_memory(2 * kMiB);
    side.tell(memory);
    side.wait();
    void* moved = ::mremap(memory, kMiB, 2 * kMiB, MREMAP_MAYMOVE | MREMAP_FIXED, target);
    side.tell(moved);
    side.wait();
    target[9 * kPageBytes] = 5;
    target[300 * kPageBytes] = 5;
    side.tell(1);
    side.wait();
  });
  victim.next();
  harvest(victim.pid());
  auto moved = victim.step();
  EXPECT_EQ(harvest(victim.pid()).pages_in(moved, moved + 2 * kMiB), 256U);
  victim.step();
  auto pages = harvest(victim.pid());
  EXPECT_EQ(pages.pages_in(moved, moved + 2 * kMiB), 2U);
  EXPECT_TRUE(pages.contains(moved + 9 * kPageBytes));
  EXPECT_TRUE(pages.contains(moved + 300 * kPageBytes));
}

TEST_F(DirtyTrackerTest, MovedAfterTheLastHarvestAndThenFrozen) {
  Victim victim([](const auto& side) {
    char* memory = map_memory(kMiB);
    touch(memory, kMiB);
    char* target = map_memory(kMiB);
    side.tell(memory);
    side.wait();
    side.tell(::mremap(memory, kMiB, kMiB, MREMAP_MAYMOVE | MREMAP_FIXED, target));
    side.wait();
  });
  victim.next();
  harvest(victim.pid());
  auto moved = victim.step();
  EXPECT_EQ(harvest_frozen(victim.pid()).pages_in(moved, moved + kMiB), 256U);
}

TEST_F(DirtyTrackerTest, DroppedPagesAreNotReportedUntilTheyAreBack) {
  Victim victim([](const auto& side) {
    char* memory = map_memory(kMiB);
    touch(memory, kMiB);
    side.tell(memory);
    side.wait();
    ::madvise(memory, 16 * kPageBytes, MADV_DONTNEED);
    side.tell(1);
    side.wait();
    memory[0] = 4;
    side.tell(static_cast<std::uint64_t>(memory[kPageBytes]));  // now the zero page
    side.wait();
  });
  auto memory = victim.next();
  harvest(victim.pid());
  victim.step();
  EXPECT_EQ(harvest(victim.pid()).pages_in(memory, memory + kMiB), 0U);
  EXPECT_EQ(victim.step(), 0U);
  auto pages = harvest(victim.pid());
  EXPECT_TRUE(pages.contains(memory));
  EXPECT_TRUE(pages.contains(memory + kPageBytes));
  EXPECT_EQ(pages.pages_in(memory, memory + kMiB), 2U);
}

TEST_F(DirtyTrackerTest, ChangedProtectionKeepsTheTracking) {
  Victim victim([](const auto& side) {
    char* memory = map_memory(kMiB);
    touch(memory, kMiB);
    side.tell(memory);
    side.wait();
    ::mprotect(memory + kMiB / 2, 64 * kPageBytes, PROT_READ);
    side.tell(1);
    side.wait();
    ::mprotect(memory + kMiB / 2, 64 * kPageBytes, PROT_READ | PROT_WRITE);
    memory[kMiB / 2] = 3;
    side.tell(1);
    side.wait();
  });
  auto memory = victim.next();
  harvest(victim.pid());
  victim.step();
  EXPECT_EQ(harvest(victim.pid()).pages_in(memory, memory + kMiB), 0U);
  victim.step();
  auto pages = harvest(victim.pid());
  EXPECT_EQ(pages.pages_in(memory, memory + kMiB), 1U);
  EXPECT_TRUE(pages.contains(memory + kMiB / 2));
}

TEST_F(DirtyTrackerTest, HeapGrowth) {
  Victim victim([](const auto& side) {
    auto* heap = static_cast<char*>(::sbrk(kMiB));
    touch(heap, kMiB);
    side.tell(heap);
    side.wait();
    auto* more = static_cast<char*>(::sbrk(kMiB));
    touch(more, kMiB);
    side.tell(more);
    side.wait();
  });
  auto heap = (victim.next() + kPageBytes - 1) & ~(kPageBytes - 1);
  harvest(victim.pid());
  auto more = (victim.step() + kPageBytes - 1) & ~(kPageBytes - 1);
  auto pages = harvest(victim.pid());
  EXPECT_GE(pages.pages_in(more, more + kMiB), 255U);
  EXPECT_LE(pages.pages_in(heap, more), 1U);
}

// The address of the lowest byte that was written.
[[gnu::noinline]] std::uint64_t use_stack(int depth) {
  volatile char frame[8 * kPageBytes];
  frame[0] = static_cast<char>(depth);
  auto here = reinterpret_cast<std::uint64_t>(&frame[0]);
  std::uint64_t below = depth > 0 ? use_stack(depth - 1) : here;
  frame[1] = frame[0];
  return below;
}

TEST_F(DirtyTrackerTest, StackGrowth) {
  Victim victim([](const auto& side) {
    side.tell(1);
    side.wait();
    side.tell(use_stack(60));
    side.wait();
  });
  victim.next();
  harvest(victim.pid());
  auto lowest = victim.step() & ~(kPageBytes - 1);
  auto pages = harvest(victim.pid());
  EXPECT_TRUE(pages.contains(lowest));
  EXPECT_GE(pages.pages_in(lowest, lowest + 480 * kPageBytes), 60U);
}

TEST_F(DirtyTrackerTest, HugePages) {
  Victim victim([](const auto& side) {
    char* memory = map_memory(10 * kMiB);
    memory += (2 * kMiB - reinterpret_cast<std::uint64_t>(memory) % (2 * kMiB)) % (2 * kMiB);
    ::madvise(memory, 8 * kMiB, MADV_HUGEPAGE);
    touch(memory, 8 * kMiB);
    side.tell(memory);
    side.wait();
    memory[3 * kMiB] = 2;
    side.tell(1);
    side.wait();
    side.tell(1);
    side.wait();
  });
  auto memory = victim.next();
  EXPECT_EQ(harvest(victim.pid()).pages_in(memory, memory + 8 * kMiB), 2048U);
  EXPECT_EQ(harvest(victim.pid()).pages_in(memory, memory + 8 * kMiB), 0U);
  victim.step();
  auto pages = harvest(victim.pid());
  EXPECT_TRUE(pages.contains(memory + 3 * kMiB));
  EXPECT_LE(pages.pages_in(memory, memory + 8 * kMiB), 512U);
  victim.step();
  EXPECT_EQ(harvest(victim.pid()).pages_in(memory, memory + 8 * kMiB), 0U);
}

TEST_F(DirtyTrackerTest, HugeReservationsStayCheap) {
  constexpr std::uint64_t kReserved = 64ULL << 30;
  Victim victim([](const auto& side) {
    char* memory = map_memory(kReserved, MAP_NORESERVE);
    memory[kReserved / 2] = 1;
    side.tell(memory);
    side.wait();
    memory[kReserved / 4] = 1;
    side.tell(1);
    side.wait();
  });
  auto page_tables_kib = [&] {
    std::istringstream lines(*read_file(std::format("/proc/{}/status", victim.pid())));
    std::uint64_t value = 0;
    for (std::string key; lines >> key; lines.ignore(1 << 16, '\n'))
      if (key == "VmPTE:") lines >> value;
    return value;
  };
  auto memory = victim.next();
  auto before = page_tables_kib();
  EXPECT_EQ(harvest(victim.pid()).pages_in(memory, memory + kReserved), 1U);
  EXPECT_EQ(harvest(victim.pid()).pages_in(memory, memory + kReserved), 0U);
  victim.step();
  auto pages = harvest(victim.pid());
  EXPECT_EQ(pages.pages_in(memory, memory + kReserved), 1U);
  EXPECT_TRUE(pages.contains(memory + kReserved / 4));
  EXPECT_LE(page_tables_kib(), before + 64);
  // Write-protecting leaves no trace where nothing is: that would look swapped out.
  EXPECT_EQ(UffdWpTracker().harvest_frozen(victim.pid())->pages_in(memory, memory + kReserved), 2U);
}

TEST_F(DirtyTrackerTest, AForkedChildIsAnotherProcess) {
  Victim victim([](const auto& side) {
    char* memory = map_memory(kMiB);
    touch(memory, kMiB);
    side.tell(memory);
    side.wait();
    pid_t child = ::fork();
    if (child == 0) {
      ::prctl(PR_SET_PDEATHSIG, SIGKILL);
      memory[2 * kPageBytes] = 2;
      side.tell(1);
      while (true) ::pause();
    }
    side.tell(static_cast<std::uint64_t>(child));
    side.wait();
    memory[4 * kPageBytes] = 2;
    side.tell(1);
    side.wait();
    ::kill(child, SIGKILL);
  });
  auto memory = victim.next();
  harvest(victim.pid());
  auto first = victim.step();
  auto child = static_cast<pid_t>(std::max(first, victim.next()));
  EXPECT_EQ(harvest(child).pages_in(memory, memory + kMiB), 256U);
  EXPECT_EQ(harvest(child).pages_in(memory, memory + kMiB), 0U);
  victim.step();
  auto pages = harvest(victim.pid());
  EXPECT_EQ(pages.pages_in(memory, memory + kMiB), 1U);
  EXPECT_TRUE(pages.contains(memory + 4 * kPageBytes));
  EXPECT_EQ(harvest(child).pages_in(memory, memory + kMiB), 0U);
}

TEST_F(DirtyTrackerTest, AfterAnExecAllPagesAreReported) {
  Victim victim([](const auto& side) {
    side.tell(1);
    side.wait();
    ::execl("/bin/sleep", "sleep", "60", nullptr);
  });
  victim.next();
  harvest(victim.pid());
  harvest(victim.pid());
  victim.go();
  for (int i = 0; i < 1000 && command_line("/proc", victim.pid()) != "sleep 60"; ++i)
    std::this_thread::sleep_for(milliseconds(1));
  ASSERT_TRUE(reaches_state(victim.pid(), 'S'));
  auto all = UffdWpTracker().harvest_frozen(victim.pid());
  ASSERT_TRUE(all);
  EXPECT_GT(all->pages(), 5U);
  EXPECT_EQ(harvest_frozen(victim.pid()).pages(), all->pages());
  EXPECT_EQ(harvest(victim.pid()).pages(), all->pages());
  EXPECT_LE(harvest(victim.pid()).pages(), 1U);
}

TEST_F(DirtyTrackerTest, AnEndedProcessIsGone) {
  Victim victim([](const auto& side) {
    side.tell(1);
    side.wait();
  });
  victim.next();
  harvest(victim.pid());
  victim.go();
  ASSERT_TRUE(reaches_state(victim.pid(), 'Z'));
  auto zombie = tracker_->harvest(victim.pid());
  ASSERT_FALSE(zombie);
  EXPECT_EQ(zombie.error().code, ErrorCode::kGone);
  pid_t pid = victim.pid();
  victim.join();
  auto gone = tracker_->harvest(pid);
  ASSERT_FALSE(gone);
  EXPECT_EQ(gone.error().code, ErrorCode::kGone);
  EXPECT_EQ(tracker_->harvest_frozen(pid).error().code, ErrorCode::kGone);
}

TEST_F(DirtyTrackerTest, ATracedProcessIsRefused) {
  Victim victim([](const auto& side) {
    side.tell(1);
    side.wait();
    side.tell(7);
    side.wait();
  });
  victim.next();
  ASSERT_EQ(::ptrace(PTRACE_SEIZE, victim.pid(), nullptr, nullptr), 0);
  auto refused = tracker_->harvest(victim.pid());
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().code, ErrorCode::kBlocked);
  EXPECT_EQ(victim.step(), 7U);
}

TEST_F(DirtyTrackerTest, AStoppedProcessStaysStopped) {
  Victim victim([](const auto& side) {
    char* memory = map_memory(kMiB);
    touch(memory, kMiB);
    side.tell(memory);
    side.wait();
    side.tell(5);
    side.wait();
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

volatile sig_atomic_t handled = 0;
volatile sig_atomic_t faults = 0;
void count_signal(int signal) {
  auto& count = signal == SIGSEGV ? faults : handled;
  count = count + 1;
}

TEST_F(DirtyTrackerTest, SignalsThatArriveMeanwhileAreNotLost) {
  constexpr int kRounds = 300;
  Victim victim([](const auto& side) {
    struct sigaction action{};
    action.sa_handler = count_signal;
    sigfillset(&action.sa_mask);
    for (int signal : {SIGRTMIN, SIGSEGV}) ::sigaction(signal, &action, nullptr);
    side.tell(1);
    while (handled < kRounds) {
    }
    side.tell(static_cast<std::uint64_t>(handled));
    side.tell(static_cast<std::uint64_t>(faults));
    side.wait();
  });
  victim.next();
  std::jthread sender([&] {
    for (int i = 0; i < kRounds; ++i) {
      sigval value{};
      ::sigqueue(victim.pid(), SIGRTMIN, value);
      if (i % 10 == 0 && i > 0) {
        ::kill(victim.pid(), SIGSEGV);
        std::this_thread::sleep_for(milliseconds(3));
      }
    }
  });
  for (int i = 0; i < 100; ++i) {
    UffdWpTracker fresh;  // stops the process
    ASSERT_TRUE(fresh.harvest(victim.pid()));
  }
  EXPECT_EQ(victim.next(), std::uint64_t{kRounds});
  EXPECT_GE(victim.next(), 15U);  // of 29: two that are pending at a time are one
}

TEST_F(DirtyTrackerTest, AJobControlStopThatArrivesMeanwhileIsNotLost) {
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

TEST_F(DirtyTrackerTest, BlockingCallsGoOn) {
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
      side.tell(calls[i](blocking) ? 1 : 0);
      side.wait();
    });
    auto write_end = victim.next();
    ASSERT_TRUE(reaches_state(victim.pid(), 'S'));
    for (int round = 0; round < 5; ++round) {
      UffdWpTracker fresh;
      ASSERT_TRUE(fresh.harvest(victim.pid()));
      std::this_thread::sleep_for(milliseconds(20));
    }
    if (i == 0) {
      auto end = open_file(std::format("/proc/{}/fd/{}", victim.pid(), write_end), O_WRONLY);
      ASSERT_TRUE(end);
      EXPECT_EQ(::write(end->get(), "x", 1), 1);
    }
    EXPECT_EQ(victim.next(), 1U) << "call " << i;
  }
}

TEST_F(DirtyTrackerTest, ASeccompFilteredProcess) {
  Victim victim([](const auto& side) {
    char* memory = map_memory(kMiB);
    touch(memory, kMiB);
    // Kills at anything but read, write and exit_group.
    sock_filter filter[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_read, 3, 0),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_write, 2, 0),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_exit_group, 1, 0),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_KILL_PROCESS),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    sock_fprog program{std::size(filter), filter};
    ::prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
    if (::prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) != 0) ::_exit(6);
    side.tell(memory);
    side.wait();
    memory[kPageBytes] = 2;
    side.tell(1);
    side.wait();
  });
  auto memory = victim.next();
  EXPECT_EQ(harvest(victim.pid()).pages_in(memory, memory + kMiB), 256U);
  victim.step();
  EXPECT_EQ(harvest(victim.pid()).pages_in(memory, memory + kMiB), 1U);
  victim.go();
  EXPECT_EQ(victim.join(), 0);
}

TEST_F(DirtyTrackerTest, AProcessOfSomebodyElse) {
  Victim victim([](const auto& side) {
    if (::setgid(65534) != 0 || ::setuid(65534) != 0) ::_exit(5);
    char* memory = map_memory(kMiB);
    touch(memory, kMiB);
    side.tell(memory);
    side.wait();
    memory[kPageBytes] = 2;
    side.tell(1);
    side.wait();
  });
  auto memory = victim.next();
  EXPECT_EQ(harvest(victim.pid()).pages_in(memory, memory + kMiB), 256U);
  victim.step();
  EXPECT_EQ(harvest(victim.pid()).pages_in(memory, memory + kMiB), 1U);
}

TEST_F(DirtyTrackerTest, AProcessWithThreads) {
  Victim victim([](const auto& side) {
    std::atomic<bool> stop = false;
    std::atomic<std::uint64_t> turns = 0;
    std::vector<std::thread> threads;
    for (int i = 0; i < 8; ++i)
      threads.emplace_back([&] {
        while (!stop) ++turns;
      });
    side.tell(1);
    side.wait();
    stop = true;
    for (auto& thread : threads) thread.join();
    side.tell(turns);
    side.wait();
  });
  victim.next();
  for (int i = 0; i < 50; ++i) {
    UffdWpTracker fresh;
    ASSERT_TRUE(fresh.harvest(victim.pid()));
  }
  EXPECT_GT(victim.step(), 0U);
}

TEST_F(DirtyTrackerTest, LeavesNothingBehind) {
  Victim victim([](const auto& side) {
    char* memory = map_memory(kMiB);
    touch(memory, kMiB);
    side.tell(memory);
    side.wait();
    touch(memory, kMiB, 3);
    side.tell(static_cast<std::uint64_t>(memory[0] + memory[kMiB - kPageBytes]));
    side.wait();
  });
  auto memory = victim.next();
  auto files = [](pid_t pid) {
    return std::ranges::distance(
        std::filesystem::directory_iterator(std::format("/proc/{}/fd", pid)));
  };
  auto before = files(victim.pid());
  auto own_before = files(::getpid());
  auto maps_before = *read_file(std::format("/proc/{}/maps", victim.pid()));
  auto flags = [&] { return *read_file(std::format("/proc/{}/smaps", victim.pid())); };
  harvest(victim.pid());
  EXPECT_EQ(files(victim.pid()), before);
  EXPECT_NE(flags().find(" uw"), std::string::npos);
  tracker_.reset();
  EXPECT_EQ(flags().find(" uw"), std::string::npos);
  EXPECT_EQ(files(::getpid()), own_before);
  EXPECT_EQ(*read_file(std::format("/proc/{}/maps", victim.pid())), maps_before);
  EXPECT_EQ(victim.step(), 6U);
  UffdWpTracker fresh;
  EXPECT_EQ(fresh.harvest(victim.pid())->pages_in(memory, memory + kMiB), 256U);
}

TEST_F(DirtyTrackerTest, AFrozenProcessIsBusy) {
  auto mount = cgroup2_mount();
  if (!mount || ::access(mount->c_str(), W_OK) != 0) GTEST_SKIP() << "no cgroup2 hierarchy here";
  auto group = Cgroup::create(std::format("gestalt-test-{}", ::getpid()));
  if (!group) GTEST_SKIP() << "no control group: " << group.error().text();
  {
    Victim victim([](const auto& side) {
      side.tell(1);
      side.wait();
      side.tell(6);
      side.wait();
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

TEST(SoftDirtyTracker, ReportsWhatWasWritten) {
  if (!clear_soft_dirty(::getpid())) GTEST_SKIP() << "no clear_refs";
  Victim victim([](const auto& side) {
    char* memory = map_memory(kMiB);
    touch(memory, kMiB);
    side.tell(memory);
    side.wait();
    memory[kPageBytes] = 2;
    side.tell(1);
    side.wait();
  });
  auto memory = victim.next();
  EXPECT_EQ(read_soft_dirty(victim.pid(), true)->pages_in(memory, memory + kMiB), 256U);
  ASSERT_TRUE(clear_soft_dirty(victim.pid()));
  victim.step();
  auto pages = read_soft_dirty(victim.pid(), false);
  ASSERT_TRUE(pages) << pages.error().text();
  if (pages->empty()) GTEST_SKIP() << "this kernel has no soft-dirty bits";
  EXPECT_EQ(pages->pages_in(memory, memory + kMiB), 1U);
  EXPECT_TRUE(pages->contains(memory + kPageBytes));
}

TEST(MemoryMap, IsParsed) {
  auto areas = parse_memory_map(
      "55d0c0000000-55d0c0002000 r-xp 00001000 fe:01 1234                       /bin/a b\n"
      "55d0c0a00000-55d0c0a21000 rw-p 00000000 00:00 0                          [heap]\n"
      "7f0000000000-7f0000200000 rw-p 00000000 00:0f 77                         "
      "/anon_hugepage (deleted)\n"
      "7f0001000000-7f0001001000 rw-s 00000000 00:01 9                          /dev/zero\n"
      "7f0002000000-7f0002001000 rw-p 00000000 00:00 0 \n"
      "7fffa0000000-7fffa0002000 r-xp 00000000 00:00 0                          [vdso]\n");
  ASSERT_TRUE(areas) << areas.error().text();
  ASSERT_EQ(areas->size(), 6U);
  EXPECT_EQ((*areas)[0].name, "/bin/a b");
  EXPECT_EQ((*areas)[0].offset, 0x1000U);
  EXPECT_EQ((*areas)[0].inode, 1234U);
  EXPECT_TRUE((*areas)[0].is_executable());
  std::vector<bool> anonymous;
  for (const auto& area : *areas) anonymous.push_back(area.is_private_anonymous());
  EXPECT_EQ(anonymous, (std::vector<bool>{false, true, false, false, true, false}));
  for (const char* odd : {"x", "1000-2000", "2000-1000 rw-p 0 00:00 0", "1-2 rw-p 0 00:00 0",
                          "1000-2000 rwp 0 00:00 0", "1000-2000 rw-p 0 00:00 x"})
    EXPECT_FALSE(parse_memory_map(odd)) << odd;
}

}  // namespace
}  // namespace gestalt
