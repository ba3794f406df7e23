#include "daemon/client_session.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/resource.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <sstream>
#include <string_view>

#include "common/fd.h"
#include "common/format.h"
#include "common/proc.h"

namespace gestalt {

Result<void> check_spec(const wire::JobSpec& spec) {
  if (spec.argv().empty() || spec.argv(0).empty())
    return fail(ErrorCode::kInvalidArgument, "no command was given");
  auto count = static_cast<std::size_t>(spec.argv_size() + spec.environment_size());
  std::size_t bytes = 0;
  for (const auto* list : {&spec.argv(), &spec.environment()}) {
    for (const auto& text : *list) {
      if (text.contains('\0'))
        return fail(ErrorCode::kInvalidArgument, "an argument or variable holds a NUL byte");
      bytes += text.size() + 1;
    }
  }
  if (count > kMaxArguments || bytes > kMaxArgumentBytes)
    return fail(ErrorCode::kInvalidArgument,
                formatted("arguments and environment have {} bytes in {} strings", bytes, count),
                formatted("at most {} bytes and {} strings can be passed", kMaxArgumentBytes,
                          kMaxArguments));
  const auto& directory = spec.working_directory();
  if (!directory.starts_with('/') || directory.size() > 4096 || directory.contains('\0'))
    return fail(ErrorCode::kInvalidArgument, "the working directory is no absolute path");
  return {};
}

Result<void> check_kill(const wire::KillRequest& request) {
  if (request.signal() > static_cast<std::uint32_t>(SIGRTMAX))
    return fail(ErrorCode::kInvalidArgument, formatted("there is no signal {}", request.signal()));
  if (request.pids_size() == 0 || request.pids_size() > kMaxPids)
    return fail(ErrorCode::kInvalidArgument,
                formatted("{} processes in one request; 1 to {} can be given", request.pids_size(),
                          kMaxPids));
  return {};
}

void set_identity(const PeerCredentials& peer, wire::JobSpec& spec) {
  wire::Identity& identity = *spec.mutable_identity();
  identity.Clear();
  identity.set_uid(peer.uid);
  identity.set_gid(peer.gid);
  for (gid_t group : peer.groups) identity.add_groups(group);
}

std::vector<wire::ResourceLimit> bounded_limits(const std::vector<wire::ResourceLimit>& wanted,
                                                const std::vector<wire::ResourceLimit>& own,
                                                bool is_root) {
  std::vector<wire::ResourceLimit> out = own;
  for (auto& limit : out) {
    for (const auto& wish : wanted) {
      if (wish.resource() != limit.resource()) continue;
      limit.set_hard(is_root ? wish.hard() : std::min(wish.hard(), limit.hard()));
      limit.set_soft(std::min(wish.soft(), limit.hard()));
    }
  }
  return out;
}

// Lines like "Max open files            1024                 524288               files".
// prlimit(2) of somebody else's process would need CAP_SYS_RESOURCE.
Result<std::vector<wire::ResourceLimit>> parse_limits(const std::string& text) {
  static constexpr std::array<std::pair<std::string_view, int>, 16> kNames{{
      {"Max cpu time", RLIMIT_CPU},
      {"Max file size", RLIMIT_FSIZE},
      {"Max data size", RLIMIT_DATA},
      {"Max stack size", RLIMIT_STACK},
      {"Max core file size", RLIMIT_CORE},
      {"Max resident set", RLIMIT_RSS},
      {"Max processes", RLIMIT_NPROC},
      {"Max open files", RLIMIT_NOFILE},
      {"Max locked memory", RLIMIT_MEMLOCK},
      {"Max address space", RLIMIT_AS},
      {"Max file locks", RLIMIT_LOCKS},
      {"Max pending signals", RLIMIT_SIGPENDING},
      {"Max msgqueue size", RLIMIT_MSGQUEUE},
      {"Max nice priority", RLIMIT_NICE},
      {"Max realtime priority", RLIMIT_RTPRIO},
      {"Max realtime timeout", RLIMIT_RTTIME},
  }};
  auto value = [](const std::string& word) -> std::uint64_t {
    std::uint64_t number = ~std::uint64_t{0};
    if (word != "unlimited") std::from_chars(word.data(), word.data() + word.size(), number);
    return number;
  };
  std::vector<wire::ResourceLimit> out;
  std::istringstream lines(text);
  for (std::string line; std::getline(lines, line);) {
    for (auto [name, resource] : kNames) {
      if (!line.starts_with(name) || line.size() <= name.size() || line[name.size()] != ' ')
        continue;
      std::istringstream fields(line.substr(name.size()));
      std::string soft;
      std::string hard;
      if (!(fields >> soft >> hard)) continue;
      wire::ResourceLimit entry;
      entry.set_resource(static_cast<std::uint32_t>(resource));
      entry.set_soft(value(soft));
      entry.set_hard(value(hard));
      out.push_back(std::move(entry));
    }
  }
  if (out.size() != kNames.size())
    return fail(ErrorCode::kProtocol, "the kernel's list of resource limits is not understood");
  return out;
}

Result<std::vector<wire::ResourceLimit>> limits_of(const PeerCredentials& peer) {
  if (peer.pid <= 0)
    return fail(ErrorCode::kPermission, "the client is in a foreign pid namespace",
                "run it on the node itself");
  // One descriptor, so that the ids and the limits are the same process's.
  GESTALT_ASSIGN(auto process, open_file(formatted("/proc/{}", peer.pid), O_RDONLY | O_DIRECTORY));
  GESTALT_ASSIGN(auto status, read_file_at(process.get(), "status"));
  GESTALT_ASSIGN(auto ids, parse_status(status));
  if (ids.effective_uid != peer.uid)
    return fail(ErrorCode::kPermission, "the client is not the process that connected");
  GESTALT_ASSIGN(auto text, read_file_at(process.get(), "limits"));
  return parse_limits(text);
}

}  // namespace gestalt
