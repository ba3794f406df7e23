// What may be pinned of real processes.
#include "migrate/zero_copy_plan.h"

#include <fcntl.h>
#include <sys/syscall.h>

#include "migrate/test_victim.h"

namespace gestalt {
namespace {

constexpr std::uint64_t kPages = 64;
constexpr std::uint64_t kBytes = kPages * kPageBytes;

// Lets a victim make memory, and plans for all of it.
class ZeroCopyPlanTest : public testing::Test {
 protected:
  void plan(char* (*make)(), std::uint64_t bytes = kBytes) {
    victim_ = std::make_unique<Victim>([make](const Victim::Side& side) { side.step(make()); });
    start_ = victim_->next();
    PageSet wanted = wanted_;
    if (wanted.empty()) wanted.add(start_, start_ + bytes);
    plan(wanted);
  }
  void plan(const PageSet& wanted) {
    auto planned = plan_zero_copy(victim_->pid(), wanted, limits_);
    ASSERT_TRUE(planned) << planned.error().text();
    plan_ = std::move(*planned);
    std::uint64_t pages = 0;
    for (auto refused : plan_.refused) pages += refused;
    for (const auto& range : plan_.ranges) pages += range.wanted_pages;
    EXPECT_EQ(pages, wanted.pages());
  }
  std::uint64_t refused(ZeroCopyRefusal why) {
    return plan_.refused[static_cast<std::size_t>(why)];
  }
  void expect_whole() {
    ASSERT_EQ(plan_.ranges.size(), 1U);
    EXPECT_EQ(plan_.ranges[0].start, start_);
    EXPECT_EQ(plan_.ranges[0].end, start_ + kBytes);
  }

