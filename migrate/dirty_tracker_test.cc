// Every case with real processes and the tracker that this kernel has.
#include "migrate/dirty_tracker.h"

#include <fcntl.h>
#include <sys/uio.h>

#include <array>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <optional>
#include <random>
#include <sstream>
#include <unordered_map>

#include "common/format.h"
#include "migrate/injector.h"
#include "migrate/soft_dirty_tracker.h"
#include "migrate/test_victim.h"

namespace gestalt {
namespace {

TEST_F(DirtyTrackerTest, ReportsExactlyWhatWasWritten) {
  Victim victim([](const auto& side) {
    char* memory = map_touched(kMiB);
    side.step(memory);
    memory[3 * kPageBytes] = 2;
    memory[200 * kPageBytes] = 2;
    side.step(1);
    side.step(1);
    memory[7 * kPageBytes] = 2;
    side.step(1);
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
    char* memory = map_touched(kMiB);
    side.step(memory);
    int zero = ::open("/dev/zero", O_RDONLY);
    side.step(::read(zero, memory + 5 * kPageBytes, 2 * kPageBytes) == 2 * kPageBytes);
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
    side.step(memory);
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
    if (moved == MAP_FAILED) {
      // A harvest that had read the map before registered a part of it: the kernel moves no
      // two mappings at once.
      if (errno != EFAULT) ::_exit(8);
      ::munmap(block, 64 * kPageBytes);
      continue;
    }
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
  for (Rounds rounds(1, 8); rounds.next();) {
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
    side.step(1);
    char* memory = map_memory(kMiB);
    touch(memory, kMiB / 2);
    side.step(memory);
    ::munmap(memory, kMiB);
    char* again = static_cast<char*>(::mmap(memory, kMiB, PROT_READ | PROT_WRITE,
                                            MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0));
    touch(again, 8 * kPageBytes);
    side.step(1);
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
    char* memory = map_touched(kMiB);
    char* target = map_memory(2 * kMiB);
    side.step(memory);
    void* moved = ::mremap(memory, kMiB, 2 * kMiB, MREMAP_MAYMOVE | MREMAP_FIXED, target);
    side.step(moved);
    target[9 * kPageBytes] = 5;
    target[300 * kPageBytes] = 5;
    side.step(1);
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
    char* memory = map_touched(kMiB);
    char* target = map_memory(kMiB);
    side.step(memory);
    side.step(::mremap(memory, kMiB, kMiB, MREMAP_MAYMOVE | MREMAP_FIXED, target));
  });
  victim.next();
  harvest(victim.pid());
  auto moved = victim.step();
  EXPECT_EQ(harvest_frozen(victim.pid()).pages_in(moved, moved + kMiB), 256U);
}

TEST_F(DirtyTrackerTest, DroppedPagesAreNotReportedUntilTheyAreBack) {
  Victim victim([](const auto& side) {
    char* memory = map_touched(kMiB);
    side.step(memory);
    ::madvise(memory, 16 * kPageBytes, MADV_DONTNEED);
    side.step(1);
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
    char* memory = map_touched(kMiB);
    side.step(memory);
    ::mprotect(memory + kMiB / 2, 64 * kPageBytes, PROT_READ);
    side.step(1);
    ::mprotect(memory + kMiB / 2, 64 * kPageBytes, PROT_READ | PROT_WRITE);
    memory[kMiB / 2] = 3;
    side.step(1);
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
    side.step(heap);
    auto* more = static_cast<char*>(::sbrk(kMiB));
    touch(more, kMiB);
    side.step(more);
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
    side.step(1);
    side.step(use_stack(60));
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
    side.step(memory);
    memory[3 * kMiB] = 2;
    side.step(1);
    side.step(1);
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
    ::madvise(memory, kReserved, MADV_NOHUGEPAGE);  // a page is to be a page
    memory[kReserved / 2] = 1;
    side.step(memory);
    memory[kReserved / 4] = 1;
    side.step(1);
  });
  auto page_tables_kib = [&] {
    std::istringstream lines(*read_file(formatted("/proc/{}/status", victim.pid())));
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
    char* memory = map_touched(kMiB);
    side.step(memory);
    pid_t child = ::fork();
    if (child == 0) {
      ::prctl(PR_SET_PDEATHSIG, SIGKILL);
      memory[2 * kPageBytes] = 2;
      side.tell(1);
      while (true) ::pause();
    }
    side.step(static_cast<std::uint64_t>(child));
    memory[4 * kPageBytes] = 2;
    side.step(1);
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
    side.step(1);
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
  Victim victim([](const auto& side) { side.step(1); });
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

TEST_F(DirtyTrackerTest, LeavesNothingBehind) {
  Victim victim([](const auto& side) {
    char* memory = map_touched(kMiB);
    side.step(memory);
    touch(memory, kMiB, 3);
    side.step(static_cast<std::uint64_t>(memory[0] + memory[kMiB - kPageBytes]));
  });
  auto memory = victim.next();
  auto files = [](pid_t pid) {
    return std::ranges::distance(
        std::filesystem::directory_iterator(formatted("/proc/{}/fd", pid)));
  };
  auto before = files(victim.pid());
  auto own_before = files(::getpid());
  auto maps_before = *read_file(formatted("/proc/{}/maps", victim.pid()));
  auto flags = [&] { return *read_file(formatted("/proc/{}/smaps", victim.pid())); };
  harvest(victim.pid());
  EXPECT_EQ(files(victim.pid()), before);
  EXPECT_NE(flags().find(" uw"), std::string::npos);
  tracker_.reset();
  EXPECT_EQ(flags().find(" uw"), std::string::npos);
  EXPECT_EQ(files(::getpid()), own_before);
  EXPECT_EQ(*read_file(formatted("/proc/{}/maps", victim.pid())), maps_before);
  EXPECT_EQ(victim.step(), 6U);
  UffdWpTracker fresh;
  EXPECT_EQ(fresh.harvest(victim.pid())->pages_in(memory, memory + kMiB), 256U);
}

// Figures for people: --gtest_also_run_disabled_tests --gtest_filter='*Measure*'.
TEST_F(DirtyTrackerTest, DISABLED_Measure) {
  constexpr std::uint64_t kBytes = 1ULL << 30;
  Victim victim([](const auto& side) {
    char* memory = map_memory(kBytes);
    ::madvise(memory, kBytes, MADV_NOHUGEPAGE);
    touch(memory, kBytes);
    side.tell(memory);
    for (std::uint64_t stride : {1, 16, 1024}) {
      side.wait();
      auto began = Clock::now();
      for (std::uint64_t at = 0; at < kBytes; at += stride * kPageBytes) memory[at] = 2;
      auto writes = static_cast<double>(kBytes / kPageBytes / stride);
      std::printf("first write to a page: %.2f us\n",
                  seconds_between(began, Clock::now()) * 1e6 / writes);
      std::fflush(stdout);
      side.tell(stride);
    }
    side.wait();
  });
  victim.next();
  auto measure = [&](const char* what, auto harvest) {
    auto began = Clock::now();
    auto pages = harvest().pages();
    std::printf("%s: %lu pages in %.2f ms\n", what, pages,
                seconds_between(began, Clock::now()) * 1e3);
  };
  auto running = [&] { return harvest(victim.pid()); };
  measure("first", running);
  measure("nothing written", running);
  for (const char* what : {"all", "one of 16", "one of 1024"}) {
    victim.step();
    measure(what, [&] { return harvest_frozen(victim.pid()); });
    measure(what, running);
  }
  auto began = Clock::now();
  for (int i = 0; i < 100; ++i) EXPECT_TRUE(open_userfaultfd_of(victim.pid()));
  std::printf("userfaultfd made in it: %.2f ms\n", seconds_between(began, Clock::now()) * 10);
}

TEST(SoftDirtyTracker, ReportsWhatWasWritten) {
  if (!clear_soft_dirty(::getpid())) GTEST_SKIP() << "no clear_refs";
  Victim victim([](const auto& side) {
    char* memory = map_touched(kMiB);
    side.step(memory);
    memory[kPageBytes] = 2;
    side.step(1);
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

}  // namespace
}  // namespace gestalt
