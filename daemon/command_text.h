// A job's command as people read it, in lists and in the store.
#pragma once

#include <algorithm>
#include <string>

#include "common/proto/control.pb.h"

namespace gestalt {

inline constexpr std::size_t kMaxCommandBytes = 4096;

// Printable ASCII only: a proto3 string must be UTF-8, and a terminal is not to obey it.
[[nodiscard]] inline std::string command_text(const wire::JobSpec& spec) {
  std::string text;
  for (const auto& argument : spec.argv()) {
    if (!text.empty()) text += ' ';
    text += argument;
    if (text.size() > kMaxCommandBytes) break;
  }
  text.resize(std::min(text.size(), kMaxCommandBytes));
  for (char& c : text)
    if (c < 0x20 || c > 0x7e) c = '?';
  return text;
}

}  // namespace gestalt
