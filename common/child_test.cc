#include "common/child.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <fstream>

#include "common/cgroup.h"
#include "common/fd.h"
#include "common/format.h"

namespace gestalt {
namespace {

Deadline soon() { return deadline_in(std::chrono::seconds(5)); }

// What `program` writes to its descriptor 1.
std::string output_of(SpawnOptions options, const std::function<int()>& setup = nullptr) {
  auto pipe = make_pipe();
  EXPECT_TRUE(pipe);
  options.descriptors.emplace_back(pipe->write.get(), 1);
  auto pid = spawn(options, setup);
  EXPECT_TRUE(pid) << pid.error().text();
  pipe->write.reset();
  std::string text;
  char buffer[4096];
  for (ssize_t count = 0; (count = ::read(pipe->read.get(), buffer, sizeof buffer)) > 0;)
    text.append(buffer, static_cast<std::size_t>(count));
  EXPECT_EQ(wait_child(*pid, soon()), 0);
  return text;
}

TEST(Spawn, RunsWithJustTheArrangedDescriptors) {
  auto extra = open_file("/dev/null", O_RDONLY);
  ASSERT_TRUE(extra);
  ASSERT_EQ(::fcntl(extra->get(), F_SETFD, 0), 0);  // as if it had leaked into us
  SpawnOptions options;
  options.argv = {"/bin/bash", "-c",
                  "for i in {0..99}; do [ -e /proc/$$/fd/$i ] && echo $i; done; true"};
  std::string open = output_of(options);
  // bash keeps a copy of its own, far up.
  EXPECT_TRUE(open.starts_with("0\n1\n2\n")) << open;
  EXPECT_FALSE(open.contains(formatted("\n{}\n", extra->get()))) << open;
}

TEST(Spawn, PassesEnvironmentAndSwappedDescriptors) {
  auto one = make_pipe();
  auto two = make_pipe();
  ASSERT_TRUE(one && two);
  SpawnOptions options;
  options.argv = {"/bin/bash", "-c", "echo $NAME >&20; echo other >&21"};
  options.environment = {"NAME=value"};
  // Each target is the other's source.
  Fd a(::fcntl(one->write.get(), F_DUPFD_CLOEXEC, 20));
  Fd b(::fcntl(two->write.get(), F_DUPFD_CLOEXEC, 21));
  options.descriptors = {{a.get(), b.get()}, {b.get(), a.get()}};
  auto pid = spawn(options);
  ASSERT_TRUE(pid) << pid.error().text();
  ASSERT_EQ(wait_child(*pid, soon()), 0);
  char buffer[16] = {};
  EXPECT_EQ(::read(two->read.get(), buffer, sizeof buffer), 6);
  EXPECT_STREQ(buffer, "value\n");
}

TEST(Spawn, SaysWhyAProgramDoesNotStart) {
  SpawnOptions missing;
  missing.argv = {"nothing"};
  missing.programs = {"/nonexistent/a", "/nonexistent/b"};
  EXPECT_EQ(spawn(missing).error().code, ErrorCode::kExecNotFound);
  SpawnOptions denied;
  denied.argv = {"/etc/passwd"};
  EXPECT_EQ(spawn(denied).error().code, ErrorCode::kExecDenied);
  SpawnOptions failing;
  failing.argv = {"/bin/true"};
  EXPECT_EQ(spawn(failing, [] { return ENOSPC; }).error().code, ErrorCode::kNoSpace);
  EXPECT_EQ(spawn({}).error().code, ErrorCode::kInvalidArgument);
}

TEST(Spawn, TriesCandidatesAndScriptsWithoutInterpreterLine) {
  std::string script = formatted("/tmp/script-{}", ::getpid());
  std::ofstream(script) << "echo \"$0 $1\"\n";
  ASSERT_EQ(::chmod(script.c_str(), 0755), 0);
  SpawnOptions options;
  options.argv = {"name", "argument"};
  options.programs = {"/nonexistent/name", script};
  EXPECT_EQ(output_of(options), script + " argument\n");
  ::unlink(script.c_str());
}

TEST(Spawn, ResetsSignals) {
  (void)::signal(SIGUSR1, SIG_IGN);
  // One that the C library hides: signal(2) would refuse it.
  std::uint64_t ignore[4] = {1, 0, 0, 0};
  ASSERT_EQ(::syscall(SYS_rt_sigaction, 32, ignore, nullptr, 8), 0);
  SpawnOptions options;
  options.argv = {"/bin/grep", "-E", "^Sig(Ign|Blk)", "/proc/self/status"};
  EXPECT_EQ(output_of(options), "SigBlk:\t0000000000000000\nSigIgn:\t0000000000000000\n");
  (void)::signal(SIGUSR1, SIG_DFL);
}

// Some kernels kill a child that is born into a group with such a history.
TEST(Spawn, StartsInAControlGroupThatWasOnceKilled) {
  auto group = Cgroup::create(formatted("gestalt-test-{}", ::getpid()));
  if (!group) GTEST_SKIP() << "no control groups here: " << group.error().text();
  if (!group->kill()) GTEST_SKIP() << "no cgroup.kill here";
  SpawnOptions options;
  options.argv = {"/bin/sleep", "60"};
  options.cgroup_fd = group->directory_fd();
  auto pid = spawn(options);
  ASSERT_TRUE(pid) << pid.error().text();
  auto members = group->processes();
  ASSERT_TRUE(members);
  EXPECT_EQ(*members, std::vector<pid_t>{*pid});
  EXPECT_TRUE(group->kill());
  EXPECT_EQ(wait_child(*pid, soon()), SIGKILL);
  EXPECT_TRUE(group->wait_empty(soon()));
  EXPECT_TRUE(group->remove());
}

TEST(WaitChild, EndsByItsDeadline) {
  SpawnOptions options;
  options.argv = {"/bin/sleep", "60"};
  auto pid = spawn(options);
  ASSERT_TRUE(pid);
  EXPECT_EQ(wait_child(*pid, deadline_in(milliseconds(20))).error().code, ErrorCode::kTimeout);
  ::kill(*pid, SIGKILL);
  EXPECT_EQ(wait_child(*pid, soon()), SIGKILL);
}

TEST(JobCgroup, NamesAndJobsCorrespond) {
  EXPECT_EQ(job_cgroup_name(12), "gestalt/job-12");
  EXPECT_EQ(job_of_cgroup("/gestalt/job-12"), 12U);
  EXPECT_EQ(job_of_cgroup("/system.slice/x/gestalt/job-7/sub"), 7U);
  EXPECT_EQ(job_of_cgroup("/user.slice"), 0U);
  EXPECT_EQ(job_of_cgroup("/gestalt/job-"), 0U);
}

}  // namespace
}  // namespace gestalt
