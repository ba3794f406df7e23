// Each with a real process that has it.
#include "migrate/blockers.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <linux/perf_event.h>
#include <net/ethernet.h>
#include <netinet/in.h>
#include <sched.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/inotify.h>
#include <sys/ipc.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/personality.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/shm.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/timerfd.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <functional>
#include <thread>

#include "common/clock.h"
#include "common/fd.h"
#include "common/format.h"
#include "migrate/criu_limits.h"

namespace gestalt {
namespace {

using ::testing::Each;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

// A child that has done `body` and waits; what of it cannot be done here skips the test.
class Victim {
 public:
  explicit Victim(const std::function<bool()>& body) {
    auto ready = make_pipe();
    EXPECT_TRUE(ready);
    pid_ = ::fork();
    if (pid_ == 0) {
      ready->read.reset();
      char done = body() ? 'y' : 'n';
      (void)!::write(ready->write.get(), &done, 1);
      ready->write.reset();
      while (true) ::pause();
    }
    ready->write.reset();
    char done = 0;
    EXPECT_EQ(::read(ready->read.get(), &done, 1), 1);
    able_ = done == 'y';
  }
  ~Victim() {
    (void)::kill(pid_, SIGKILL);
    (void)::waitpid(pid_, nullptr, 0);
  }
  Victim(const Victim&) = delete;
  Victim& operator=(const Victim&) = delete;

  [[nodiscard]] bool able() const { return able_; }
  [[nodiscard]] pid_t pid() const { return pid_; }
  // But what a test's own standard streams may be.
  [[nodiscard]] std::vector<std::string> blockers(const UnitNetwork* network = nullptr) const {
    auto tree = read_tree("/proc", pid_);
    EXPECT_TRUE(tree);
    std::vector<std::string> found;
    for (const auto& blocker : find_blockers("/proc", *tree, {.network = network})) {
      EXPECT_FALSE(blocker.remedy.empty()) << blocker.what;
      bool standard = blocker.what.starts_with("descriptor 0 ") ||
                      blocker.what.starts_with("descriptor 1 ") ||
                      blocker.what.starts_with("descriptor 2 ");
      if (!standard) found.push_back(blocker.what);
    }
    return found;
  }

