#include "daemon/stand_in/session_holder.h"

#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <csignal>
#include <cstdlib>

#include "common/child.h"
#include "common/log.h"
#include "common/paths.h"
#include "daemon/stand_in/terminal.h"

namespace gestalt {
namespace {

std::vector<std::string> own_environment() {
  std::vector<std::string> out;
  for (char** entry = environ; *entry != nullptr; ++entry) out.emplace_back(*entry);
  return out;
}

// Without a terminal a process still can run here, if not be restored with one.
Fd make_terminal() {
  auto terminal = Terminal::create(0);
  if (terminal) return terminal->take_master();
  log::warning("a session without a terminal", log::field("error", terminal.error().text()));
  return {};
}

}  // namespace

int hold_session(std::uint64_t job_id, std::uint64_t migration_id, pid_t pid) {
  sigset_t all;
  sigfillset(&all);
  (void)::sigprocmask(SIG_SETMASK, &all, nullptr);
  Fd master = make_terminal();
  SpawnOptions options;
  options.argv = {paths::kStandInProgram, "--job", std::to_string(job_id), "--migration",
                  std::to_string(migration_id)};
  options.environment = own_environment();
  options.descriptors = {{STDERR_FILENO, STDERR_FILENO}};
  if (master) {
    options.argv.emplace_back("--terminal");
    options.argv.push_back(std::to_string(kHeldTerminal));
    options.descriptors.emplace_back(master.get(), kHeldTerminal);
  }
  options.pid = pid;
  auto child = spawn(options);
  if (!child && child.error().code == ErrorCode::kBusy) {
    options.pid = 0;
    child = spawn(options);
  }
  if (!child) {
    log::error("cannot start the stand-in", log::field("error", child.error().text()));
    return 1;
  }
  master.reset();  // only the stand-in is to keep the terminal alive
  while (::waitpid(*child, nullptr, 0) < 0 && errno == EINTR) {
  }
  return 0;
}

}  // namespace gestalt
