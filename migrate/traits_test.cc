#include "migrate/traits.h"

#include <gmock/gmock.h>
#include <sched.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <functional>
#include <utility>

#include "common/fd.h"

namespace gestalt {
namespace {

using ::testing::ElementsAre;

TEST(Traits, ComeBack) {
  std::vector<ProcessTraits> traits = {
      {.pid = 7,
       .core_dump_filter = 0x33,
       .personality = kMovablePersonality,
       .threads = {{.tid = 7, .timer_slack_nanoseconds = 50'000, .io_priority = 0, .cpus = {}},
                   {.tid = 9,
                    .timer_slack_nanoseconds = 1,
                    .io_priority = 16391,
                    .cpus = std::vector<std::uint32_t>{0, 3, 8191}}}},
      {.pid = 8, .core_dump_filter = 0, .threads = {}}};
  auto text = encode_traits(traits);
  auto decoded = decode_traits(text);
  ASSERT_TRUE(decoded) << decoded.error().text();
  EXPECT_EQ(*decoded, traits);
  EXPECT_TRUE(decode_traits("")->empty());
  for (std::size_t length = 1; length < text.size(); ++length) {
    if (text[length - 1] == '\n') continue;
    EXPECT_FALSE(decode_traits(std::string_view(text).substr(0, length))) << length;
  }
}

TEST(Traits, MakeSense) {
  for (const char* text : {"\n",
                           "p 1\n",
                           "p 0 5 0\n",
                           "p -1 5 0\n",
                           "p 4194304 5 0\n",
                           "p 1 5 0 \n",
                           "t 1 1 1 *\n",
                           "p 1 5 0\nt 1 1 1\n",
                           "p 1 5 0\nt 1 1 1 \n",
                           "p 1 5 0\nt 1 1 1 8192\n",
                           "p 1 5 0\nt 1 1 1 2,1\n",
                           "p 1 5 0\nt 1 1 1 1,\n",
                           "p 1 5 0\nt 1 1 1 1,1\n",
                           "p 1 5 0\nt 0 1 1 *\n",
                           "p 1 5 0\nt 1 -1 1 *\n",
                           "p 1 5 0\nt 1 99999999999999999999 1 *\n",
                           "q 1 5 0\n",
                           "p 1 5\n",
                           "p 1 5 \n",
                           "p 1 5 8\n",
                           "p 1 5 -1\n"})
    EXPECT_FALSE(decode_traits(text)) << text;
}

TEST(Traits, CpusOfAnotherNode) {
  EXPECT_THAT(map_cpus({0, 1}, {0, 1, 2, 3}), ElementsAre(0, 1));
  EXPECT_THAT(map_cpus({1, 3}, {4, 5, 6, 7}), ElementsAre(5, 7));
  EXPECT_THAT(map_cpus({1, 3, 5}, {8, 9}), ElementsAre(9));
  EXPECT_THAT(map_cpus({2, 3}, {8, 9}), ElementsAre(8, 9));
}

// From one process to another, as from its image to its copy.
TEST(Traits, OfARealProcess) {
  auto paused = [](const std::function<void()>& first) {
    auto ready = make_pipe();
    EXPECT_TRUE(ready);
    pid_t pid = ::fork();
    if (pid == 0) {
      first();
      (void)!::write(ready->write.get(), "x", 1);
      while (true) ::pause();
    }
    char byte = 0;
    EXPECT_EQ(::read(ready->read.get(), &byte, 1), 1);
    return pid;
  };
  pid_t original = paused([] {
    cpu_set_t cpus;
    CPU_ZERO(&cpus);
    (void)::sched_getaffinity(0, sizeof cpus, &cpus);
    bool first = true;
    for (int cpu = 0; cpu < CPU_SETSIZE; ++cpu)
      if (CPU_ISSET(cpu, &cpus) && !std::exchange(first, false)) CPU_CLR(cpu, &cpus);
    (void)::sched_setaffinity(0, sizeof cpus, &cpus);
    (void)::syscall(SYS_ioprio_set, 1, 0, 2 << 13 | 6);
    (void)::prctl(PR_SET_TIMERSLACK, 77'777UL);
  });
  pid_t copy = paused([] {});
  auto before = read_traits({original, 4194303});
  ASSERT_EQ(before.size(), 1U);
  ASSERT_EQ(before[0].threads.size(), 1U);
  EXPECT_EQ(before[0].threads[0].timer_slack_nanoseconds, 77'777U);
  EXPECT_EQ(before[0].threads[0].io_priority, 2 << 13 | 6);
  auto moved = before;
  moved[0].pid = moved[0].threads[0].tid = copy;
  moved[0].core_dump_filter = 0x13;
  set_traits(moved, {original});
  EXPECT_NE(read_traits({copy}), moved) << "it is none of those";
  set_traits(moved, {copy});
  EXPECT_EQ(read_traits({copy}), moved);
  for (pid_t pid : {original, copy}) {
    (void)::kill(pid, SIGKILL);
    (void)::waitpid(pid, nullptr, 0);
  }
  set_traits(moved, {copy});  // they have ended: no more than a warning
}

}  // namespace
}  // namespace gestalt
