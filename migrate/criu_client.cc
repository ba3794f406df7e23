#include "migrate/criu_client.h"

#include <linux/capability.h>
#include <poll.h>
#include <sched.h>
#include <sys/personality.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <sstream>

#include "common/format.h"
#include "common/paths.h"
#include "common/unix_socket.h"
#include "migrate/state_dump.h"

namespace gestalt {
namespace {

constexpr std::size_t kMaxResponseBytes = 64U << 10;

struct RealIds {
  uid_t uid = 0;
  gid_t gid = 0;
};

Result<RealIds> real_ids(pid_t pid) {
  GESTALT_ASSIGN(auto text, read_file(formatted("/proc/{}/status", pid)));
  RealIds ids;
  std::istringstream lines(text);
  for (std::string key; lines >> key;) {
    if (key == "Uid:") lines >> ids.uid;
    if (key == "Gid:") lines >> ids.gid;
    lines.ignore(1 << 16, '\n');
  }
  return ids;
}

bool may_read_foreign_limits() {
  __user_cap_header_struct header{_LINUX_CAPABILITY_VERSION_3, 0};
  __user_cap_data_struct data[2]{};
  if (::syscall(SYS_capget, &header, data) != 0) return false;
  return (data[CAP_TO_INDEX(CAP_SYS_RESOURCE)].effective & CAP_TO_MASK(CAP_SYS_RESOURCE)) != 0;
}

// CRIU keeps what it found out about the kernel in this file, and can find it out only
// while its real ids are root's.
Result<void> probe_kernel_once() {
  if (::access("/run/criu.kdat", F_OK) == 0) return {};
  GESTALT_ASSIGN(auto pid, spawn(criu_check()));
  GESTALT_ASSIGN([[maybe_unused]] int status,
                 wait_child(pid, deadline_in(std::chrono::seconds(10))));
  return {};
}

Error criu_error(const criu_resp& response, const std::string& log_path) {
  Error error{ErrorCode::kSystem, "CRIU failed", {}};
  auto log = read_file(log_path);
  std::string lines = log ? first_criu_errors(*log) : std::string();
  if (lines.empty()) lines = response.cr_errmsg();
  if (!lines.empty()) error.message += ": " + lines;
  if (lines.contains("Unable to connect a transport socket: Operation not permitted")) {
    // Nothing in /proc tells of a Landlock domain beforehand.
    error = {ErrorCode::kBlocked,
             "cannot migrate: the program has sandboxed itself with Landlock, which CRIU can "
             "neither enter nor save",
             "start it without its sandbox, if it has an option for that"};
  }
  if (lines.contains("No space left") || response.cr_errno() == ENOSPC) {
    error.code = ErrorCode::kNoSpace;
    error.remedy = "make room for the images below /run, or set migration.image_directory";
  }
  if (response.cr_errno() == ESRCH) error.code = ErrorCode::kGone;
  return error;
}

}  // namespace

SpawnOptions criu_check() {
  SpawnOptions options;
  options.argv = {paths::kCriuProgram, "check"};
  options.environment = {"PATH=/usr/sbin:/usr/bin:/sbin:/bin"};
  return options;
}

std::string first_criu_errors(const std::string& log) {
  std::istringstream lines(log);
  std::string out;
  int count = 0;
  for (std::string line; std::getline(lines, line) && count < 3;) {
    auto found = line.find("Error (");
    // CRIU complains about its own limits in each log, and goes on.
    if (found == std::string::npos || line.contains("RLIMIT_NOFILE")) continue;
    out += (count++ > 0 ? "; " : "") + line.substr(found);
  }
  return out.substr(0, 600);
}

Result<CriuClient> CriuClient::start(const CriuStart& options) {
  GESTALT_ASSIGN(auto sockets, make_socket_pair());
  SpawnOptions spawn_options;
  spawn_options.argv = {paths::kCriuProgram, "swrk", std::to_string(kCriuRpcDescriptor)};
  spawn_options.environment = {"PATH=/usr/sbin:/usr/bin:/sbin:/bin"};
  spawn_options.descriptors = options.descriptors;
  spawn_options.descriptors.emplace_back(sockets.theirs.get(), kCriuRpcDescriptor);
  spawn_options.cgroup_fd = options.cgroup_fd;
  RealIds ids;
  if (options.target != 0 && !may_read_foreign_limits()) {
    GESTALT_ASSIGN(ids, real_ids(options.target));
    if (ids.uid != 0) GESTALT_TRY(probe_kernel_once());
  }
  bool preload = options.state_only && ::access(kStateDumpLibrary, R_OK) == 0;
  if (preload) {
    auto& environment = spawn_options.environment;
    environment.push_back(formatted("LD_PRELOAD={}", kStateDumpLibrary));
    environment.push_back(formatted("GESTALT_REAL_IDS={}:{}", ids.uid, ids.gid));
    if (options.mounts >= 0) environment.emplace_back("GESTALT_SESSION=1");
    if (!options.smaps_directory.empty())
      environment.push_back("GESTALT_SMAPS=" + options.smaps_directory);
    ids = {};  // the library takes them: a program with such ids is not preloaded
  }
  auto set_up = [&ids, &options]() -> int {
    if (options.group != 0) (void)::setpgid(0, options.group);
    if (options.mounts >= 0 && ::setns(options.mounts, CLONE_NEWNS) != 0) return errno;
    if (options.personality != 0 && ::personality(options.personality) < 0) return errno;
    // Effectively still root, with all its capabilities.
    if (ids.gid != 0 && ::setresgid(ids.gid, 0, 0) != 0) return errno;
    if (ids.uid != 0 && ::setresuid(ids.uid, 0, 0) != 0) return errno;
    return 0;
  };
  auto pid = spawn(spawn_options, set_up);
  if (!pid) return std::unexpected(std::move(pid).error().in("start CRIU"));
  return CriuClient(*pid, std::move(sockets.ours));
}

CriuClient::~CriuClient() { end(); }

void CriuClient::end() {
  if (!socket_) return;
  socket_.reset();  // swrk ends at the end of its socket
  if (pid_ == 0) return;
  if (!wait_child(pid_, deadline_in(milliseconds(500)))) {
    (void)::kill(pid_, SIGKILL);
    (void)wait_child(pid_, deadline_in(std::chrono::seconds(5)));
  }
}

Result<criu_resp> CriuClient::receive(Deadline deadline) {
  GESTALT_TRY(wait_for(socket_.get(), POLLIN, deadline));
  std::string buffer(kMaxResponseBytes, '\0');
  ssize_t count = ::recv(socket_.get(), buffer.data(), buffer.size(), 0);
  if (count < 0) return fail_errno(errno, "read CRIU's response");
  if (count == 0) return fail(ErrorCode::kUnavailable, "CRIU ended without a response");
  criu_resp response;
  if (!response.ParseFromArray(buffer.data(), static_cast<int>(count)))
    return fail(ErrorCode::kProtocol, "CRIU's response makes no sense");
  return response;
}

Result<criu_resp> CriuClient::request(const criu_req& request, const Notify& notify,
                                      const std::string& log_path, Deadline deadline) {
  std::string bytes = request.SerializeAsString();
  if (::send(socket_.get(), bytes.data(), bytes.size(), MSG_NOSIGNAL) < 0) {
    int error_number = errno;
    if (pid_ == 0) return fail_errno(error_number, "send a request to CRIU");
    auto status = wait_child(pid_, deadline_in(milliseconds(500)));
    return fail_errno(error_number, formatted("send a request to CRIU (wait status {})",
                                              status ? std::to_string(*status) : "unknown"));
  }
  Result<void> noticed;
  while (true) {
    auto response = receive(deadline);
    if (!noticed && (!response || response->type() != NOTIFY))
      return std::unexpected(std::move(noticed).error());
    if (!response) return response;
    if (response->type() != NOTIFY) {
      if (!response->success()) return std::unexpected(criu_error(*response, log_path));
      return response;
    }
    if (noticed && notify) noticed = notify(response->notify().script());
    criu_req acknowledgement;
    acknowledgement.set_type(NOTIFY);
    acknowledgement.set_notify_success(noticed.has_value());
    bytes = acknowledgement.SerializeAsString();
    if (::send(socket_.get(), bytes.data(), bytes.size(), MSG_NOSIGNAL) < 0 && noticed)
      return fail_errno(errno, "answer CRIU's notification");
  }
}

}  // namespace gestalt
