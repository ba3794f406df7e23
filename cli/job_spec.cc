#include "cli/job_spec.h"

#include <linux/kcmp.h>
#include <sys/ioctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <termios.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <memory>

#include "common/format.h"

namespace gestalt::cli {
namespace {

wire::StdioKind kind_of(int fd) {
  struct stat status{};
  if (::fstat(fd, &status) != 0) return wire::STDIO_NULL;
  if (S_ISCHR(status.st_mode) && status.st_rdev == ::makedev(1, 3)) return wire::STDIO_NULL;
  return ::isatty(fd) != 0 ? wire::STDIO_TTY : wire::STDIO_PIPE;
}

// Whether bytes written to either come out in the same order in one place.
bool same_open_file(int first, int second) {
  pid_t self = ::getpid();
  long compared = ::syscall(SYS_kcmp, self, self, KCMP_FILE, first, second);
  if (compared == 0) return true;
  struct stat a{};
  struct stat b{};
  if (::fstat(first, &a) != 0 || ::fstat(second, &b) != 0) return false;
  bool same_inode = a.st_dev == b.st_dev && a.st_ino == b.st_ino;
  // Two descriptions of a file have an offset each; two of a pipe are one stream.
  return same_inode && (compared < 0 || !S_ISREG(a.st_mode));
}

// The local terminal still edits lines, echoes and makes signals; done twice, all of it
// would show twice. End of file stays a character of the job's terminal.
void leave_to_local_terminal(termios& settings) {
  settings.c_lflag &= ~static_cast<tcflag_t>(ECHO | ECHOE | ECHOK | ECHONL | ISIG);
  settings.c_oflag &= ~static_cast<tcflag_t>(OPOST);
}

std::string absolute(const std::string& base, const std::string& directory) {
  return directory.starts_with('/') ? directory : formatted("{}/{}", base, directory);
}

Result<std::string> working_directory(const std::string& wanted) {
  if (wanted.starts_with('/')) return wanted;
  std::unique_ptr<char, decltype(&::free)> here(::getcwd(nullptr, 0), &::free);
  // The kernel calls a directory outside the root "(unreachable)/…".
  if (!here || *here != '/')
    return fail_errno(here ? ENOENT : errno, "find the current directory",
                      "cd to a directory that exists, or use --cwd DIR");
  return wanted.empty() ? std::string(here.get()) : absolute(here.get(), wanted);
}

void add_environment(const std::vector<std::string>& extra, wire::JobSpec& spec) {
  auto key_of = [](std::string_view entry) { return entry.substr(0, entry.find('=')); };
  for (char** entry = environ; *entry != nullptr; ++entry) {
    bool overridden = std::ranges::any_of(
        extra, [&](const auto& other) { return key_of(other) == key_of(*entry); });
    if (!overridden) spec.add_environment(*entry);
  }
  for (auto it = extra.begin(); it != extra.end(); ++it) {
    bool repeated = std::any_of(it + 1, extra.end(),
                                [&](const auto& other) { return key_of(other) == key_of(*it); });
    if (!repeated) spec.add_environment(*it);
  }
}

void add_limits(wire::JobSpec& spec) {
  for (unsigned resource = 0; resource < RLIM_NLIMITS; ++resource) {
    rlimit limit{};
    if (::getrlimit(static_cast<__rlimit_resource>(resource), &limit) != 0) continue;
    auto& out = *spec.add_limits();
    out.set_resource(resource);
    out.set_soft(limit.rlim_cur);
    out.set_hard(limit.rlim_max);
  }
}

}  // namespace

int terminal_descriptor() {
  constexpr std::array<int, 3> kStandard{STDIN_FILENO, STDOUT_FILENO, STDERR_FILENO};
  auto found = std::ranges::find_if(kStandard, [](int fd) { return ::isatty(fd) != 0; });
  return found == kStandard.end() ? -1 : *found;
}

wire::WindowSize window_size(int terminal) {
  wire::WindowSize out;
  winsize size{};
  if (terminal < 0 || ::ioctl(terminal, TIOCGWINSZ, &size) != 0) return out;
  out.set_rows(size.ws_row);
  out.set_columns(size.ws_col);
  out.set_x_pixels(size.ws_xpixel);
  out.set_y_pixels(size.ws_ypixel);
  return out;
}

bool is_interactive(const wire::Stdio& stdio) {
  return stdio.in() == wire::STDIO_TTY && stdio.out() == wire::STDIO_TTY;
}

wire::Stdio describe_stdio() {
  wire::Stdio stdio;
  stdio.set_in(kind_of(STDIN_FILENO));
  stdio.set_out(kind_of(STDOUT_FILENO));
  stdio.set_err(kind_of(STDERR_FILENO));
  stdio.set_merge_err(stdio.out() != wire::STDIO_NULL && stdio.out() == stdio.err() &&
                      same_open_file(STDOUT_FILENO, STDERR_FILENO));
  int terminal = terminal_descriptor();
  if (terminal < 0) return stdio;
  *stdio.mutable_window() = window_size(terminal);
  termios settings{};
  if (::tcgetattr(terminal, &settings) != 0) return stdio;
  if (!is_interactive(stdio)) leave_to_local_terminal(settings);
  stdio.set_termios(&settings, sizeof settings);
  return stdio;
}

Result<wire::JobSpec> make_job_spec(const RunOptions& options) {
  wire::JobSpec spec;
  for (const auto& argument : options.command) spec.add_argv(argument);
  add_environment(options.environment, spec);
  GESTALT_ASSIGN(*spec.mutable_working_directory(), working_directory(options.working_directory));
  mode_t mask = ::umask(0);
  ::umask(mask);
  spec.set_umask(mask);
  add_limits(spec);
  *spec.mutable_stdio() = describe_stdio();
  spec.set_in_session(options.in_session);
  spec.set_own_network(options.network == "own");
  return spec;
}

}  // namespace gestalt::cli
