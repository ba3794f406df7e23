// For tests: a child process that does as it is told, step by step.
#pragma once

#include <gtest/gtest.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <csignal>
#include <cstddef>
#include <functional>
#include <span>
#include <thread>

#include "common/clock.h"
#include "common/fd.h"
#include "common/format.h"
#include "common/proc.h"
#include "migrate/dirty_tracker.h"
#include "migrate/page_set.h"
#include "migrate/uffd_wp_tracker.h"

namespace gestalt {

inline constexpr std::uint64_t kMiB = 1U << 20;

// For what is to happen at some moment of many: on an emulated machine each round takes long, and
// there fewer have to do.
class Rounds {
 public:
  Rounds(int least, int most) : least_(least), most_(most) {}
  [[nodiscard]] bool next() {
    ++round_;
    return round_ <= most_ && (round_ <= least_ || Clock::now() < enough_);
  }

 private:
  int least_, most_, round_ = 0;
  Deadline enough_ = deadline_in(std::chrono::seconds(5));
};

// A forked child that goes step by step: tell() hands a number out, wait() waits for go(), step()
// is both.
class Victim {
 public:
  struct Side {
    int read, write;
    void tell(std::uint64_t value) const { (void)!::write(write, &value, sizeof value); }
    void tell(const void* address) const { tell(reinterpret_cast<std::uint64_t>(address)); }
    void wait() const {
      std::uint64_t value = 0;
      if (::read(read, &value, sizeof value) != sizeof value) ::_exit(9);
    }
    void step(const auto& value) const {
      tell(value);
      wait();
    }
  };
  explicit Victim(const std::function<void(const Side&)>& body) {
    auto down = make_pipe();
    auto up = make_pipe();
    pid_ = ::fork();
    if (pid_ == 0) {
      ::prctl(PR_SET_PDEATHSIG, SIGKILL);
      ::close(down->write.get());
      body(Side{down->read.get(), up->write.get()});
      ::_exit(0);
    }
    down_ = std::move(down->write);
    up_ = std::move(up->read);
  }
  ~Victim() {
    if (pid_ <= 0) return;
    ::kill(pid_, SIGKILL);
    ::waitpid(pid_, nullptr, __WALL);
  }
  Victim(const Victim&) = delete;
  Victim& operator=(const Victim&) = delete;

  [[nodiscard]] pid_t pid() const { return pid_; }
  std::uint64_t next() {
    std::uint64_t value = 0;
    auto got = read_exact(up_.get(), std::as_writable_bytes(std::span(&value, 1)),
                          deadline_in(std::chrono::seconds(20)));
    EXPECT_TRUE(got) << got.error().text();
    return value;
  }
  void go() {
    std::uint64_t value = 1;
    EXPECT_TRUE(write_all(down_.get(), std::as_bytes(std::span(&value, 1)),
                          deadline_in(std::chrono::seconds(5))));
  }
  std::uint64_t step() {
    go();
    return next();
  }
  int join() {
    int status = -1;
    ::waitpid(pid_, &status, 0);
    pid_ = -1;
    return status;
  }

 private:
  pid_t pid_ = -1;
  Fd down_, up_;
};

inline char* map_memory(std::uint64_t bytes, int flags = 0) {
  void* memory =
      ::mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | flags, -1, 0);
  if (memory == MAP_FAILED) ::_exit(8);
  return static_cast<char*>(memory);
}

inline void touch(char* memory, std::uint64_t bytes, char value = 1) {
  for (std::uint64_t at = 0; at < bytes; at += kPageBytes) memory[at] = value;
}

inline char* map_touched(std::uint64_t bytes) {
  char* memory = map_memory(bytes);
  touch(memory, bytes);
  return memory;
}

// All but read, write and exit_group is death.
inline void allow_nothing() {
  sock_filter filter[] = {
      BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(seccomp_data, nr)),
      BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_read, 3, 0),
      BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_write, 2, 0),
      BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_exit_group, 1, 0),
      BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_KILL_PROCESS),
      BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
  };
  sock_fprog program{std::size(filter), filter};
  ::prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
  if (::prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) != 0) ::_exit(6);
}

inline char state_of(pid_t pid) {
  auto stat = read_stat("/proc", pid);
  return stat ? stat->state : '?';
}

inline bool reaches_state(pid_t pid, char state) {
  for (int i = 0; i < 2000; ++i) {
    if (state_of(pid) == state) return true;
    std::this_thread::sleep_for(milliseconds(1));
  }
  return false;
}

// All threads: one may still run when another has stopped.
inline bool all_threads_stop(pid_t pid) {
  auto threads = list_pids(formatted("/proc/{}/task", pid));
  return threads && std::ranges::all_of(*threads, [](pid_t t) { return reaches_state(t, 'T'); });
}

class DirtyTrackerTest : public testing::Test {
 protected:
  void SetUp() override {
    if (probe_tracker() != TrackerKind::kUserfaultWriteProtect)
      GTEST_SKIP() << "this kernel has no asynchronous write-protection by userfaultfd";
  }
  PageSet harvest(pid_t pid) {
    auto pages = tracker_->harvest(pid);
    EXPECT_TRUE(pages) << pages.error().text();
    return pages ? std::move(*pages) : PageSet();
  }
  PageSet harvest_frozen(pid_t pid) {
    auto pages = tracker_->harvest_frozen(pid);
    EXPECT_TRUE(pages) << pages.error().text();
    return pages ? std::move(*pages) : PageSet();
  }
  std::unique_ptr<DirtyTracker> tracker_ = std::make_unique<UffdWpTracker>();
};

}  // namespace gestalt
