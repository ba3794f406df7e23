// What a program would have inherited from the shell, as a message.
#pragma once

#include "cli/commands.h"
#include "common/proto/control.pb.h"
#include "common/result.h"

namespace gestalt::cli {

// Arguments, environment, directory, umask, limits and kinds of standard streams.
[[nodiscard]] Result<wire::JobSpec> make_job_spec(const RunOptions& options);

// The kinds of descriptors 0, 1, 2, and the terminal's size and settings.
[[nodiscard]] wire::Stdio describe_stdio();
// The first of the standard descriptors that is a terminal, or -1.
[[nodiscard]] int terminal_descriptor();
[[nodiscard]] wire::WindowSize window_size(int terminal);
// Only a terminal that is both ends of the dialogue is handed over raw. With `run CMD |
// less` it stays cooked: it is the pager's, and input comes by the line.
[[nodiscard]] bool is_interactive(const wire::Stdio& stdio);

}  // namespace gestalt::cli
