// Eight threads. Each keeps patterns in its registers, its thread-local storage and its
// stack; knows its thread id, its name and its signal mask; and hands a numbered token on
// to the next by futex. The handovers are the victim's progress.
#include <linux/futex.h>
#include <sys/prctl.h>
#include <sys/syscall.h>

#include <array>
#include <thread>
#include <vector>

#include "registers.h"
#include "victim.h"

namespace {

using victim::bad;
using victim::check;
using victim::mix;
using victim::must;

constexpr std::uint32_t kThreads = 8;
constexpr std::uint64_t kSpins = 400'000;
constexpr std::size_t kLocalWords = 64;

// Whose turn it is is token % kThreads.
std::atomic<std::uint32_t> token{0};
std::atomic<bool> stop{false};
std::array<std::atomic<std::uint64_t>, kThreads> rounds{};
thread_local std::array<std::uint64_t, kLocalWords> local_pattern;

long futex(std::atomic<std::uint32_t>& word, int operation, std::uint32_t value) {
  return ::syscall(SYS_futex, reinterpret_cast<std::uint32_t*>(&word),
                   operation | FUTEX_PRIVATE_FLAG, value, nullptr, nullptr, 0);
}

void pass_token(std::uint32_t self) {
  for (;;) {
    std::uint32_t now = token.load();
    if (stop) return;
    if (now % kThreads == self) break;
    if (futex(token, FUTEX_WAIT, now) != 0 && errno != EAGAIN && errno != EINTR)
      bad("futex: {}", std::strerror(errno));
  }
  token.fetch_add(1);
  futex(token, FUTEX_WAKE, kThreads + 1);
}

struct Remembered {
  pid_t thread_id = static_cast<pid_t>(::syscall(SYS_gettid));
  pid_t process_id = ::getpid();
  std::uint64_t thread_pointer = 0;
  std::array<char, 16> name{};
  sigset_t mask{};
};

// The compiler must not know what is there.
std::uint64_t* thread_local_words() {
  std::uint64_t* words = local_pattern.data();
  asm volatile("" : "+r"(words) : : "memory");
  return words;
}

std::uint64_t thread_pointer() {
  std::uint64_t value = 0;
  asm volatile("mov %%fs:0, %0" : "=r"(value));
  return value;
}

Remembered set_up(std::uint32_t self) {
  Remembered mine;
  mine.thread_pointer = thread_pointer();
  std::snprintf(mine.name.data(), mine.name.size(), "thread-%u", self);
  must(::prctl(PR_SET_NAME, mine.name.data()), "prctl");
  ::sigemptyset(&mine.mask);
  ::sigaddset(&mine.mask, SIGRTMIN + static_cast<int>(self));
  ::sigaddset(&mine.mask, SIGTERM);
  if (::pthread_sigmask(SIG_SETMASK, &mine.mask, nullptr) != 0) bad("pthread_sigmask");
  std::uint64_t* local = thread_local_words();
  for (std::size_t i = 0; i < kLocalWords; ++i) local[i] = mix(self * 1000 + i);
  return mine;
}

void verify(std::uint32_t self, const Remembered& mine) {
  victim::same(mine.thread_id, static_cast<pid_t>(::syscall(SYS_gettid)), "thread id");
  victim::same(mine.process_id, ::getpid(), "process id");
  victim::same(mine.thread_pointer, thread_pointer(), "thread pointer");
  const std::uint64_t* local = thread_local_words();
  for (std::size_t i = 0; i < kLocalWords; ++i)
    check(local[i] == mix(self * 1000 + i), "thread {}: thread-local word {}", self, i);
  std::array<char, 16> name{};
  must(::prctl(PR_GET_NAME, name.data()), "prctl");
  check(name == mine.name, "thread {}: its name is {}", self, name.data());
  sigset_t mask{};
  ::pthread_sigmask(SIG_SETMASK, nullptr, &mask);
  for (int number = 1; number < SIGRTMAX; ++number)
    check(::sigismember(&mask, number) == ::sigismember(&mine.mask, number),
          "thread {}: signal {} in its mask changed", self, number);
}

void work(std::uint32_t self) {
  const Remembered mine = set_up(self);
  std::array<std::uint64_t, 1024> on_stack{};
  for (std::size_t i = 0; i < on_stack.size(); ++i) on_stack[i] = mix(self ^ i << 8);
  // The compiler must not see that nobody changes it.
  asm volatile("" : : "r"(on_stack.data()) : "memory");
  while (!stop) {
    std::uint64_t round = rounds[self].fetch_add(1) + 1;
    if (const char* what = victim::hold_registers(mix(self + round * kThreads), kSpins))
      bad("thread {}: {} changed", self, what);
    verify(self, mine);
    asm volatile("" : : "r"(on_stack.data()) : "memory");
    for (std::size_t i = 0; i < on_stack.size(); ++i)
      check(on_stack[i] == mix(self ^ i << 8), "thread {}: stack word {}", self, i);
    pass_token(self);
  }
}

}  // namespace

int main(int argc, char** argv) {
  victim::Options options = victim::parse_options(argc, argv);
  victim::Run run(options);
  std::vector<std::jthread> threads;
  for (std::uint32_t self = 0; self < kThreads; ++self) threads.emplace_back(work, self);
  while (token < kThreads) victim::sleep_ms(1);
  run.ready();

  std::uint32_t seen = token;
  while (run.keep_going(token)) {
    victim::sleep_ms(20);
    std::uint32_t now = token;
    check(now >= seen, "the token went back from {} to {}", seen, now);
    seen = now;
  }
  stop = true;
  token.fetch_add(1);
  futex(token, FUTEX_WAKE, kThreads);
  threads.clear();

  std::uint64_t total = 0;
  for (auto& count : rounds) {
    check(count > 0, "a thread never ran");
    total += count;
  }
  run.ok("threads={} vectors={} handovers={} rounds={}", kThreads, victim::vector_kind(),
         token.load(), total);
}
