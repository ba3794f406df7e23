#include "cli/signal_names.h"

#include <algorithm>
#include <cctype>
#include <charconv>
#include <csignal>
#include <cstring>

#include "common/format.h"

namespace gestalt::cli {
namespace {

std::optional<int> parse_number(std::string_view text) {
  int value = 0;
  auto [end, error] = std::from_chars(text.begin(), text.end(), value);
  if (text.empty() || error != std::errc() || end != text.end()) return std::nullopt;
  return value;
}

// RTMIN, RTMIN+n, RTMAX, RTMAX-n. glibc's SIGRTMIN is not a constant.
std::optional<int> parse_realtime(std::string_view name) {
  bool from_start = name.starts_with("RTMIN");
  if (!from_start && !name.starts_with("RTMAX")) return std::nullopt;
  int base = from_start ? SIGRTMIN : SIGRTMAX;
  name.remove_prefix(5);
  if (name.empty()) return base;
  if (name[0] != (from_start ? '+' : '-')) return std::nullopt;
  auto distance = parse_number(name.substr(1));
  if (!distance || *distance < 0 || *distance > SIGRTMAX - SIGRTMIN) return std::nullopt;
  return from_start ? base + *distance : base - *distance;
}

}  // namespace

std::optional<int> parse_signal(std::string_view text) {
  if (auto number = parse_number(text)) {
    if (*number >= 0 && *number <= SIGRTMAX) return number;
    return std::nullopt;
  }
  std::string name(text);
  std::ranges::transform(name, name.begin(),
                         [](unsigned char c) { return static_cast<char>(std::toupper(c)); });
  if (name.starts_with("SIG")) name.erase(0, 3);
  if (name == "IOT") return SIGABRT;
  if (name == "CLD") return SIGCHLD;
  for (int signal = 1; signal < SIGRTMIN; ++signal) {
    const char* abbreviation = ::sigabbrev_np(signal);
    if (abbreviation != nullptr && name == abbreviation) return signal;
  }
  return parse_realtime(name);
}

std::optional<int> parse_signal_or_status(std::string_view text) {
  auto number = parse_number(text);
  if (number && *number > 128 && *number <= 128 + SIGRTMAX) return *number - 128;
  return parse_signal(text);
}

std::string signal_name(int signal) {
  if (const char* abbreviation = ::sigabbrev_np(signal)) return abbreviation;
  if (signal == SIGRTMIN) return "RTMIN";
  if (signal == SIGRTMAX) return "RTMAX";
  if (signal > SIGRTMIN && signal < SIGRTMAX) return formatted("RTMIN+{}", signal - SIGRTMIN);
  return formatted("{}", signal);
}

}  // namespace gestalt::cli
