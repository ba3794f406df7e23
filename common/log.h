// Structured logging: a short event and key=value fields, to journald when the
// daemon's stderr is the journal, else to stderr. Thread-safe.
#pragma once

#include <concepts>
#include <string>
#include <string_view>

#include "common/format.h"

namespace gestalt::log {

enum class Level { kDebug, kInfo, kWarning, kError };

// `program` names the process in each line. The level comes from the argument, or from
// GESTALT_LOG (debug, info, warning, error) where that is set.
void initialise(std::string_view program, Level level = Level::kInfo);
// For configuration files and options; false if there is no such level.
bool set_level(std::string_view name);

void write(Level level, std::string_view text);

// One field: `log::info("node joined", log::field("node", name))`.
template <class T>
[[nodiscard]] std::string field(std::string_view key, const T& value) {
  std::string text = formatted("{}", value);
  if (text.empty() || text.find_first_of(" \"=\n\t") != std::string::npos) {
    std::string quoted = "\"";
    for (char c : text) {
      if (c == '"' || c == '\\') quoted += '\\';
      if (c == '\n') {
        quoted += "\\n";
      } else {
        quoted += c;
      }
    }
    text = quoted + '"';
  }
  return formatted(" {}={}", key, text);
}

template <std::convertible_to<std::string>... Fields>
void debug(std::string_view event, const Fields&... fields) {
  write(Level::kDebug, (std::string(event) + ... + fields));
}
template <std::convertible_to<std::string>... Fields>
void info(std::string_view event, const Fields&... fields) {
  write(Level::kInfo, (std::string(event) + ... + fields));
}
template <std::convertible_to<std::string>... Fields>
void warning(std::string_view event, const Fields&... fields) {
  write(Level::kWarning, (std::string(event) + ... + fields));
}
template <std::convertible_to<std::string>... Fields>
void error(std::string_view event, const Fields&... fields) {
  write(Level::kError, (std::string(event) + ... + fields));
}

}  // namespace gestalt::log
