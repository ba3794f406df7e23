// What the benchmarks of this folder share: a program with memory of its own, in a child that
// sleeps, or is stopped.
#pragma once

#include <signal.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <print>

#include "common/clock.h"
#include "common/fd.h"
#include "migrate/page_set.h"

namespace gestalt {

inline constexpr auto kPatience = std::chrono::minutes(5);

template <class T>
T must(Result<T> result) {
  if (!result) {
    std::println(stderr, "{}: {}", ::program_invocation_short_name, result.error().text());
    std::exit(1);
  }
  if constexpr (!std::is_void_v<T>) return std::move(*result);
}

// Of this process, and of the tasks that it has waited for: tracers and keeper, as it adopts
// orphans like a stand-in does.
inline double cpu_milliseconds() {
  double sum = 0;
  for (auto who : {RUSAGE_SELF, RUSAGE_CHILDREN}) {
    rusage usage{};
    (void)::getrusage(who, &usage);
    for (const timeval& time : {usage.ru_utime, usage.ru_stime})
      sum += static_cast<double>(time.tv_sec) * 1e3 + static_cast<double>(time.tv_usec) / 1e3;
  }
  return sum;
}

class Program {
 public:
  // A page in each `step_bytes` is filled. `advice`: madvise(2), for all of it.
  Program(std::uint64_t bytes, int advice, std::uint64_t step_bytes) : bytes_(bytes) {
    auto ready = must(make_pipe());
    // Mapped here, so that its address is known; filled there.
    constexpr std::uint64_t kHuge = 2U << 20;
    void* memory = ::mmap(nullptr, bytes + kHuge, PROT_READ | PROT_WRITE,
                          MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (memory == MAP_FAILED) must(Result<void>(fail_errno(errno, "map memory")));
    start_ = (reinterpret_cast<std::uint64_t>(memory) + kHuge - 1) / kHuge * kHuge;
    pid_ = ::fork();
    if (pid_ == 0) {
      (void)::prctl(PR_SET_PDEATHSIG, SIGKILL);
      auto* own = reinterpret_cast<char*>(start_);
      (void)::madvise(own, bytes, advice);
      for (std::uint64_t at = 0; at < bytes; at += step_bytes)
        std::memset(own + at, static_cast<int>(at / step_bytes % 255 + 1), kPageBytes);
      (void)!::write(ready.write.get(), "", 1);
      while (true) (void)::pause();
    }
    (void)::munmap(memory, bytes + kHuge);
    std::byte byte{};
    must(read_exact(ready.read.get(), {&byte, 1}, deadline_in(kPatience)));
  }
  Program(const Program&) = delete;
  Program& operator=(const Program&) = delete;
  ~Program() {
    (void)::kill(pid_, SIGKILL);
    (void)::waitpid(pid_, nullptr, 0);
  }
  void stop() const {
    (void)::kill(pid_, SIGSTOP);
    (void)::waitpid(pid_, nullptr, WUNTRACED);
  }
  void go_on() const { (void)::kill(pid_, SIGCONT); }
  [[nodiscard]] pid_t pid() const { return pid_; }
  [[nodiscard]] std::uint64_t start() const { return start_; }
  [[nodiscard]] PageSet pages() const {
    PageSet out;
    out.add(start_, start_ + bytes_);
    return out;
  }

 private:
  std::uint64_t bytes_;
  std::uint64_t start_ = 0;
  pid_t pid_ = -1;
};

}  // namespace gestalt
