// Real processes that become another program under their own pid.
#include "migrate/deputize.h"

#include <fcntl.h>
#include <sys/uio.h>

#include <atomic>
#include <filesystem>

#include "common/format.h"
#include "migrate/test_victim.h"

namespace gestalt {
namespace {

// Says on its standard output who it is, and ends with 7.
InjectedProgram teller(const std::string& script = "echo $0 $GREETING $$; ls /proc/$$/fd; exit 7") {
  return {.path = "/bin/sh",
          .argv = {"old-name", "-c", script, "old-name"},
          .environment = {"GREETING=hello", "PATH=/usr/bin:/bin"}};
}

// With one end of the pipe as its standard output, and another descriptor that must not stay.
void take_output(int fd) {
  for (int standard : {0, 2}) ::dup2(::open("/dev/null", O_RDWR), standard);
  ::dup2(fd, 1);
  ::dup2(fd, 40);
}

std::string read_all(int fd) {
  std::string out;
  char buffer[512];
  for (ssize_t count = 0; (count = ::read(fd, buffer, sizeof buffer)) > 0;)
    out.append(buffer, static_cast<std::size_t>(count));
  return out;
}

class DeputizeTest : public testing::Test {
 protected:
  DeputizeTest() : output_(*make_pipe()) {}
  // What the deputy has said, once it has ended.
  std::string said() {
    output_.write.reset();
    return read_all(output_.read.get());
  }
  Pipe output_;
};

TEST_F(DeputizeTest, TheProcessIsAnotherProgramUnderItsPid) {
  int fd = output_.write.get();
  Victim victim([fd](const auto& side) {
    take_output(fd);
    side.step(1);
  });
  victim.next();
  auto done = deputize(victim.pid(), {.program = teller()});
  ASSERT_TRUE(done) << done.error().text();
  EXPECT_EQ(said(), formatted("old-name hello {}\n0\n1\n2\n", victim.pid()));
  int status = victim.join();
  EXPECT_TRUE(WIFEXITED(status));
  EXPECT_EQ(WEXITSTATUS(status), 7);
}

TEST_F(DeputizeTest, AllItsThreadsEnd) {
  int fd = output_.write.get();
  Victim victim([fd](const auto& side) {
    take_output(fd);
    std::vector<std::jthread> threads;
    std::atomic<int> running = 0;
    for (int i = 0; i < 6; ++i)
      threads.emplace_back([&running, i] {
        ++running;
        for (unsigned n = 0;; ++n)
          if (i % 2 == 0 || running > 100) ::usleep(1000 + n % 2);
      });
    while (running < 6) ::usleep(1000);
    side.tell(1);
    while (true) ::pause();
  });
  victim.next();
  auto done = deputize(victim.pid(), {.program = teller("echo $(ls /proc/$$/task)")});
  ASSERT_TRUE(done) << done.error().text();
  EXPECT_EQ(said(), formatted("{}\n", victim.pid()));
  EXPECT_EQ(victim.join(), 0);
}

TEST_F(DeputizeTest, SignalsThatCameBeforeWaitForTheDeputy) {
  int fd = output_.write.get();
  Victim victim([fd](const auto& side) {
    take_output(fd);
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGTERM);
    ::sigprocmask(SIG_BLOCK, &set, nullptr);
    side.step(1);
  });
  victim.next();
  ::kill(victim.pid(), SIGTERM);
  InjectedProgram program{.path = "/usr/bin/sed",
                          .argv = {"sed", "-n", "s/^ShdPnd:.//p", "/proc/self/status"},
                          .environment = {}};
  auto done = deputize(victim.pid(), {.program = program});
  ASSERT_TRUE(done) << done.error().text();
  EXPECT_EQ(said(), "0000000000004000\n");  // SIGTERM
  EXPECT_EQ(victim.join(), 0);
}

TEST_F(DeputizeTest, TheKeeperHasTheMemory) {
  int fd = output_.write.get();
  Victim victim([fd](const auto& side) {
    take_output(fd);
    char* memory = map_memory(kMiB);
    touch(memory, kMiB, 'k');
    side.step(memory);
  });
  auto memory = victim.next();
  pid_t keeper = 0;
  auto done =
      deputize(victim.pid(), {.program = teller("sleep 100"), .on_keeper = [&keeper](pid_t pid) {
                                keeper = pid;
                                // Here nothing freezes it.
                                ::kill(pid, SIGSTOP);
                              }});
  ASSERT_TRUE(done) << done.error().text();
  ASSERT_GT(keeper, 0);
  std::string page(kPageBytes, ' ');
  iovec local{page.data(), page.size()};
  iovec remote{reinterpret_cast<void*>(memory + 5 * kPageBytes), page.size()};
  EXPECT_EQ(::process_vm_readv(keeper, &local, 1, &remote, 1, 0),
            static_cast<ssize_t>(page.size()));
  EXPECT_EQ(page[0], 'k');
  auto stat = read_stat("/proc", keeper);
  ASSERT_TRUE(stat);
  EXPECT_EQ(stat->session_id, keeper);
  EXPECT_EQ(stat->parent_pid, victim.pid());
  // The pipe's other end is the deputy's alone.
  EXPECT_EQ(std::distance(std::filesystem::directory_iterator(formatted("/proc/{}/fd", keeper)),
                          std::filesystem::directory_iterator()),
            0);
  ::kill(keeper, SIGKILL);
}

TEST_F(DeputizeTest, AProgramThatIsNotThereChangesNothing) {
  Victim victim([](const auto& side) {
    side.step(1);
    side.tell(2);
  });
  victim.next();
  auto program = teller();
  program.path = "/no/such/program";
  auto done = deputize(victim.pid(), {.program = program});
  ASSERT_FALSE(done);
  EXPECT_EQ(done.error().code, ErrorCode::kNotFound);
  EXPECT_EQ(victim.step(), 2U);
  EXPECT_EQ(victim.join(), 0);
}

TEST_F(DeputizeTest, AProcessThatHasEndedIsGone) {
  Victim victim([](const auto& side) { side.tell(1); });
  victim.next();
  pid_t pid = victim.pid();
  victim.join();
  auto done = deputize(pid, {.program = teller()});
  ASSERT_FALSE(done);
  EXPECT_EQ(done.error().code, ErrorCode::kGone);
}

}  // namespace
}  // namespace gestalt
