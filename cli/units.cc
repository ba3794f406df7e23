#include "cli/units.h"

#include <charconv>
#include <cmath>

namespace gestalt::cli {
namespace {

// The number that `text` begins with, and takes it off. No signs, no exponents.
std::optional<double> take_number(std::string_view& text) {
  double number = 0;
  auto [end, error] =
      std::from_chars(text.data(), text.data() + text.size(), number, std::chars_format::fixed);
  if (error != std::errc() || !std::isfinite(number) || text.front() == '-') return std::nullopt;
  text.remove_prefix(static_cast<std::size_t>(end - text.data()));
  return number;
}

void drop_suffix(std::string_view& text, std::string_view suffix) {
  if (text.ends_with(suffix)) text.remove_suffix(suffix.size());
}

}  // namespace

std::optional<std::uint64_t> parse_rate(std::string_view text) {
  auto number = take_number(text);
  if (!number) return std::nullopt;
  drop_suffix(text, "/s");
  drop_suffix(text, "B");
  drop_suffix(text, "i");
  constexpr std::string_view kUnits = "KMGT";
  double value = *number;
  if (text.size() == 1) {
    auto power = kUnits.find(text.front() == 'k' ? 'K' : text.front());
    if (power == std::string_view::npos) return std::nullopt;
    value = std::ldexp(value, 10 * (static_cast<int>(power) + 1));
  } else if (!text.empty()) {
    return std::nullopt;
  }
  if (value > 1e15) return std::nullopt;
  return static_cast<std::uint64_t>(std::llround(value));
}

std::optional<double> parse_duration_seconds(std::string_view text) {
  auto number = take_number(text);
  if (!number) return std::nullopt;
  if (text.empty() || text == "ms") return *number / 1e3;
  if (text == "s") return *number;
  if (text == "us") return *number / 1e6;
  return std::nullopt;
}

}  // namespace gestalt::cli
