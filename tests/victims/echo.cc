// Writes its input back, byte for byte, and counts lines and bytes. `ready` and
// `ok lines=N bytes=M` go to stderr. Ends at the end of its input.
#include "victim.h"

int main(int argc, char** argv) {
  victim::report_fd() = STDERR_FILENO;
  victim::Options defaults;
  defaults.tick_ms = 0;
  victim::Options options = victim::parse_options(argc, argv, defaults);
  victim::Run run(options);
  run.ready();
  std::uint64_t lines = 0;
  std::uint64_t bytes = 0;
  std::string block(65536, '\0');
  while (run.keep_going(bytes)) {
    ssize_t count = ::read(STDIN_FILENO, block.data(), block.size());
    if (count < 0 && errno == EINTR) continue;
    victim::check(count >= 0, "read: {}", std::strerror(errno));
    if (count == 0) break;
    std::string_view piece(block.data(), static_cast<std::size_t>(count));
    victim::check(victim::write_all(STDOUT_FILENO, piece), "write: {}", std::strerror(errno));
    for (char byte : piece) lines += byte == '\n' ? 1U : 0U;
    bytes += piece.size();
  }
  run.ok("lines={} bytes={}", lines, bytes);
}
