// gestalt: the users' command. Parses, asks the daemon over its local socket, prints.
#include "cli/client.h"
#include "cli/command_line.h"
#include "cli/commands.h"

int main(int argc, char** argv) {
  gestalt::cli::fill_standard_descriptors();
  if (argc > 0 && gestalt::cli::is_login_shell(argv[0]))
    return gestalt::cli::login_shell(argv[0], {argv + 1, argv + argc});
  return gestalt::cli::run_command_line({argv + 1, argv + argc});
}
