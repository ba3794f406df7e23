// gestalt-stand-in: see stand_in.h. Started by gestalt-init for one job.

#include <charconv>
#include <csignal>
#include <cstdio>
#include <cstring>
#include <string_view>

#include "common/log.h"
#include "daemon/stand_in/session_holder.h"
#include "daemon/stand_in/stand_in.h"

namespace {

constexpr char kUsage[] =
    "Usage: gestalt-stand-in --job ID [--migration ID [--session-of PID | --terminal FD]]\n"
    "Parent of one job's processes on this node. Started by gestalt-init; not meant to\n"
    "be run by hand.\n";

bool parse_number(const char* text, std::uint64_t& out) {
  std::string_view view(text);
  return std::from_chars(view.data(), view.data() + view.size(), out).ec == std::errc();
}

}  // namespace

int main(int argc, char** argv) {
  std::uint64_t job_id = 0;
  std::uint64_t migration_id = 0;
  std::uint64_t parent_pid = 0;
  std::uint64_t terminal = 0;
  bool holds_session = false;
  for (int i = 1; i < argc; ++i) {
    std::string_view option = argv[i];
    bool has_value = i + 1 < argc;
    bool known = false;
    if (option == "--job" && has_value) known = parse_number(argv[++i], job_id);
    if (option == "--migration" && has_value) known = parse_number(argv[++i], migration_id);
    if (option == "--session-of" && has_value) {
      known = parse_number(argv[++i], parent_pid);
      holds_session = true;
    }
    if (option == "--terminal" && has_value) known = parse_number(argv[++i], terminal);
    if (known) continue;
    std::fputs(kUsage, option == "--help" ? stdout : stderr);
    return option == "--help" ? 0 : 2;
  }
  if (job_id == 0) {
    std::fputs(kUsage, stderr);
    return 2;
  }
  gestalt::log::initialise("gestalt-stand-in");
  if (holds_session)
    return gestalt::hold_session(job_id, migration_id, static_cast<pid_t>(parent_pid));
  gestalt::StandIn stand_in(job_id, migration_id,
                            gestalt::Fd(terminal > 0 ? static_cast<int>(terminal) : -1));
  if (auto started = stand_in.start(); !started) {
    gestalt::log::error("cannot start", gestalt::log::field("job", job_id),
                        gestalt::log::field("error", started.error().text()));
    return 1;
  }
  stand_in.run();
  return 0;
}
