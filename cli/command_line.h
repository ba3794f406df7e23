// The grammar of the command line, and its help.
#pragma once

#include <string>
#include <vector>

namespace gestalt::cli {

// Parses the arguments (without the program's name), carries the command out, and
// returns the exit code.
[[nodiscard]] int run_command_line(std::vector<std::string> arguments);

}  // namespace gestalt::cli
