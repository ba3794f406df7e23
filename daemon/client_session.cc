#include "daemon/client_session.h"

#include <signal.h>
#include <sys/resource.h>

#include <algorithm>
#include <format>

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
                std::format("arguments and environment have {} bytes in {} strings", bytes, count),
                std::format("at most {} bytes and {} strings can be passed", kMaxArgumentBytes,
                            kMaxArguments));
  const auto& directory = spec.working_directory();
  if (!directory.starts_with('/') || directory.size() > 4096 || directory.contains('\0'))
    return fail(ErrorCode::kInvalidArgument, "the working directory is no absolute path");
  return {};
}

Result<void> check_kill(const wire::KillRequest& request) {
  if (request.signal() > static_cast<std::uint32_t>(SIGRTMAX))
    return fail(ErrorCode::kInvalidArgument,
                std::format("there is no signal {}", request.signal()));
  if (request.pids_size() == 0 || request.pids_size() > kMaxPids)
    return fail(ErrorCode::kInvalidArgument,
                std::format("{} processes in one request; 1 to {} can be given",
                            request.pids_size(), kMaxPids));
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

Result<std::vector<wire::ResourceLimit>> limits_of(pid_t pid) {
  if (pid <= 0)
    return fail(ErrorCode::kPermission, "the client is in a foreign pid namespace",
                "run it on the node itself");
  std::vector<wire::ResourceLimit> out;
  for (int resource = 0; resource < RLIM_NLIMITS; ++resource) {
    rlimit64 limit{};
    if (::prlimit64(pid, static_cast<__rlimit_resource>(resource), nullptr, &limit) != 0)
      return fail_errno(errno, "read the client's resource limits");
    wire::ResourceLimit entry;
    entry.set_resource(static_cast<std::uint32_t>(resource));
    entry.set_soft(limit.rlim_cur);
    entry.set_hard(limit.rlim_max);
    out.push_back(std::move(entry));
  }
  return out;
}

}  // namespace gestalt
