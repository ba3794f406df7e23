// Tasks that work on the memory of real processes.
#include "migrate/zero_copy_keeper.h"

#include <sys/ioctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/uio.h>

#include <filesystem>

#include "common/cgroup.h"
#include "common/format.h"
#include "migrate/test_victim.h"
#include "migrate/zero_copy_verbs.h"

namespace gestalt {
namespace {

std::string proc(pid_t pid, const char* file) {
  return read_file(formatted("/proc/{}/{}", pid, file)).value_or("?");
}

bool ends(pid_t pid) {
  for (int i = 0; i < 2000; ++i) {
    auto stat = read_stat("/proc", pid);
    if (!stat || stat->state == 'Z' || stat->state == 'X') return true;
    ::usleep(1000);
  }
  return false;
}

class ZeroCopyKeeperTest : public testing::Test {
 protected:
  ZeroCopyKeeperTest()
      : victim_([](const auto& side) {
          side.step(1);
          // Nobody to wait for, of whichever kind.
          side.tell(::waitpid(-1, nullptr, __WALL | WNOHANG) < 0 && errno == ECHILD ? 2 : 3);
        }) {
    victim_.next();
    reaches_state(victim_.pid(), 'S');
    maps_ = proc(victim_.pid(), "maps");
  }
  std::unique_ptr<ZeroCopyKeeper> start() {
    auto keeper = ZeroCopyKeeper::start(victim_.pid(), -1);
    EXPECT_TRUE(keeper) << keeper.error().text();
    return keeper ? std::move(*keeper) : nullptr;
  }
  void expect_unchanged() {
    EXPECT_EQ(proc(victim_.pid(), "maps"), maps_);
    EXPECT_EQ(proc(victim_.pid(), "status").find("TracerPid:\t0\n") != std::string::npos, true);
    EXPECT_EQ(victim_.step(), 2U);
    EXPECT_EQ(victim_.join(), 0);
  }

