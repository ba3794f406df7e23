// Errors and warnings on standard error, in the one form that all commands have.
#pragma once

#include <string>

#include "common/result.h"

namespace gestalt::cli {

// "gestalt: MESSAGE" and, where there is one, "gestalt: try: REMEDY". Both are made
// visible: a message may carry the name of somebody's program.
void report(const Error& error);
// The same, and the exit code to return from the command.
[[nodiscard]] int report(const Error& error, int exit_code);
void warn(const std::string& message);

// All of it to standard output; an error when it cannot be written (a full disk).
[[nodiscard]] Result<void> print_out(const std::string& text);

}  // namespace gestalt::cli
