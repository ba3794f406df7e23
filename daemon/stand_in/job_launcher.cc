#include "daemon/stand_in/job_launcher.h"

#include <grp.h>
#include <sched.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <csignal>
#include <sstream>
#include <thread>

#include "common/child.h"
#include "common/format.h"
#include "common/ipv4.h"
#include "common/paths.h"
#include "common/unix_socket.h"

namespace gestalt {
namespace {

struct Limit {
  int resource;
  rlimit value;
};

// Everything that the child needs, made before the fork: afterwards only system calls.
struct ChildSetup {
  uid_t uid = 0;
  gid_t gid = 0;
  std::vector<gid_t> groups;
  std::vector<Limit> limits;
  std::string directory;
  mode_t mask = 022;
  int terminal = -1;
  JobNamespaces namespaces;
};

int set_up_child(const ChildSetup& setup) {
  const auto& [mounts, network] = setup.namespaces;
  if (mounts >= 0 && ::setns(mounts, CLONE_NEWNS) != 0) return errno;
  if (network >= 0 && ::setns(network, CLONE_NEWNET) != 0) return errno;
  if (::setpgid(0, 0) != 0) return errno;
  if (setup.terminal >= 0) {
    // Not in the foreground yet, so this would stop us.
    (void)::signal(SIGTTOU, SIG_IGN);
    if (::tcsetpgrp(setup.terminal, ::getpid()) != 0) return errno;
    (void)::signal(SIGTTOU, SIG_DFL);
  }
  for (const auto& limit : setup.limits)
    if (::setrlimit(static_cast<__rlimit_resource>(limit.resource), &limit.value) != 0)
      return errno;
  if (::setgroups(setup.groups.size(), setup.groups.data()) != 0) return errno;
  if (::setresgid(setup.gid, setup.gid, setup.gid) != 0) return errno;
  if (::setresuid(setup.uid, setup.uid, setup.uid) != 0) return errno;
  (void)::umask(setup.mask);
  if (::chdir(setup.directory.c_str()) != 0) return errno;
  return 0;
}

ChildSetup make_setup(const wire::JobSpec& spec, int terminal, const JobNamespaces& namespaces) {
  ChildSetup setup;
  setup.namespaces = namespaces;
  setup.uid = spec.identity().uid();
  setup.gid = spec.identity().gid();
  setup.groups.assign(spec.identity().groups().begin(), spec.identity().groups().end());
  for (const auto& limit : spec.limits())
    setup.limits.push_back({static_cast<int>(limit.resource()), {limit.soft(), limit.hard()}});
  setup.directory = spec.working_directory().empty() ? "/" : spec.working_directory();
  setup.mask = spec.umask();
  setup.terminal = terminal;
  return setup;
}

}  // namespace

std::vector<std::string> program_candidates(const std::string& command,
                                            const std::vector<std::string>& environment) {
  if (command.empty() || command.contains('/')) return {command};
  std::string path = "/usr/local/bin:/usr/bin:/bin";
  for (const auto& entry : environment)
    if (entry.starts_with("PATH=")) path = entry.substr(5);
  std::vector<std::string> out;
  std::istringstream directories(path);
  for (std::string directory; std::getline(directories, directory, ':');)
    out.push_back((directory.empty() ? "." : directory) + "/" + command);
  if (out.empty()) out.push_back(command);
  return out;
}

Result<pid_t> launch_job(const wire::JobSpec& spec, const StdioRelay& stdio, int terminal,
                         Cgroup& group, const JobNamespaces& namespaces) {
  if (spec.argv().empty()) return fail(ErrorCode::kInvalidArgument, "no command");
  SpawnOptions options;
  options.argv.assign(spec.argv().begin(), spec.argv().end());
  options.environment.assign(spec.environment().begin(), spec.environment().end());
  if (spec.network_address() != 0)
    options.environment.push_back("GESTALT_ADDRESS=" + ipv4_text(spec.network_address()));
  options.programs = program_candidates(options.argv[0], options.environment);
  options.descriptors = stdio.job_descriptors();
  options.cgroup_fd = group.directory_fd();
  ChildSetup setup = make_setup(spec, terminal, namespaces);
  auto pid = spawn(options, [&setup] { return set_up_child(setup); });
  if (!pid && pid.error().code != ErrorCode::kExecNotFound &&
      pid.error().code != ErrorCode::kExecDenied)
    return std::unexpected(
        std::move(pid).error().in(formatted("as uid {} in {}", setup.uid, setup.directory)));
  return pid;
}

Result<ViewSession> enter_view(uid_t uid, Deadline deadline) {
  auto path = formatted("{}{}.sock", paths::kViewSessions, uid);
  while (true) {
    auto socket = connect_unix(path);
    auto received = socket ? receive_fds(socket->get(), 1, deadline)
                           : Result<std::vector<Fd>>(std::unexpected(socket.error()));
    if (received) return ViewSession{std::move(*socket), std::move(received->front())};
    if (Clock::now() >= deadline)
      return std::unexpected(std::move(received).error().in("the single view is not there"));
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
  }
}

}  // namespace gestalt
