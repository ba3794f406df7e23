#include "common/fault.h"

#include <unistd.h>

#include <atomic>
#include <charconv>
#include <chrono>
#include <cstdlib>
#include <ctime>
#include <string>
#include <thread>
#include <utility>

#include "common/fd.h"
#include "common/format.h"
#include "common/log.h"

namespace gestalt {
namespace {

constexpr char kFile[] = "/run/gestalt/fault";

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

// Fault points stand where pages pass: whether there is a file is asked every so often only.
bool file_is_missing() {
  constexpr std::int64_t kTrustedNanoseconds = 10'000'000;
  static std::atomic<std::int64_t> missing_until = 0;
  timespec time{};
  ::clock_gettime(CLOCK_MONOTONIC_COARSE, &time);
  std::int64_t now = time.tv_sec * 1'000'000'000 + time.tv_nsec;
  if (now < missing_until.load(std::memory_order_relaxed)) return true;
  bool missing = ::access(kFile, F_OK) != 0;
  missing_until.store(missing ? now + kTrustedNanoseconds : 0, std::memory_order_relaxed);
  return missing;
}

Wanted wanted_fault() {
  if (const char* text = std::getenv("GESTALT_FAULT")) return parse(text);
  if (file_is_missing()) return {};
  if (auto text = read_file(kFile, 256)) return parse(*text);
  return {};
}

thread_local bool garbage_is_next = false;

}  // namespace

bool take_garbage() { return std::exchange(garbage_is_next, false); }

Result<void> fault_point(Fault fault) {
  Wanted wanted = wanted_fault();
  if (wanted.number == 0 || wanted.number != static_cast<int>(fault)) return {};
  log::warning("injected fault", log::field("number", wanted.number),
               log::field("action", wanted.action));
  if (wanted.action == "exit") ::_exit(70);
  if (wanted.action == "hang") std::this_thread::sleep_for(std::chrono::minutes(10));
  garbage_is_next = wanted.action == "garbage";
  if (garbage_is_next) return {};
  return fail(ErrorCode::kInternal, formatted("injected fault {}", wanted.number));
}

}  // namespace gestalt
