#include "cli/report.h"

#include <cerrno>
#include <cstdio>

#include "cli/text.h"
#include "common/format.h"

namespace gestalt::cli {

namespace {

// One write for each line, so that lines of parallel commands do not mix. With standard
// error gone there is nobody left to tell.
void print_line(const std::string& line) {
  std::string text = formatted("gestalt: {}\n", visible(line));
  std::fwrite(text.data(), 1, text.size(), stderr);
}

}  // namespace

void report(const Error& error) {
  print_line(error.message);
  if (!error.remedy.empty()) print_line(formatted("try: {}", error.remedy));
}

int report(const Error& error, int exit_code) {
  report(error);
  return exit_code;
}

void warn(const std::string& message) { print_line(message); }

Result<void> print_out(const std::string& text) {
  bool written = std::fwrite(text.data(), 1, text.size(), stdout) == text.size();
  if (!written || std::fflush(stdout) != 0) return fail_errno(errno, "write to standard output");
  return {};
}

}  // namespace gestalt::cli
