// A ghost shares the address space of its keeper, which is root's, and has a user's ids. All
// that he may do with it is to signal it.
#include <fcntl.h>
#include <linux/kcmp.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <csignal>

#include "common/format.h"
#include "daemon/ghosts/ghost_fixture.h"

namespace gestalt {
namespace {

constexpr uid_t kAnn = 1001;
constexpr uid_t kBob = 1002;
constexpr pid_t kAnns = 10'000;
constexpr pid_t kBobs = 10'001;
constexpr pid_t kRoots = 10'002;

int error_of(long result) { return result < 0 ? errno : 0; }

int open_errno(pid_t pid, const char* name, int flags) {
  return error_of(::open(formatted("/proc/{}/{}", pid, name).c_str(), flags | O_CLOEXEC));
}

int read_errno(pid_t pid, const char* name) {
  int fd = ::open(formatted("/proc/{}/{}", pid, name).c_str(), O_RDONLY | O_CLOEXEC);
  char buffer[16];
  return fd < 0 ? errno : error_of(::read(fd, buffer, sizeof buffer));
}

int seize_errno(pid_t pid) { return error_of(::ptrace(PTRACE_SEIZE, pid, nullptr, nullptr)); }

int peek_errno(pid_t pid) {
  static char here[8] = "secret";
  char there[8];
  iovec local{there, sizeof there};
  iovec remote{here, sizeof here};
  return error_of(::process_vm_readv(pid, &local, 1, &remote, 1, 0));
}

int poke_errno(pid_t pid) {
  static char here[8] = "secret";
  iovec both{here, sizeof here};
  return error_of(::process_vm_writev(pid, &both, 1, &both, 1, 0));
}

class GhostSecurity : public KeeperHarness {
 public:
  GhostSecurity() {
    EXPECT_TRUE(keeper.add(kAnns, kAnn, kAnn));
    EXPECT_TRUE(keeper.add(kBobs, kBob, kBob));
    EXPECT_TRUE(keeper.add(kRoots, 0, 0));
  }
};

TEST(GhostSecurity, UsersSignalTheirOwnOnly) {
  in_pid_namespace([] {
    GhostSecurity ghosts;
    for (int signal : {0, SIGTERM, SIGKILL, SIGSTOP, SIGCONT, SIGRTMIN}) {
      EXPECT_EQ(ghosts.act([=] { return kill_errno(kAnns, signal); }, kAnn), 0) << signal;
      EXPECT_EQ(ghosts.act([=] { return kill_errno(kBobs, signal); }, kAnn), EPERM) << signal;
      EXPECT_EQ(ghosts.act([=] { return kill_errno(kRoots, signal); }, kAnn), EPERM) << signal;
      EXPECT_EQ(ghosts.act([=] { return kill_errno(kAnns, signal); }, kBob), EPERM) << signal;
      std::vector<int> expected(signal == 0 ? 0 : 1, signal);
      ghosts.await_signals(expected.size());
      EXPECT_EQ(ghosts.signals_of(kAnns), expected);
    }
    // To all that he may: his own, and no harm to the keeper.
    EXPECT_EQ(ghosts.act([] { return kill_errno(-1, SIGKILL); }, kBob), 0);
    ghosts.await_signals(1);
    EXPECT_EQ(ghosts.signals_of(kBobs), std::vector{SIGKILL});
    EXPECT_EQ(ghosts.keeper.size(), 3U);
  });
}

// So that what is refused below is refused because it is a ghost.
TEST(GhostSecurity, AnOrdinaryProcessIsOpenToItsOwner) {
  in_pid_namespace([] {
    GhostSecurity ghosts;
    auto action = [] {
      pid_t child = ::fork();
      if (child == 0) {
        (void)::prctl(PR_SET_DUMPABLE, 1);
        while (true) ::pause();
      }
      ::usleep(50'000);
      int error = peek_errno(child);
      if (error == 0) error = open_errno(child, "mem", O_RDWR);
      if (error == 0) error = seize_errno(child);
      (void)::kill(child, SIGKILL);
      return error;
    };
    EXPECT_EQ(ghosts.act(action, kAnn), 0);
  });
}

TEST(GhostSecurity, TheOwnerCannotLookIntoIt) {
  in_pid_namespace([] {
    GhostSecurity ghosts;
    auto as_ann = [&](auto action) { return ghosts.act([=] { return action(kAnns); }, kAnn); };
    EXPECT_EQ(as_ann(seize_errno), EPERM);
    EXPECT_EQ(as_ann([](pid_t pid) { return error_of(::ptrace(PTRACE_ATTACH, pid, 0, 0)); }),
              EPERM);
    EXPECT_EQ(as_ann(peek_errno), EPERM);
    EXPECT_EQ(as_ann(poke_errno), EPERM);
    for (int flags : {O_RDONLY, O_WRONLY, O_RDWR})
      EXPECT_EQ(as_ann([=](pid_t pid) { return open_errno(pid, "mem", flags); }), EACCES);
    for (const char* name : {"environ", "maps", "auxv", "syscall", "stack", "pagemap"})
      EXPECT_NE(as_ann([=](pid_t pid) { return read_errno(pid, name); }), 0) << name;
    for (const char* name : {"fd", "map_files", "fdinfo"})
      EXPECT_EQ(as_ann([=](pid_t pid) { return open_errno(pid, name, O_RDONLY); }), EACCES) << name;
    for (const char* name : {"oom_score_adj", "comm", "clear_refs"})
      EXPECT_EQ(as_ann([=](pid_t pid) { return open_errno(pid, name, O_WRONLY); }), EACCES) << name;
  });
}

TEST(GhostSecurity, NorTakeDescriptorsOrSetLimits) {
  in_pid_namespace([] {
    GhostSecurity ghosts;
    EXPECT_EQ(ghosts.act(
                  [] {
                    auto fd = static_cast<int>(::syscall(SYS_pidfd_open, kAnns, 0));
                    return error_of(::syscall(SYS_pidfd_getfd, fd, 2, 0));
                  },
                  kAnn),
              EPERM);
    EXPECT_EQ(ghosts.act(
                  [] {
                    rlimit limit{0, 0};
                    return error_of(::prlimit(kAnns, RLIMIT_NOFILE, &limit, nullptr));
                  },
                  kAnn),
              EPERM);
    EXPECT_EQ(
        ghosts.act([] { return error_of(::syscall(SYS_kcmp, ::getpid(), kAnns, KCMP_VM, 0, 0)); },
                   kAnn),
        EPERM);
  });
}

TEST(GhostSecurity, AGhostDoesNotCountAgainstTheLimitOfProcesses) {
  in_pid_namespace([] {
    GhostSecurity ghosts;
    constexpr uid_t kCarl = 1003;
    for (pid_t pid = kRoots + 1; pid <= kRoots + 50; ++pid)
      ASSERT_TRUE(ghosts.keeper.add(pid, kCarl, kCarl));
    auto forks = [](rlim_t limit) {
      rlimit processes{limit, limit};
      (void)::setrlimit(RLIMIT_NPROC, &processes);
      pid_t child = ::fork();
      if (child == 0) ::_exit(0);
      return error_of(child);
    };
    EXPECT_EQ(ghosts.act([=] { return forks(2); }, kCarl), 0);
    EXPECT_EQ(ghosts.act([=] { return forks(1); }, kCarl), EAGAIN);  // it is enforced
  });
}

}  // namespace
}  // namespace gestalt