 private:
  pid_t pid_ = 0;
  bool able_ = false;
};

#define EXPECT_BLOCKED(text, ...)                                        \
  do {                                                                   \
    Victim victim([]() -> bool __VA_ARGS__);                             \
    if (!victim.able()) GTEST_SKIP() << "this kernel has no such thing"; \
    EXPECT_THAT(victim.blockers(), ElementsAre(HasSubstr(text)));        \
  } while (false)

TEST(Blockers, WhatMovesIsNone) {
  Victim victim([] {
    int pair[2];
    sigset_t set;
    sigemptyset(&set);
    char name[] = "/var/tmp/gestalt-blockers-XXXXXX";
    int file = ::mkstemp(name);
    bool all = ::socketpair(AF_UNIX, SOCK_STREAM, 0, pair) == 0 && ::pipe(pair) == 0 &&
               ::eventfd(0, 0) >= 0 && ::epoll_create1(0) >= 0 && ::timerfd_create(0, 0) >= 0 &&
               ::signalfd(-1, &set, 0) >= 0 && ::inotify_init() >= 0 &&
               ::memfd_create("memory", 0) >= 0 && ::open("/dev/null", O_RDWR) >= 0 &&
               ::open("/dev/urandom", O_RDONLY) >= 0 && file >= 0 &&
               ::socket(AF_NETLINK, SOCK_RAW, 0) >= 0 && ::socket(AF_UNIX, SOCK_DGRAM, 0) >= 0 &&
               ::socket(AF_INET, SOCK_STREAM, 0) >= 0 && ::socket(AF_INET6, SOCK_DGRAM, 0) >= 0;
    (void)::unlink(name);
    (void)::mmap(nullptr, 8192, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    return all && ::ftruncate(file, 1 << 20) == 0;
  });
  ASSERT_TRUE(victim.able());
  EXPECT_THAT(victim.blockers(), IsEmpty());
}

// Of a process that would leave a deputy.
std::vector<Blocker> with_deputy(pid_t pid) {
  auto tree = read_tree("/proc", pid);
  EXPECT_TRUE(tree);
  return find_blockers("/proc", *tree, {.deputy = true});
}

TEST(Blockers, OnlyStandardStreamsAreRelayed) {
  int shared[2];
  ASSERT_EQ(::pipe2(shared, O_CLOEXEC), 0);
  Victim victim([&shared] {
    int own[2];
    return ::dup2(shared[0], 0) == 0 && ::dup2(shared[1], 9) == 9 && ::pipe(own) == 0;
  });
  ASSERT_TRUE(victim.able());
  std::vector<std::string> found;
  for (const auto& blocker : with_deputy(victim.pid()))
    if (blocker.what.starts_with("descriptor 0 ") || blocker.what.starts_with("descriptor 9 "))
      found.push_back(blocker.what);
  // The very same pipe as standard input is relayed by any number; nothing is said of its own.
  EXPECT_THAT(found, IsEmpty());
  for (int end : shared) ::close(end);
}

TEST(Blockers, OtherPipesToThoseWhoStay) {
  int shared[2];
  ASSERT_EQ(::pipe2(shared, O_CLOEXEC), 0);
  Victim victim([&shared] { return ::dup2(shared[1], 9) == 9 && ::close(shared[1]) == 0; });
  ASSERT_TRUE(victim.able());
  std::vector<std::string> found;
  for (const auto& blocker : with_deputy(victim.pid()))
    if (blocker.what.starts_with("descriptor 9 ")) found.push_back(blocker.what);
  EXPECT_THAT(found, ElementsAre(HasSubstr("is connected to a process that would stay here")));
  EXPECT_THAT(victim.blockers(), IsEmpty());  // of a job's root its stand-in has the other ends
  for (int end : shared) ::close(end);
}

class SomeNetwork : public UnitNetwork {
 public:
  explicit SomeNetwork(pid_t pid)
      : namespace_(open_file(formatted("/proc/{}/ns/net", pid), O_RDONLY).value_or(Fd())) {}
  [[nodiscard]] int descriptor() const override { return namespace_.get(); }
  Result<void> hold() override { return {}; }
  std::vector<Packet> held() override { return {}; }
  void deliver(std::vector<Packet>) override {}
  Result<void> prepare() override { return {}; }
  Result<void> connect() override { return {}; }
  Result<void> disconnect() override { return {}; }

 private:
  Fd namespace_;
};

TEST(Blockers, InternetSocketsMoveWithTheirNetwork) {
  Victim victim([] {
    sockaddr_in any{};
    any.sin_family = AF_INET;
    if (::unshare(CLONE_NEWNET) != 0) return false;
    int fd = ::socket(AF_INET, SOCK_STREAM, 0);
    return ::bind(fd, reinterpret_cast<sockaddr*>(&any), sizeof any) == 0 && ::listen(fd, 1) == 0;
  });
  if (!victim.able()) GTEST_SKIP() << "no network namespaces without privilege";
  SomeNetwork own(victim.pid());
  if (criu_without_internet_sockets().empty())
    EXPECT_THAT(victim.blockers(&own), IsEmpty());
  else
    EXPECT_THAT(victim.blockers(&own), ElementsAre(HasSubstr("cannot save on this kernel")));
  // Not with somebody else's.
  SomeNetwork ours(::getpid());
  EXPECT_THAT(victim.blockers(&ours), ElementsAre(HasSubstr("its own network")));
  EXPECT_THAT(victim.blockers(), testing::Contains(HasSubstr("is an internet socket")));
}

TEST(Blockers, WhichCriuSavesInternetSockets) {
  for (const char* old : {"3.17.1", "4", "4.1", "4.1.1"})
    EXPECT_TRUE(wants_credentials_of_every_socket(old)) << old;
  for (const char* good : {"4.2", "4.2.1", "4.10", "5", "5.0", "", "unknown"})
    EXPECT_FALSE(wants_credentials_of_every_socket(good)) << good;
}

TEST(Blockers, Personalities) {
  EXPECT_BLOCKED("a personality that does not move (0x20000)",
                 { return ::personality(UNAME26) >= 0; });
  Victim victim([] { return ::personality(ADDR_NO_RANDOMIZE) >= 0; });
  EXPECT_THAT(victim.blockers(), IsEmpty());
  // Without its child.
  Victim family([] {
    if (::fork() != 0) return true;
    (void)::prctl(PR_SET_PDEATHSIG, SIGKILL);
    (void)::personality(ADDR_NO_RANDOMIZE);
    while (true) ::pause();
  });
  auto has_changed = [&] {
    auto found = family.blockers();
    return found.size() == 1 && found[0].contains("is not that of its job");
  };
  for (auto deadline = deadline_in(std::chrono::seconds(10));
       !has_changed() && Clock::now() < deadline;)
    std::this_thread::sleep_for(std::chrono::milliseconds(2));
  EXPECT_TRUE(has_changed());
}

TEST(Blockers, InternetSockets) {
  EXPECT_BLOCKED("is an internet socket", {
    sockaddr_in any{};
    any.sin_family = AF_INET;
    int fd = ::socket(AF_INET, SOCK_STREAM, 0);
    return ::bind(fd, reinterpret_cast<sockaddr*>(&any), sizeof any) == 0 && ::listen(fd, 1) == 0;
  });
}

TEST(Blockers, PacketSockets) {
  EXPECT_BLOCKED("is a packet socket",
                 { return ::socket(AF_PACKET, SOCK_RAW, htons(ETH_P_ALL)) >= 0; });
}

TEST(Blockers, OtherFamilies) {
  EXPECT_BLOCKED("is of a family that CRIU cannot save", {
    for (int family : {AF_ALG, AF_VSOCK, AF_CAN, AF_XDP, AF_KEY})
      for (int type : {SOCK_SEQPACKET, SOCK_STREAM, SOCK_RAW})
        if (::socket(family, type, family == AF_KEY ? 2 : 0) >= 0) return true;
    return false;
  });
}

TEST(Blockers, UnixSocketsOfOthers) {
  int pair[2];
  ASSERT_EQ(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair), 0);
  Victim both([] { return true; });  // has both ends, as we have
  EXPECT_THAT(both.blockers(), IsEmpty());
  int ours = pair[1];
  Victim one([ours] { return ::close(ours) == 0; });
  EXPECT_THAT(one.blockers(), ElementsAre(HasSubstr("is connected to a process that would stay")));
  ::close(pair[0]);
  ::close(pair[1]);
}

TEST(Blockers, AnonymousInodes) {
  EXPECT_BLOCKED(":[perf_event]) is of a kind", {
    perf_event_attr attributes{};
    attributes.type = PERF_TYPE_SOFTWARE;
    attributes.size = sizeof attributes;
    attributes.config = PERF_COUNT_SW_DUMMY;
    return ::syscall(SYS_perf_event_open, &attributes, 0, -1, -1, 0) >= 0;
  });
}

TEST(Blockers, Userfaults) {
  EXPECT_BLOCKED("[userfaultfd]", { return ::syscall(SYS_userfaultfd, O_CLOEXEC) >= 0; });
}

TEST(Blockers, IoUrings) {
  EXPECT_BLOCKED("[io_uring]", {
    char parameters[120] = {};
    return ::syscall(SYS_io_uring_setup, 4, parameters) >= 0;
  });
}

TEST(Blockers, SecretMemory) {
  EXPECT_BLOCKED("secret memory", {
    long fd = ::syscall(SYS_memfd_secret, 0);
    if (fd < 0 || ::ftruncate(static_cast<int>(fd), 4096) != 0) return false;
    void* at = ::mmap(nullptr, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, static_cast<int>(fd), 0);
    ::close(static_cast<int>(fd));
    return at != MAP_FAILED;
  });
}

TEST(Blockers, SharedMemoryOfSystemV) {
  EXPECT_BLOCKED("System V shared memory", {
    int id = ::shmget(IPC_PRIVATE, 4096, 0600);
    void* at = id < 0 ? nullptr : ::shmat(id, nullptr, 0);
    (void)::shmctl(id, IPC_RMID, nullptr);
    return at != nullptr;
  });
}

TEST(Blockers, Devices) {
  EXPECT_BLOCKED(" is a device of this node", {
    for (const char* path : {"/dev/fuse", "/dev/net/tun", "/dev/kmsg"})
      if (::open(path, O_RDWR | O_NONBLOCK) >= 0) return true;
    return false;
  });
}

TEST(Blockers, FilesInTheNodesMemory) {
  EXPECT_BLOCKED("is a file that only this node has",
                 { return ::open("/dev/shm/gestalt-blockers", O_RDWR | O_CREAT, 0600) >= 0; });
  EXPECT_BLOCKED("maps a device or node-local file (/dev/shm/gestalt-blockers)", {
    int fd = ::open("/dev/shm/gestalt-blockers", O_RDWR);
    bool mapped = ::ftruncate(fd, 4096) == 0 &&
                  ::mmap(nullptr, 4096, PROT_READ, MAP_SHARED, fd, 0) != MAP_FAILED;
    ::close(fd);
    return mapped;
  });
  ::unlink("/dev/shm/gestalt-blockers");
}

TEST(Blockers, LargeDeletedFiles) {
  EXPECT_BLOCKED("is a deleted file of 65 MiB", {
    char name[] = "/var/tmp/gestalt-blockers-XXXXXX";
    int file = ::mkstemp(name);
    (void)::unlink(name);
    return file >= 0 && ::ftruncate(file, 65 << 20) == 0;
  });
}

TEST(Blockers, Namespaces) {
  EXPECT_BLOCKED("its own network", { return ::unshare(CLONE_NEWNET) == 0; });
  EXPECT_BLOCKED("its own host name", { return ::unshare(CLONE_NEWUTS) == 0; });
  EXPECT_BLOCKED("its own System V objects", { return ::unshare(CLONE_NEWIPC) == 0; });
  EXPECT_BLOCKED("its own mounts", { return ::unshare(CLONE_NEWNS) == 0; });
  Victim container([] {
    if (::unshare(CLONE_NEWPID) != 0) return false;
    pid_t inner = ::fork();
    if (inner == 0) {
      (void)::prctl(PR_SET_PDEATHSIG, SIGKILL);
      while (true) ::pause();
    }
    return inner > 0;
  });
  ASSERT_TRUE(container.able());
  EXPECT_THAT(container.blockers(), Each(HasSubstr("its own process numbers")));
  EXPECT_EQ(container.blockers().size(), 2U);
}

TEST(Blockers, Tracers) {
  Victim victim([] { return true; });
  ASSERT_EQ(::ptrace(PTRACE_SEIZE, victim.pid(), 0, 0), 0);
  EXPECT_THAT(victim.blockers(),
              ElementsAre(HasSubstr(formatted("process {} traces it", ::getpid()))));
  EXPECT_EQ(::ptrace(PTRACE_INTERRUPT, victim.pid(), 0, 0), 0);
}

// Many mappings of one thing are one reason.
TEST(Blockers, AreSaidOnce) {
  EXPECT_BLOCKED("gestalt-blockers)", {
    int fd = ::open("/dev/shm/gestalt-blockers", O_RDWR | O_CREAT, 0600);
    if (::ftruncate(fd, 4096) != 0) return false;
    for (int i = 0; i < 20; ++i) (void)::mmap(nullptr, 4096, PROT_READ, MAP_SHARED, fd, 0);
    ::close(fd);
    return ::unlink("/dev/shm/gestalt-other") != 0;
  });
  ::unlink("/dev/shm/gestalt-blockers");
}

TEST(Blockers, AreOneErrorWithAllReasons) {
  EXPECT_TRUE(refuse_blockers({}));
  auto refused = refuse_blockers({{7, "it sings", "hush"}, {8, "it dances", "stop"}});
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().code, ErrorCode::kBlocked);
  EXPECT_EQ(refused.error().message, "cannot migrate; process 7: it sings; process 8: it dances");
  EXPECT_EQ(refused.error().remedy, "hush");
}

}  // namespace
}  // namespace gestalt
