// Signals as people write them.
#pragma once

#include <optional>
#include <string>
#include <string_view>

namespace gestalt::cli {

// "TERM", "SIGTERM", "term", "15", "0", "RTMIN+3", "RTMAX-1".
[[nodiscard]] std::optional<int> parse_signal(std::string_view text);
// Also a shell's exit status for a death by signal, 128+n.
[[nodiscard]] std::optional<int> parse_signal_or_status(std::string_view text);
// "TERM", "RTMIN+3"; the number where a signal has no name.
[[nodiscard]] std::string signal_name(int signal);

}  // namespace gestalt::cli
