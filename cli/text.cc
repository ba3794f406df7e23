#include "cli/text.h"

#include <wchar.h>

#include <algorithm>
#include <array>
#include <clocale>
#include <cmath>

#include "common/format.h"

namespace gestalt::cli {
namespace {

// wcwidth(3) answers for the locale's character set only. Ours is always UTF-8.
int columns_of(char32_t code_point) {
  static const bool ready = [] { return std::setlocale(LC_CTYPE, "C.UTF-8") != nullptr; }();
  if (!ready) return code_point < 0x20 || (code_point >= 0x7f && code_point < 0xa0) ? -1 : 1;
  return ::wcwidth(static_cast<wchar_t>(code_point));
}

bool changes_direction(char32_t c) {
  return c == 0x061c || c == 0x200e || c == 0x200f || (c >= 0x202a && c <= 0x202e) ||
         (c >= 0x2066 && c <= 0x2069);
}

void append_escaped(std::string& out, std::string_view bytes) {
  for (char c : bytes) {
    switch (c) {
      case '\t':
        out += "\\t";
        break;
      case '\n':
        out += "\\n";
        break;
      case '\r':
        out += "\\r";
        break;
      case '\033':
        out += "\\e";
        break;
      default:
        out += formatted("\\x{:02x}", static_cast<unsigned char>(c));
    }
  }
}

// How many bytes a character has by its first one; 0 for one that begins none.
std::size_t length_from(unsigned char lead) {
  if (lead < 0x80) return 1;
  if (lead >= 0xc2 && lead <= 0xdf) return 2;
  if (lead >= 0xe0 && lead <= 0xef) return 3;
  if (lead >= 0xf0 && lead <= 0xf4) return 4;
  return 0;
}

}  // namespace

Character first_character(std::string_view text) {
  auto lead = static_cast<unsigned char>(text[0]);
  Character bad{text.substr(0, 1), lead, false};
  std::size_t length = length_from(lead);
  if (length == 0 || length > text.size()) return bad;
  if (length == 1) return {text.substr(0, 1), lead, true};
  char32_t code_point = lead & (0x7fU >> length);
  for (std::size_t i = 1; i < length; ++i) {
    auto byte = static_cast<unsigned char>(text[i]);
    if ((byte & 0xc0U) != 0x80U) return bad;
    code_point = code_point << 6U | (byte & 0x3fU);
  }
  constexpr std::array<char32_t, 5> kLeast{0, 0, 0x80, 0x800, 0x10000};
  bool surrogate = code_point >= 0xd800 && code_point <= 0xdfff;
  if (code_point < kLeast[length] || code_point > 0x10ffff || surrogate) return bad;
  return {text.substr(0, length), code_point, true};
}

std::string to_utf8(std::string_view bytes) {
  std::string out;
  out.reserve(bytes.size());
  while (!bytes.empty()) {
    auto character = first_character(bytes);
    if (character.valid) {
      out += character.bytes;
    } else {
      append_escaped(out, character.bytes);
    }
    bytes.remove_prefix(character.bytes.size());
  }
  return out;
}

std::string visible(std::string_view bytes) {
  std::string out;
  out.reserve(bytes.size());
  while (!bytes.empty()) {
    auto character = first_character(bytes);
    if (character.valid && columns_of(character.code_point) >= 0 && character.code_point != 0 &&
        !changes_direction(character.code_point)) {
      out += character.bytes;
    } else {
      append_escaped(out, character.bytes);
    }
    bytes.remove_prefix(character.bytes.size());
  }
  return out;
}

std::size_t display_width(std::string_view text) {
  std::size_t width = 0;
  while (!text.empty()) {
    auto character = first_character(text);
    width += static_cast<std::size_t>(std::max(0, columns_of(character.code_point)));
    text.remove_prefix(character.bytes.size());
  }
  return width;
}

std::string_view cut_to_width(std::string_view text, std::size_t columns) {
  std::size_t bytes = 0;
  std::size_t width = 0;
  while (bytes < text.size()) {
    auto character = first_character(text.substr(bytes));
    width += static_cast<std::size_t>(std::max(0, columns_of(character.code_point)));
    if (width > columns) break;
    bytes += character.bytes.size();
  }
  return text.substr(0, bytes);
}

std::string human_bytes(std::uint64_t bytes) {
  if (bytes < 1024) return formatted("{}", bytes);
  constexpr std::string_view kUnits = "KMGTPE";
  double value = static_cast<double>(bytes) / 1024;
  std::size_t unit = 0;
  // 1023.95 would round to "1024".
  while (value >= 1023.5 && unit + 1 < kUnits.size()) {
    value /= 1024;
    ++unit;
  }
  if (value < 9.95) return formatted("{:.1f}{}", value, kUnits[unit]);
  return formatted("{:.0f}{}", value, kUnits[unit]);
}

std::string human_duration(double seconds) {
  if (!std::isfinite(seconds) || seconds < 0) return "?";
  if (seconds < 9.995) return formatted("{:.2f}s", seconds);
  auto whole = static_cast<std::uint64_t>(std::min(seconds, 1e15));
  if (whole < 60) return formatted("{}s", whole);
  if (whole < 3600) return formatted("{}m{:02}", whole / 60, whole % 60);
  if (whole < 86400) return formatted("{}h{:02}", whole / 3600, whole / 60 % 60);
  return formatted("{}d{:02}", whole / 86400, whole / 3600 % 24);
}

}  // namespace gestalt::cli
