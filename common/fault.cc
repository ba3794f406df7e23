#include "common/fault.h"

#include <unistd.h>

#include <charconv>
#include <chrono>
#include <cstdlib>
#include <string>
#include <thread>

#include "common/fd.h"
#include "common/log.h"

namespace gestalt {
namespace {

struct Wanted {
  int number = 0;
  std::string action = "fail";
};

Wanted parse(std::string_view text) {
  Wanted wanted;
  auto end = std::from_chars(text.data(), text.data() + text.size(), wanted.number).ptr;
  auto rest = text.substr(static_cast<std::size_t>(end - text.data()));
  if (rest.starts_with(':')) {
    rest.remove_prefix(1);
    wanted.action = rest.substr(0, rest.find_first_of("\n "));
  }
  return wanted;
}

Wanted wanted_fault() {
  if (const char* text = std::getenv("GESTALT_FAULT")) return parse(text);
  if (auto text = read_file("/run/gestalt/fault", 256)) return parse(*text);
  return {};
}

}  // namespace

Result<void> fault_point(Fault fault) {
  Wanted wanted = wanted_fault();
  if (wanted.number == 0 || wanted.number != static_cast<int>(fault)) return {};
  log::warning("injected fault", log::field("number", wanted.number),
               log::field("action", wanted.action));
  if (wanted.action == "exit") ::_exit(70);
  if (wanted.action == "hang") std::this_thread::sleep_for(std::chrono::minutes(10));
  return fail(ErrorCode::kInternal, std::format("injected fault {}", wanted.number));
}

}  // namespace gestalt
