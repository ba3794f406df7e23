// The log of programs that are to be small: warnings and errors, by one write(2) to standard error.
// Linked instead of log.cc.
#include <unistd.h>

#include "common/format.h"
#include "common/log.h"

namespace gestalt::log {
namespace {

std::string& program() {
  static std::string name = "gestalt";
  return name;
}

}  // namespace

void initialise(std::string_view name, Level) { program() = name; }

bool set_level(std::string_view) { return false; }

void write(Level level, std::string_view text) {
  if (level < Level::kWarning) return;
  auto line = formatted("{}: {}\n", program(), text);
  (void)!::write(STDERR_FILENO, line.data(), line.size());
}

}  // namespace gestalt::log