  Victim victim_;
  std::string maps_;
};

TEST_F(ZeroCopyKeeperTest, IsAnotherProcessOnTheSameMemory) {
  auto keeper = start();
  ASSERT_TRUE(keeper);
  EXPECT_NE(keeper->pid(), victim_.pid());
  EXPECT_EQ(keeper->call(SYS_getpid, {}).value_or(0), keeper->pid());
  EXPECT_EQ(proc(keeper->pid(), "maps"), maps_);
  auto children = formatted("task/{}/children", victim_.pid());
  EXPECT_EQ(proc(victim_.pid(), children.c_str()), "");
  EXPECT_EQ(
      std::distance(std::filesystem::directory_iterator(formatted("/proc/{}/fd", keeper->pid())),
                    std::filesystem::directory_iterator()),
      0);
  auto stat = read_stat("/proc", keeper->pid());
  ASSERT_TRUE(stat);
  EXPECT_EQ(stat->session_id, keeper->pid());
  pid_t pid = keeper->pid();
  keeper->end();
  EXPECT_TRUE(ends(pid));
  expect_unchanged();
}

TEST_F(ZeroCopyKeeperTest, TakesItsMemoryWithIt) {
  auto keeper = start();
  ASSERT_TRUE(keeper);
  auto memory = keeper->map(8192, PROT_READ | PROT_WRITE);
  ASSERT_TRUE(memory) << memory.error().text();
  EXPECT_NE(proc(victim_.pid(), "maps"), maps_);
  keeper->end();
  EXPECT_TRUE(keeper->left_over().empty());
  expect_unchanged();
}

TEST_F(ZeroCopyKeeperTest, GetsADescriptor) {
  auto keeper = start();
  ASSERT_TRUE(keeper);
  auto memory = keeper->map(kPageBytes, PROT_READ | PROT_WRITE);
  ASSERT_TRUE(memory) << memory.error().text();
  auto pipe = make_pipe();
  auto theirs = keeper->give(pipe->write.get(), *memory);
  ASSERT_TRUE(theirs) << theirs.error().text();
  EXPECT_EQ(keeper->call(SYS_write, {static_cast<std::uint64_t>(*theirs), *memory, 5}).value_or(0),
            5);
  pipe->write.reset();
  keeper.reset();
  char bytes[16];
  EXPECT_EQ(::read(pipe->read.get(), bytes, sizeof bytes), 5);
  EXPECT_EQ(::read(pipe->read.get(), bytes, sizeof bytes), 0);  // nobody else has it
  expect_unchanged();
}

TEST_F(ZeroCopyKeeperTest, RunsTheLoop) {
  auto keeper = start();
  ASSERT_TRUE(keeper);
  constexpr std::size_t kCalls = 1000;
  auto memory =
      keeper->map(kCalls * sizeof(RegistrationCall) / 4096 * 4096 + 4096, PROT_READ | PROT_WRITE);
  auto code = keeper->map(kPageBytes, PROT_READ | PROT_EXEC);
  ASSERT_TRUE(memory && code);
  ASSERT_TRUE(keeper->put_code(*code, registration_loop()));
  std::vector<RegistrationCall> calls(kCalls);
  for (auto& call : calls) call.result = RegistrationCall::kNotCalled;
  iovec ours{calls.data(), kCalls * sizeof(RegistrationCall)};
  iovec there{reinterpret_cast<void*>(*memory), ours.iov_len};
  ASSERT_GT(::process_vm_writev(keeper->pid(), &ours, 1, &there, 1, 0), 0);
  // All but the last.
  auto ran = keeper->run_code(
      *code, {99, RDMA_VERBS_IOCTL, *memory, *memory + (kCalls - 1) * sizeof(RegistrationCall)},
      deadline_in(std::chrono::seconds(10)));
  ASSERT_TRUE(ran) << ran.error().text();
  ASSERT_GT(::process_vm_readv(keeper->pid(), &ours, 1, &there, 1, 0), 0);
  for (std::size_t i = 0; i + 1 < kCalls; ++i) ASSERT_EQ(calls[i].result, -EBADF) << i;
  EXPECT_EQ(calls.back().result, RegistrationCall::kNotCalled);
  keeper.reset();
  expect_unchanged();
}

TEST_F(ZeroCopyKeeperTest, CodeThatTakesTooLongIsStopped) {
  auto keeper = start();
  ASSERT_TRUE(keeper);
  auto code = keeper->map(kPageBytes, PROT_READ | PROT_EXEC);
  ASSERT_TRUE(code);
  const std::uint8_t for_ever[] = {0xeb, 0xfe};
  ASSERT_TRUE(keeper->put_code(*code, for_ever));
  auto ran = keeper->run_code(*code, {}, deadline_in(milliseconds(50)));
  ASSERT_FALSE(ran);
  EXPECT_EQ(ran.error().code, ErrorCode::kTimeout);
  EXPECT_EQ(keeper->call(SYS_getpid, {}).value_or(0), keeper->pid());
  keeper.reset();
  expect_unchanged();
}

// The trap at its end must not stay for the next call.
TEST_F(ZeroCopyKeeperTest, CodeThatEndsJustWhenItIsStopped) {
  auto keeper = start();
  ASSERT_TRUE(keeper);
  auto code = keeper->map(kPageBytes, PROT_READ | PROT_EXEC);
  ASSERT_TRUE(code);
  const std::uint8_t at_once[] = {0xcc};
  ASSERT_TRUE(keeper->put_code(*code, at_once));
  // 0 to 100 µs, in no order: an emulated machine has time for fewer.
  constexpr int kTries = 2000;
  Deadline enough = deadline_in(std::chrono::seconds(5));
  for (int i = 0; i < kTries && Clock::now() < enough; ++i) {
    const auto patience = std::chrono::nanoseconds(i * 997 % kTries * 50);
    auto ran = keeper->run_code(*code, {}, deadline_in(patience));
    ASSERT_TRUE(ran || ran.error().code == ErrorCode::kTimeout) << ran.error().text();
    auto called = keeper->call(SYS_getpid, {});
    ASSERT_TRUE(called) << "try " << i << ": " << called.error().text();
    ASSERT_EQ(*called, keeper->pid());
  }
  keeper.reset();
  expect_unchanged();
}

TEST_F(ZeroCopyKeeperTest, WhoHoldsItCrashes) {
  auto pid = make_pipe();
  pid_t holder = ::fork();
  if (holder == 0) {
    auto keeper = ZeroCopyKeeper::start(victim_.pid(), -1);
    if (!keeper || !(*keeper)->map(kMiB, PROT_READ | PROT_WRITE)) ::_exit(1);
    pid_t number = (*keeper)->pid();
    (void)!::write(pid->write.get(), &number, sizeof number);
    ::_exit(0);
  }
  pid->write.reset();
  pid_t number = 0;
  ASSERT_EQ(::read(pid->read.get(), &number, sizeof number), ssize_t{sizeof number});
  ::waitpid(holder, nullptr, 0);
  EXPECT_TRUE(ends(number));
  expect_unchanged();
}

TEST_F(ZeroCopyKeeperTest, SomebodyKillsIt) {
  auto keeper = start();
  ASSERT_TRUE(keeper);
  ASSERT_TRUE(keeper->map(kPageBytes, PROT_READ | PROT_WRITE));
  ::kill(keeper->pid(), SIGKILL);
  EXPECT_TRUE(ends(keeper->pid()));
  EXPECT_FALSE(keeper->call(SYS_getpid, {}));
  keeper->end();
  EXPECT_EQ(keeper->left_over().size(), 1U);
  EXPECT_EQ(victim_.step(), 2U);
}

TEST_F(ZeroCopyKeeperTest, OutlivesTheProcess) {
  auto keeper = start();
  ASSERT_TRUE(keeper);
  ::kill(victim_.pid(), SIGKILL);
  victim_.join();
  EXPECT_EQ(keeper->call(SYS_getpid, {}).value_or(0), keeper->pid());
  EXPECT_TRUE(keeper->map(kPageBytes, PROT_READ));
}

// Its own limits are too low for what is to be done.
TEST(ZeroCopyKeeper, TheProcessKeepsItsLimits) {
  Victim victim([](const auto& side) {
    for (auto resource : {RLIMIT_MEMLOCK, RLIMIT_NOFILE}) {
      rlimit limit{0, 0};
      ::setrlimit(resource, &limit);
    }
    rlimit memory{1, 1};
    ::setrlimit(RLIMIT_AS, &memory);
    side.step(1);
  });
  victim.next();
  auto before = proc(victim.pid(), "limits");
  auto keeper = ZeroCopyKeeper::start(victim.pid(), -1);
  ASSERT_TRUE(keeper) << keeper.error().text();
  rlimit locked{};
  ASSERT_EQ(::prlimit((*keeper)->pid(), RLIMIT_MEMLOCK, nullptr, &locked), 0);
  if (locked.rlim_cur != RLIM_INFINITY) GTEST_SKIP() << "no CAP_SYS_RESOURCE here";
  auto memory = (*keeper)->map(kPageBytes, PROT_READ | PROT_WRITE);
  ASSERT_TRUE(memory) << memory.error().text();
  EXPECT_TRUE((*keeper)->give(2, *memory));
  EXPECT_EQ(proc(victim.pid(), "limits"), before);
}

TEST(ZeroCopyKeeper, WorksOnAFrozenProcess) {
  Victim victim([](const auto& side) {
    std::jthread thread([] {
      while (true) ::usleep(1000);
    });
    side.tell(1);
    while (true) ::usleep(1000);
  });
  victim.next();
  auto group = Cgroup::create("gestalt/keeper-test");
  auto other = Cgroup::create("gestalt/keeper-test-keepers");
  if (!group || !other || !group->add(victim.pid())) GTEST_SKIP() << "no control groups here";
  {
    auto keeper = ZeroCopyKeeper::start(victim.pid(), other->directory_fd());
    ASSERT_TRUE(keeper) << keeper.error().text();
    ASSERT_TRUE(group->freeze(deadline_in(std::chrono::seconds(5))));
    EXPECT_EQ((*keeper)->call(SYS_getpid, {}).value_or(0), (*keeper)->pid());
    EXPECT_TRUE((*keeper)->map(kPageBytes, PROT_READ));
    EXPECT_TRUE(group->frozen());
    EXPECT_EQ(group->processes().value_or(std::vector<pid_t>()).size(), 1U);
  }
  ASSERT_TRUE(group->thaw(deadline_in(std::chrono::seconds(5))));
  ::kill(victim.pid(), SIGKILL);
  victim.join();
  (void)group->remove();
  (void)other->remove();
}

TEST(ZeroCopyKeeper, ThereIsNoProcess) {
  pid_t pid = ::fork();
  if (pid == 0) ::_exit(0);
  ::waitpid(pid, nullptr, 0);
  auto keeper = ZeroCopyKeeper::start(pid, -1);
  ASSERT_FALSE(keeper);
  EXPECT_EQ(keeper.error().code, ErrorCode::kGone);
}

}  // namespace
}  // namespace gestalt
