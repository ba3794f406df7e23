#include "daemon/ghosts/ghost_fixture.h"

#include <grp.h>
#include <sched.h>
#include <sys/epoll.h>
#include <sys/mount.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <csignal>
#include <cstdio>

namespace gestalt {
namespace {

constexpr int kNoPrivilege = 77;

int exit_status(int wait_status) {
  return WIFEXITED(wait_status) ? WEXITSTATUS(wait_status) : 128 + WTERMSIG(wait_status);
}

[[noreturn]] void be_init(const std::function<void()>& body) {
  if (::mount("none", "/", nullptr, MS_REC | MS_PRIVATE, nullptr) != 0 ||
      ::mount("proc", "/proc", "proc", 0, nullptr) != 0)
    ::_exit(kNoPrivilege);
  pid_t main = ::fork();
  if (main == 0) {
    (void)::setsid();
    body();
    std::fflush(nullptr);
    ::_exit(::testing::Test::HasFailure() ? 1 : 0);
  }
  int status = 0;
  while (::waitpid(-1, &status, __WALL) != main) {
  }
  ::_exit(exit_status(status));
}

}  // namespace

void in_pid_namespace(const std::function<void()>& body) {
  std::fflush(nullptr);
  pid_t outer = ::fork();
  if (outer == 0) {
    if (::unshare(CLONE_NEWPID | CLONE_NEWNS) != 0) ::_exit(kNoPrivilege);
    pid_t init = ::fork();
    if (init == 0) be_init(body);
    int status = 0;
    (void)::waitpid(init, &status, 0);
    ::_exit(exit_status(status));
  }
  int status = 0;
  ASSERT_EQ(::waitpid(outer, &status, 0), outer);
  if (exit_status(status) == kNoPrivilege)
    GTEST_SKIP() << "needs root that may make pid and mount namespaces";
  EXPECT_EQ(exit_status(status), 0);
}

KeeperHarness::KeeperHarness()
    : keeper(loop, [this](const GhostSignal& signal) { signals.push_back(signal); }) {
  auto started = keeper.start();
  EXPECT_TRUE(started) << started.error().text();
}

bool KeeperHarness::run_until(const std::function<bool()>& done, Clock::duration timeout) {
  auto deadline = deadline_in(timeout);
  while (!done() && Clock::now() < deadline) {
    auto timer = loop.after(milliseconds(2), [this] { loop.stop(); });
    loop.run();
    loop.cancel(timer);
  }
  return done();
}

void KeeperHarness::await_signals(std::size_t count) {
  run_until([&] { return signals.size() >= count; });
  run_until([] { return false; }, milliseconds(50));
  EXPECT_EQ(signals.size(), count);
}

int KeeperHarness::act(const std::function<int()>& action, uid_t uid) {
  auto pipe = make_pipe();
  EXPECT_TRUE(pipe);
  if (::fork() == 0) {
    (void)::setsid();  // nobody else is in the keeper's
    bool changed = uid == 0 || (::setgroups(0, nullptr) == 0 && ::setresgid(uid, uid, uid) == 0 &&
                                ::setresuid(uid, uid, uid) == 0);
    int result = changed ? action() : -1;
    (void)!::write(pipe->write.get(), &result, sizeof result);
    ::_exit(0);  // the keeper reaps us
  }
  pipe->write.reset();
  int result = -1;
  bool ended = false;
  loop.watch(pipe->read.get(), EPOLLIN, [&](std::uint32_t) {
    ended = true;
    loop.stop();
  });
  EXPECT_TRUE(run_until([&] { return ended; }));
  loop.unwatch(pipe->read.get());
  EXPECT_EQ(::read(pipe->read.get(), &result, sizeof result), ssize_t{sizeof result});
  return result;
}

std::vector<int> KeeperHarness::signals_of(pid_t pid) {
  std::vector<int> found;
  for (const auto& signal : signals)
    if (signal.pid == pid) found.push_back(signal.signal);
  signals.clear();
  return found;
}

void KeeperHarness::add(pid_t first, int count) {
  GhostUpdate update;
  for (pid_t pid = first; pid < first + count; ++pid) update.add.push_back({.pid = pid});
  auto failures = keeper.update(update);
  EXPECT_TRUE(failures.empty()) << failures.front().error.text();
}

int kill_errno(pid_t pid, int signal) { return ::kill(pid, signal) == 0 ? 0 : errno; }

}  // namespace gestalt