  ZeroCopyLimits limits_;
  std::unique_ptr<Victim> victim_;
  std::uint64_t start_ = 0;
  PageSet wanted_;
  ZeroCopyPlan plan_;
};

// Apart from its neighbours, which the kernel could unite it with.
char* own(std::uint64_t bytes) {
  char* memory = map_memory(bytes + 2 * kPageBytes);
  ::mprotect(memory, kPageBytes, PROT_NONE);
  ::mprotect(memory + kPageBytes + bytes, kPageBytes, PROT_NONE);
  ::madvise(memory + kPageBytes, bytes, MADV_NOHUGEPAGE);
  return memory + kPageBytes;
}

char* touched() {
  char* memory = own(kBytes);
  touch(memory, kBytes);
  return memory;
}

TEST_F(ZeroCopyPlanTest, OneRange) {
  plan(touched);
  expect_whole();
  EXPECT_EQ(plan_.ranges[0].wanted_pages, kPages);
}

TEST_F(ZeroCopyPlanTest, ReadOnly) {
  plan([] {
    char* memory = touched();
    ::mprotect(memory, kBytes, PROT_READ);
    return memory;
  });
  expect_whole();
}

TEST_F(ZeroCopyPlanTest, Locked) {
  plan([] {
    char* memory = touched();
    if (::mlock(memory, kBytes) != 0) ::_exit(7);
    return memory;
  });
  expect_whole();
}

TEST_F(ZeroCopyPlanTest, NotReadable) {
  for (auto make : {+[] {
                      char* memory = touched();
                      ::mprotect(memory, kBytes, PROT_NONE);
                      return memory;
                    },
                    +[] {
                      char* memory = touched();
                      ::mprotect(memory, kBytes, PROT_WRITE);
                      return memory;
                    }}) {
    plan(make);
    EXPECT_EQ(refused(ZeroCopyRefusal::kMapping), kPages);
  }
}

TEST_F(ZeroCopyPlanTest, SharedMappingAndFile) {
  plan([] {
    void* memory =
        ::mmap(nullptr, kBytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    touch(static_cast<char*>(memory), kBytes);
    return static_cast<char*>(memory);
  });
  EXPECT_EQ(refused(ZeroCopyRefusal::kMapping), kPages);
  plan([] {
    Fd file = std::move(*open_file("/proc/self/exe", O_RDONLY));
    void* memory = ::mmap(nullptr, kBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE, file.get(), 0);
    touch(static_cast<char*>(memory), kBytes);
    return static_cast<char*>(memory);
  });
  EXPECT_EQ(refused(ZeroCopyRefusal::kMapping), kPages);
}

TEST_F(ZeroCopyPlanTest, NotThere) {
  plan([] { return own(kBytes); });
  EXPECT_EQ(refused(ZeroCopyRefusal::kNotPresent), kPages);
  PageSet nowhere;
  nowhere.add(0x10000, 0x20000);
  plan(nowhere);
  EXPECT_EQ(refused(ZeroCopyRefusal::kMapping), 16U);
}

TEST_F(ZeroCopyPlanTest, ZerosThatWereOnlyRead) {
  plan([] {
    char* memory = own(kBytes);
    for (std::uint64_t at = 0; at < kBytes; at += kPageBytes)
      if (static_cast<volatile char*>(memory)[at] != 0) ::_exit(7);
    return memory;
  });
  EXPECT_TRUE(plan_.ranges.empty());
  EXPECT_EQ(refused(ZeroCopyRefusal::kShared) + refused(ZeroCopyRefusal::kMapping), kPages);
}

TEST_F(ZeroCopyPlanTest, SharedByAFork) {
  plan([] {
    char* memory = touched();
    pid_t self = ::getpid();
    if (::fork() == 0) {
      ::prctl(PR_SET_PDEATHSIG, SIGKILL);
      if (::getppid() != self) ::_exit(0);
      while (true) ::pause();
    }
    touch(memory, 8 * kPageBytes, 2);  // its own again
    return memory;
  });
  ASSERT_EQ(plan_.ranges.size(), 1U);
  EXPECT_EQ(plan_.ranges[0].pages(), 8U);
  EXPECT_EQ(refused(ZeroCopyRefusal::kShared), kPages - 8);
}

TEST_F(ZeroCopyPlanTest, HolesAreNeverBridged) {
  limits_.min_region_pages = 1;
  plan([] {
    char* memory = own(kBytes);
    for (std::uint64_t at = 0; at < kBytes; at += 2 * kPageBytes) memory[at] = 1;
    return memory;
  });
  EXPECT_EQ(plan_.ranges.size(), kPages / 2);
  EXPECT_EQ(refused(ZeroCopyRefusal::kNotPresent), kPages / 2);
}

TEST_F(ZeroCopyPlanTest, BridgesAreOfPagesThatCouldBeWanted) {
  plan(touched);
  PageSet wanted;
  for (std::uint64_t at = 0; at < kBytes; at += 2 * kPageBytes)
    wanted.add(start_ + at, start_ + at + kPageBytes);
  plan(wanted);
  ASSERT_EQ(plan_.ranges.size(), 1U);
  EXPECT_EQ(plan_.ranges[0].wanted_pages, kPages / 2);
  EXPECT_EQ(plan_.ranges[0].end, start_ + kBytes - kPageBytes);
  limits_.max_bridged_pages = 0;
  limits_.min_region_pages = 1;
  plan(wanted);
  EXPECT_EQ(plan_.ranges.size(), kPages / 2);
}

TEST_F(ZeroCopyPlanTest, MappingsAreNotSpanned) {
  plan([] {
    char* memory = touched();
    ::mprotect(memory + kBytes / 2, kBytes / 2, PROT_READ);
    return memory;
  });
  ASSERT_EQ(plan_.ranges.size(), 2U);
  EXPECT_EQ(plan_.ranges[0].end, start_ + kBytes / 2);
  EXPECT_EQ(plan_.ranges[1].start, start_ + kBytes / 2);
}

TEST_F(ZeroCopyPlanTest, Limits) {
  plan(touched);
  PageSet wanted;
  for (std::uint64_t i = 0; i < 10; ++i)  // 1, 2, 3 and so on, and a gap between them
    wanted.add(start_ + i * (i + 1) / 2 * kPageBytes,
               start_ + ((i + 1) * (i + 2) / 2 - 1) * kPageBytes + (i == 0 ? kPageBytes : 0));
  limits_.max_bridged_pages = 0;
  limits_.min_region_pages = 4;
  limits_.max_regions = 3;
  plan(wanted);
  ASSERT_EQ(plan_.ranges.size(), 3U);
  EXPECT_EQ(plan_.ranges[0].pages(), 7U);
  EXPECT_EQ(plan_.ranges[2].pages(), 9U);
  EXPECT_EQ(refused(ZeroCopyRefusal::kRegions), 4U + 5U + 6U);
  EXPECT_GT(refused(ZeroCopyRefusal::kFew), 0U);
  limits_ = {.max_region_bytes = 16 * kPageBytes};
  wanted.add(start_, start_ + kBytes);
  plan(wanted);
  EXPECT_EQ(plan_.ranges.size(), 4U);
}

TEST_F(ZeroCopyPlanTest, ManyBlocksFromTheMiddleOfOne) {
  constexpr std::uint64_t kLarge = 100 * kMiB + 7 * kPageBytes;
  plan(
      [] {
        char* memory = own(kLarge);
        touch(memory, kLarge);
        return memory;
      },
      kLarge);
  ASSERT_EQ(plan_.ranges.size(), 1U);
  EXPECT_EQ(plan_.ranges[0].end - plan_.ranges[0].start, kLarge);
}

TEST_F(ZeroCopyPlanTest, HugePages) {
  plan(
      [] {
        char* memory = map_memory(4 * kMiB);
        memory = reinterpret_cast<char*>((reinterpret_cast<std::uint64_t>(memory) + 2 * kMiB - 1) /
                                         (2 * kMiB) * (2 * kMiB));
        ::madvise(memory, 2 * kMiB, MADV_HUGEPAGE);
        touch(memory, 2 * kMiB);
        return memory;
      },
      2 * kMiB);
  ASSERT_EQ(plan_.ranges.size(), 1U);
  EXPECT_EQ(plan_.ranges[0].pages(), 512U);
}

TEST_F(ZeroCopyPlanTest, TheProcessHasEnded) {
  plan(touched);
  pid_t pid = victim_->pid();
  victim_->go();
  victim_->join();
  auto planned = plan_zero_copy(pid, PageSet(), limits_);
  ASSERT_FALSE(planned);
  EXPECT_EQ(planned.error().code, ErrorCode::kGone);
}

}  // namespace
}  // namespace gestalt
