// Bytes from elsewhere (command lines, file names) made fit for a terminal and for JSON.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

namespace gestalt::cli {

// The first character of `text`: its bytes, and its code point, or nothing valid.
struct Character {
  std::string_view bytes;
  char32_t code_point = 0;
  bool valid = false;
};
// `text` must not be empty. Overlong forms, surrogates and stray bytes are invalid, one
// byte at a time.
[[nodiscard]] Character first_character(std::string_view text);

// Invalid UTF-8 becomes \xHH, so that the result is valid UTF-8; all else stays.
[[nodiscard]] std::string to_utf8(std::string_view bytes);
// As to_utf8, and whatever could move the cursor or hide text becomes visible as well:
// \t, \n, \r, \e, and \xHH for other control and direction-changing characters.
[[nodiscard]] std::string visible(std::string_view bytes);

// Columns on a terminal of text that came from visible().
[[nodiscard]] std::size_t display_width(std::string_view text);
// The longest beginning of such text that fits.
[[nodiscard]] std::string_view cut_to_width(std::string_view text, std::size_t columns);

// "1.5G", "12M", "4.0K", "0": four or five characters, powers of 1024.
[[nodiscard]] std::string human_bytes(std::uint64_t bytes);
// "0.53s", "12s", "3m07", "2h14", "5d03": short, for tables.
[[nodiscard]] std::string human_duration(double seconds);

}  // namespace gestalt::cli
