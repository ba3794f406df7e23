// Signal state: a handler on an alternate stack, an ignored signal, a blocked one that
// stays pending, queued real-time signals with their values, every disposition and the
// mask. SIGUSR1 comes from outside and is counted: `ok … outside=N`. Its own is a
// real-time signal: of two SIGUSR1 that are pending at a time one is lost, as ever.
#include <signal.h>

#include <array>
#include <vector>

#include "victim.h"

namespace {

using victim::check;
using victim::must;

constexpr std::size_t kStackBytes = 64 * 1024;
constexpr int kQueued = 5;
const int own_signal = SIGRTMIN + 4;

alignas(16) std::array<char, kStackBytes> alternate_stack;
std::atomic<std::uint64_t> own_count{0};
std::atomic<std::uint64_t> outside_count{0};
std::atomic<bool> wrong_stack{false};

void on_signal(int number, siginfo_t*, void*) {
  char here = 0;
  auto at = reinterpret_cast<std::uintptr_t>(&here);
  auto low = reinterpret_cast<std::uintptr_t>(alternate_stack.data());
  if (at < low || at >= low + kStackBytes) wrong_stack = true;
  if (number == own_signal)
    ++own_count;
  else
    ++outside_count;
}

void send_to_self(int number, int value) {
  must(::sigqueue(::getpid(), number, sigval{.sival_int = value}), "sigqueue");
}

void set_up() {
  stack_t stack{};
  stack.ss_sp = alternate_stack.data();
  stack.ss_size = kStackBytes;
  must(::sigaltstack(&stack, nullptr), "sigaltstack");

  struct sigaction action{};
  action.sa_sigaction = on_signal;
  action.sa_flags = SA_SIGINFO | SA_ONSTACK | SA_RESTART;
  ::sigaddset(&action.sa_mask, SIGINT);
  must(::sigaction(SIGUSR1, &action, nullptr), "sigaction");
  must(::sigaction(own_signal, &action, nullptr), "sigaction");
  ::signal(SIGUSR2, SIG_IGN);
  ::signal(SIGPIPE, SIG_IGN);

  sigset_t blocked;
  ::sigemptyset(&blocked);
  ::sigaddset(&blocked, SIGHUP);
  ::sigaddset(&blocked, SIGRTMIN + 3);
  must(::sigprocmask(SIG_BLOCK, &blocked, nullptr), "sigprocmask");
  must(::kill(::getpid(), SIGHUP), "kill");
  for (int i = 0; i < kQueued; ++i) send_to_self(SIGRTMIN + 3, 100 + i);
}

// As the kernel tells it, for all signals at once.
struct State {
  struct Disposition {
    void* handler = nullptr;
    int flags = 0;
    bool blocks_int = false;
    bool operator==(const Disposition&) const = default;
  };
  std::vector<Disposition> dispositions;
  std::vector<bool> mask;
  std::vector<bool> pending;
  void* stack = nullptr;
  std::size_t stack_bytes = 0;

  static State read() {
    State state;
    sigset_t mask{};
    sigset_t pending{};
    must(::sigprocmask(SIG_BLOCK, nullptr, &mask), "sigprocmask");
    must(::sigpending(&pending), "sigpending");
    for (int number = 1; number <= SIGRTMAX; ++number) {
      struct sigaction action{};
      if (::sigaction(number, nullptr, &action) != 0) action = {};
      state.dispositions.push_back({reinterpret_cast<void*>(action.sa_handler), action.sa_flags,
                                    ::sigismember(&action.sa_mask, SIGINT) == 1});
      state.mask.push_back(::sigismember(&mask, number) == 1);
      // Those that the outside may send at any moment say nothing.
      state.pending.push_back(number != SIGUSR1 && number != SIGTERM &&
                              ::sigismember(&pending, number) == 1);
    }
    stack_t stack{};
    must(::sigaltstack(nullptr, &stack), "sigaltstack");
    state.stack = stack.ss_sp;
    state.stack_bytes = stack.ss_size;
    return state;
  }
};

void verify(const State& before) {
  State now = State::read();
  for (std::size_t i = 0; i < now.dispositions.size(); ++i) {
    check(now.dispositions[i] == before.dispositions[i], "signal {}: its disposition changed",
          i + 1);
    check(now.mask[i] == before.mask[i], "signal {}: blocked is {}", i + 1, bool{now.mask[i]});
    check(now.pending[i] == before.pending[i], "signal {}: pending is {}", i + 1,
          bool{now.pending[i]});
  }
  check(now.stack == before.stack && now.stack_bytes == before.stack_bytes,
        "the alternate stack changed");
}

void verify_queue() {
  sigset_t wanted;
  ::sigemptyset(&wanted);
  ::sigaddset(&wanted, SIGRTMIN + 3);
  timespec none{};
  for (int i = 0; i < kQueued; ++i) {
    siginfo_t info{};
    must(::sigtimedwait(&wanted, &info, &none), "a queued signal is gone");
    victim::same(100 + i, info.si_value.sival_int, "value of a queued signal");
    victim::same(static_cast<int>(SI_QUEUE), info.si_code, "code of a queued signal");
  }
  check(::sigtimedwait(&wanted, nullptr, &none) < 0, "a queued signal came twice");
}

}  // namespace

int main(int argc, char** argv) {
  victim::Options options = victim::parse_options(argc, argv);
  victim::Run run(options);
  set_up();
  const State before = State::read();
  check(before.pending[SIGHUP - 1], "SIGHUP is not pending");
  run.ready();

  std::uint64_t sent = 0;
  while (run.keep_going(sent)) {
    for (int i = 0; i < 20; ++i) {
      send_to_self(own_signal, 0);  // handled before sigqueue returns
      ++sent;
      check(own_count == sent, "{} of its own signals came, {} were sent", own_count.load(), sent);
    }
    must(::kill(::getpid(), SIGUSR2), "kill");
    check(!wrong_stack, "the handler ran on a wrong stack");
    verify(before);
    victim::sleep_ms(5);
  }
  verify(before);
  verify_queue();
  run.ok("own={} outside={}", own_count.load(), outside_count.load());
}
