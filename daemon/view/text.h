// Taking the kernel's text files apart without copying: whatever the bytes, these end,
// and what is no number is not taken for one.
#pragma once

#include <algorithm>
#include <charconv>
#include <cstdint>
#include <limits>
#include <optional>
#include <string>
#include <string_view>

namespace gestalt::view_text {

// Takes the next line, without its newline, off the front. False: there is none left.
inline bool next_line(std::string_view& text, std::string_view& line) {
  if (text.empty()) return false;
  auto end = text.find('\n');
  line = text.substr(0, end);
  text.remove_prefix(end == std::string_view::npos ? text.size() : end + 1);
  return true;
}

// Takes the next word off the front; words are separated by spaces and tabs. Empty: none.
inline std::string_view next_word(std::string_view& line) {
  auto begin = line.find_first_not_of(" \t");
  if (begin == std::string_view::npos) return line = {};
  line.remove_prefix(begin);
  auto word = line.substr(0, line.find_first_of(" \t"));
  line.remove_prefix(word.size());
  return word;
}

inline std::string_view trim(std::string_view text) {
  auto begin = text.find_first_not_of(" \t");
  if (begin == std::string_view::npos) return {};
  return text.substr(begin, text.find_last_not_of(" \t") - begin + 1);
}

inline std::optional<std::uint64_t> parse_number(std::string_view word, int base = 10) {
  std::uint64_t value = 0;
  auto [end, error] = std::from_chars(word.data(), word.data() + word.size(), value, base);
  if (error != std::errc() || end != word.data() + word.size()) return {};
  return value;
}

// The largest number there is rather than a small wrong one.
inline std::uint64_t add(std::uint64_t a, std::uint64_t b) {
  std::uint64_t sum = 0;
  if (__builtin_add_overflow(a, b, &sum)) return std::numeric_limits<std::uint64_t>::max();
  return sum;
}

// "3.05" as 305. Averages and uptimes have two decimals, so sums of them are exact.
inline std::optional<std::uint64_t> parse_hundredths(std::string_view word) {
  auto point = word.find('.');
  if (point == std::string_view::npos || word.size() != point + 3) return {};
  auto whole = parse_number(word.substr(0, point));
  auto part = parse_number(word.substr(point + 1));
  if (!whole || !part || *whole > std::numeric_limits<std::uint64_t>::max() / 100 - 1) return {};
  return *whole * 100 + *part;
}

inline void append_number(std::string& out, std::uint64_t value, std::size_t width = 0) {
  char digits[20];
  auto end = std::to_chars(digits, digits + sizeof(digits), value).ptr;
  auto size = static_cast<std::size_t>(end - digits);
  if (size < width) out.append(width - size, ' ');
  out.append(digits, size);
}

inline void append_hundredths(std::string& out, std::uint64_t value) {
  append_number(out, value / 100);
  out += '.';
  out += static_cast<char>('0' + value / 10 % 10);
  out += static_cast<char>('0' + value % 10);
}

inline bool is_control(char c) { return static_cast<unsigned char>(c) < ' ' || c == '\x7f'; }

// Fit to stand in a line of words as the name of a thing: no blanks, nothing unprintable,
// and no colon, at which readers of net/dev and meminfo end a name.
inline bool is_name(std::string_view text) {
  auto bad = [](char c) { return is_control(c) || c == ' ' || c == ':'; };
  return !text.empty() && text.size() < 64 && std::ranges::none_of(text, bad);
}

}  // namespace gestalt::view_text
