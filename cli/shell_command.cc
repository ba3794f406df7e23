#include <pwd.h>
#include <unistd.h>

#include <cstdlib>

#include "cli/client.h"
#include "cli/command_line.h"
#include "cli/commands.h"
#include "cli/exit_codes.h"
#include "cli/report.h"

namespace gestalt::cli {
namespace {

constexpr std::string_view kLoginShell = "gestalt-shell";

bool is_ours(std::string_view path) { return path.substr(path.rfind('/') + 1) == kLoginShell; }

bool is_shell(const char* path) {
  return path != nullptr && path[0] == '/' && !is_ours(path) && ::access(path, X_OK) == 0;
}

// The user's own, as login(1) has it; $SHELL is what he has chosen since.
std::string shell_path() {
  const char* chosen = std::getenv("SHELL");
  if (is_shell(chosen)) return chosen;
  const passwd* user = ::getpwuid(::getuid());
  if (user != nullptr && is_shell(user->pw_shell)) return user->pw_shell;
  return is_shell("/bin/bash") ? "/bin/bash" : "/bin/sh";
}

// Programs of the session are to start this one, not a session in the session.
std::vector<std::string> with_shell(std::vector<std::string> environment,
                                    const std::string& shell) {
  const char* chosen = std::getenv("SHELL");
  if (chosen != nullptr && is_ours(chosen))
    environment.insert(environment.begin(), "SHELL=" + shell);
  return environment;
}

// Nobody is locked out of the leader because the cluster is down.
int plain_shell(bool login, const std::vector<std::string>& arguments) {
  auto path = shell_path();
  std::string name = (login ? "-" : "") + path.substr(path.rfind('/') + 1);
  std::vector<char*> argv{name.data()};
  auto copies = arguments;
  for (auto& argument : copies) argv.push_back(argument.data());
  argv.push_back(nullptr);
  ::setenv("SHELL", path.c_str(), 1);
  ::execv(path.c_str(), argv.data());
  return report(fail_errno(errno, "run " + path).error(), kExitCannotExecute);
}

}  // namespace

int shell(const ShellOptions& options) {
  RunOptions job;
  job.in_session = true;
  job.command.push_back(shell_path());
  job.environment = with_shell(options.environment, job.command.front());
  if (options.login) job.command.emplace_back("-l");
  if (!options.command.empty()) {
    job.command.emplace_back("-c");
    job.command.push_back(options.command);
  }
  return run(job);
}

bool is_login_shell(std::string_view program) {
  return is_ours(program.substr(program.starts_with('-') ? 1 : 0));
}

int login_shell(std::string_view program, std::vector<std::string> arguments) {
  bool login = program.starts_with('-');
  auto daemon = connect_daemon(daemon_socket_path());
  if (!daemon) {
    report(daemon.error());
    std::fputs("gestalt: this is a shell of this machine alone\n", stderr);
    return plain_shell(login, arguments);
  }
  daemon->reset();
  arguments.insert(arguments.begin(), "shell");
  if (login) arguments.emplace_back("--login");
  return run_command_line(std::move(arguments));
}

}  // namespace gestalt::cli
