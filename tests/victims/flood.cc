// Writes the same --mib MiB to stdout each time, in pieces of odd sizes, at --rate KiB a
// second (0: as fast as they are taken): compare the checksum of two runs. `ready` and
// `ok bytes=N` go to stderr.
#include <algorithm>

#include "victim.h"

int main(int argc, char** argv) {
  victim::report_fd() = STDERR_FILENO;
  victim::Options defaults;
  defaults.tick_ms = 0;
  defaults.rate = 0;
  victim::Options options = victim::parse_options(argc, argv, defaults);
  victim::Run run(options);
  victim::Pace pace(options.rate);
  run.ready();
  const std::uint64_t total = options.mib << 20;
  std::uint64_t written = 0;
  std::uint64_t pieces = 0;
  std::string piece;
  // Stops early only by SIGTERM: a time limit would make the stream differ.
  while (written < total && run.keep_going(written)) {
    std::uint64_t step = options.rate == 0 ? 64 : pace.step();
    std::uint64_t size = std::min(total - written, step * 1024 - victim::mix(pieces++) % 1000);
    piece.clear();
    for (std::uint64_t i = 0; i < size; ++i) {
      std::uint64_t position = written + i;
      piece.push_back(static_cast<char>(position * 2654435761U >> 13 ^ position));
    }
    victim::check(victim::write_all(STDOUT_FILENO, piece), "write: {}", std::strerror(errno));
    written += size;
  }
  run.ok("bytes={}", written);
}
