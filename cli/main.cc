// gestalt: the users' command. Parses, asks the daemon over its local socket, prints.
#include <fcntl.h>
#include <unistd.h>

#include <cstdlib>

#include "cli/command_line.h"
#include "cli/commands.h"

namespace {

// A socket that takes the place of a closed standard stream would be read and written
// as that stream.
void fill_standard_descriptors() {
  int fd = 0;
  do {
    fd = ::open("/dev/null", O_RDWR);  // NOLINT(android-cloexec-open): it is a standard stream
  } while (fd >= 0 && fd <= STDERR_FILENO);
  if (fd > STDERR_FILENO) ::close(fd);
}

}  // namespace

int main(int argc, char** argv) {
  fill_standard_descriptors();
  if (argc > 0 && gestalt::cli::is_login_shell(argv[0]))
    return gestalt::cli::login_shell(argv[0], {argv + 1, argv + argc});
  return gestalt::cli::run_command_line({argv + 1, argv + argc});
}
