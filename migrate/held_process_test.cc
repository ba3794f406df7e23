// Real processes that stand still, and do system calls for others.
#include "migrate/held_process.h"

#include <sys/syscall.h>

#include <atomic>

#include "migrate/test_victim.h"

namespace gestalt {
namespace {

// Counts in a thread of its own, too, into memory that is shared with the test.
struct Counters {
  std::atomic<std::uint64_t> main = 0;
  std::atomic<std::uint64_t> thread = 0;
};

class HeldProcessTest : public testing::Test {
 protected:
  HeldProcessTest()
      : memory_(::mmap(nullptr, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0)),
        counters_(new(memory_) Counters),
        victim_([this](const auto& side) {
          std::jthread thread([this] {
            while (true) count(counters_->thread);
          });
          side.tell(1);
          while (true) count(counters_->main);
        }) {
    victim_.next();
  }
  ~HeldProcessTest() override { ::munmap(memory_, 4096); }

  static void count(std::atomic<std::uint64_t>& counter) {
    ++counter;
    ::usleep(100);
  }
  // Both have gone on within ten seconds.
  bool goes_on() {
    auto main = counters_->main.load();
    auto thread = counters_->thread.load();
    for (auto deadline = deadline_in(std::chrono::seconds(10)); Clock::now() < deadline;) {
      if (counters_->main > main && counters_->thread > thread) return true;
      ::usleep(1000);
    }
    return false;
  }

  void* memory_;
  Counters* counters_;
  Victim victim_;
};

TEST_F(HeldProcessTest, StandsStillWithAllItsThreads) {
  {
    auto held = HeldProcess::hold(victim_.pid());
    ASSERT_TRUE(held) << held.error().text();
    auto main = counters_->main.load();
    auto thread = counters_->thread.load();
    ::usleep(20'000);
    EXPECT_EQ(counters_->main.load(), main);
    EXPECT_EQ(counters_->thread.load(), thread);
  }
  EXPECT_TRUE(goes_on());
}

TEST_F(HeldProcessTest, CallsAreItsOwn) {
  auto held = HeldProcess::hold(victim_.pid());
  ASSERT_TRUE(held) << held.error().text();
  EXPECT_EQ((*held)->call(SYS_getpid, {}).value_or(0), victim_.pid());
  EXPECT_EQ((*held)->call(SYS_getppid, {}).value_or(0), ::getpid());
  EXPECT_EQ((*held)->call(SYS_close, {~0ULL}).value_or(0), -EBADF);
  std::uint64_t number = 42;
  ASSERT_TRUE((*held)->put(8, &number, sizeof number));
  number = 0;
  ASSERT_TRUE((*held)->get(8, &number, sizeof number));
  EXPECT_EQ(number, 42U);
  held->reset();
  EXPECT_TRUE(goes_on());
}

TEST_F(HeldProcessTest, WhoHoldsItCrashes) {
  pid_t holder = ::fork();
  if (holder == 0) {
    auto held = HeldProcess::hold(victim_.pid());
    bool called = held && (*held)->call(SYS_getpid, {}).value_or(0) == victim_.pid();
    ::_exit(called ? 0 : 1);
  }
  int status = -1;
  ASSERT_EQ(::waitpid(holder, &status, 0), holder);
  EXPECT_EQ(status, 0);
  EXPECT_TRUE(goes_on());
}

TEST(HeldProcess, ThereIsNone) {
  pid_t pid = ::fork();
  if (pid == 0) ::_exit(0);
  ::waitpid(pid, nullptr, 0);
  auto held = HeldProcess::hold(pid);
  ASSERT_FALSE(held);
  EXPECT_EQ(held.error().code, ErrorCode::kGone);
}

}  // namespace
}  // namespace gestalt
