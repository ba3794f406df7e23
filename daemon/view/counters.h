// Lines of a key and a number, as in /proc/meminfo ("MemTotal:  123 kB",
// "HugePages_Total:  0") and /proc/vmstat ("nr_free_pages 123").
#pragma once

#include "daemon/view/text.h"

namespace gestalt {

struct Counter {
  std::string_view key;  // without the colon
  std::uint64_t value = 0;
  bool has_unit = false;  // kB
};

enum class CounterForm { kMeminfo, kVmstat };

// False for any other line.
inline bool parse_counter(std::string_view line, CounterForm form, Counter& out) {
  out.key = view_text::next_word(line);
  if (form == CounterForm::kMeminfo) {
    if (!out.key.ends_with(':')) return false;
    out.key.remove_suffix(1);
  }
  auto value = view_text::parse_number(view_text::next_word(line));
  if (!value || !view_text::is_name(out.key)) return false;
  out.value = *value;
  out.has_unit = view_text::next_word(line) == "kB";
  return true;
}

template <class Use>
void each_counter(std::string_view text, CounterForm form, Use use) {
  Counter counter;
  for (std::string_view line; view_text::next_line(text, line);)
    if (parse_counter(line, form, counter)) use(counter);
}

inline void append_counter(std::string& out, std::string_view key, std::uint64_t value) {
  out.append(key) += ' ';
  view_text::append_number(out, value);
  out += '\n';
}

}  // namespace gestalt
