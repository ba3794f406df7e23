// Prints 0, 1, 2, … to stdout, a line each: its reader sees what is lost, doubled or out
// of order. `ready` and `ok lines=N` go to stderr.
#include "victim.h"

int main(int argc, char** argv) {
  victim::report_fd() = STDERR_FILENO;
  victim::Options defaults;
  defaults.tick_ms = 0;
  victim::Options options = victim::parse_options(argc, argv, defaults);
  victim::Run run(options);
  victim::Pace pace(options.rate);
  run.ready();
  std::uint64_t number = 0;
  std::string lines;
  while (run.keep_going(number)) {
    std::uint64_t step = pace.step();
    if (options.count > 0) step = std::min(step, options.count - number);
    lines.clear();
    for (; step > 0; --step) lines += std::to_string(number++) + "\n";
    victim::check(victim::write_all(STDOUT_FILENO, lines), "write: {}", std::strerror(errno));
  }
  run.ok("lines={}", number);
}
