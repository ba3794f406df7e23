// Eight writers that write at random over one region, each its own eighth of every page
// (slots.h): they fault on the same pages at the same time. --kind threads (default), or
// processes with the region between them.
#include <sys/prctl.h>
#include <sys/wait.h>

#include <thread>

#include "slots.h"

namespace {

using victim::bad;
using victim::check;
using victim::must;

struct Control {
  std::atomic<std::uint64_t> ready;
  std::atomic<std::uint64_t> written;
  std::atomic<bool> stop;
};

void work(Control& control, std::span<victim::SlotPage> pages, std::uint64_t self,
          std::uint64_t rate) {
  victim::SlotWriter writer(pages, self);
  writer.write_all();
  ++control.ready;
  victim::Pace pace(rate == 0 ? 0 : std::max<std::uint64_t>(1, rate / victim::kWriters));
  while (!control.stop) {
    std::uint64_t step = pace.step();
    for (std::uint64_t i = 0; i < step; ++i) writer.rewrite_one();
    control.written += step;
  }
  writer.verify_all();
}

void expect_clean_exits() {
  for (std::uint64_t i = 0; i < victim::kWriters; ++i) {
    int status = 0;
    pid_t child = 0;
    while ((child = ::waitpid(-1, &status, 0)) < 0)
      check(errno == EINTR, "waitpid: {}", std::strerror(errno));
    check(WIFEXITED(status) && WEXITSTATUS(status) == 0, "writer {} ended with wait status {:#x}",
          child, status);
  }
}

}  // namespace

int main(int argc, char** argv) {
  victim::Options defaults;
  defaults.rate = 8000;  // slots a second, of all writers together
  victim::Options options = victim::parse_options(argc, argv, defaults);
  const bool processes = options.kind == "processes";
  victim::Run run(options);
  constexpr int kShared = MAP_SHARED | MAP_ANONYMOUS;
  auto* control =
      static_cast<Control*>(victim::map(victim::kPageBytes, PROT_READ | PROT_WRITE, kShared));
  auto pages = victim::map_slots(std::max<std::uint64_t>(options.mib, 1) * 256,
                                 processes ? kShared : MAP_PRIVATE | MAP_ANONYMOUS);
  std::vector<std::thread> threads;
  for (std::uint64_t self = 0; self < victim::kWriters; ++self) {
    if (!processes) {
      threads.emplace_back(work, std::ref(*control), pages, self, options.rate);
    } else if (must(::fork(), "fork") == 0) {
      ::signal(SIGTERM, SIG_IGN);  // the root tells it when to stop
      must(::prctl(PR_SET_PDEATHSIG, SIGKILL), "prctl");
      work(*control, pages, self, options.rate);
      ::_exit(0);
    }
  }
  while (control->ready < victim::kWriters) victim::sleep_ms(5);
  run.ready();
  while (run.keep_going(control->written)) victim::sleep_ms(10);
  control->stop = true;
  for (auto& thread : threads) thread.join();
  if (processes) expect_clean_exits();
  run.ok("mib={} written={}", options.mib, control->written.load());
}
