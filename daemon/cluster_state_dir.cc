// The CA's certificate is written last: a directory without it holds nothing that
// anybody trusts yet, and is filled again.
#include "daemon/cluster_state_dir.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <chrono>

#include "common/fd.h"
#include "common/format.h"

namespace gestalt {
namespace {

constexpr std::array kFileNames{"ca.crt",     "ca.key",         "node.key",
                                "node.crt",   "join-token",     "join-hash",
                                "cluster.db", "cluster.db-wal", "cluster.db-shm"};

// 0700 and ours, with its parents.
Result<Fd> open_directory(const std::string& directory) {
  for (std::size_t slash = directory.find('/', 1); slash != std::string::npos;
       slash = directory.find('/', slash + 1)) {
    if (::mkdir(directory.substr(0, slash).c_str(), 0755) != 0 && errno != EEXIST)
      return fail_errno(errno, formatted("make {}", directory.substr(0, slash)));
  }
  if (::mkdir(directory.c_str(), 0700) != 0 && errno != EEXIST)
    return fail_errno(errno, formatted("make {}", directory));
  GESTALT_ASSIGN(Fd fd, open_file(directory, O_RDONLY | O_DIRECTORY | O_NOFOLLOW));
  struct stat info{};
  if (::fstat(fd.get(), &info) != 0) return fail_errno(errno, formatted("stat {}", directory));
  if (info.st_uid != ::geteuid())
    return fail(ErrorCode::kPermission, formatted("{} belongs to another user", directory),
                "it must be root's: it will hold the cluster's keys");
  if (::fchmod(fd.get(), 0700) != 0) return fail_errno(errno, formatted("chmod {}", directory));
  if (::flock(fd.get(), LOCK_EX | LOCK_NB) != 0)
    return fail(ErrorCode::kBusy, formatted("another init works on {}", directory));
  return fd;
}

bool exists(const std::string& path) { return ::access(path.c_str(), F_OK) == 0; }

Result<void> set_aside(const std::string& directory) {
  auto now = std::chrono::floor<std::chrono::seconds>(std::chrono::system_clock::now());
  std::string aside = formatted("{}/replaced-{}", directory, now.time_since_epoch().count());
  if (::mkdir(aside.c_str(), 0700) != 0)
    return fail_errno(errno, formatted("make {}", aside), "try again in a second");
  for (const char* name : kFileNames) {
    std::string from = formatted("{}/{}", directory, name);
    if (::rename(from.c_str(), formatted("{}/{}", aside, name).c_str()) != 0 && errno != ENOENT)
      return fail_errno(errno, formatted("move {} to {}", from, aside));
  }
  return {};
}

}  // namespace

std::string ca_key_path(const std::string& directory) { return directory + "/ca.key"; }
std::string ca_certificate_path(const std::string& directory) { return directory + "/ca.crt"; }
std::string leader_key_path(const std::string& directory) { return directory + "/node.key"; }
std::string leader_certificate_path(const std::string& directory) {
  return directory + "/node.crt";
}
std::string join_token_path(const std::string& directory) { return directory + "/join-token"; }
std::string token_hash_path(const std::string& directory) { return directory + "/join-hash"; }
std::string database_path(const std::string& directory) { return directory + "/cluster.db"; }

Result<JoinToken> create_cluster_state(const std::string& directory,
                                       const std::string& cluster_name,
                                       const std::string& leader_name, bool force) {
  GESTALT_TRY(check_node_name(leader_name));
  GESTALT_ASSIGN(Fd lock, open_directory(directory));
  if (exists(ca_certificate_path(directory))) {
    if (!force)
      return fail(ErrorCode::kBusy, formatted("{} holds a cluster's CA already", directory),
                  "to start over, with every node joining anew, use `gestalt init --force`");
    GESTALT_TRY(set_aside(directory));
  }
  GESTALT_ASSIGN(auto ca, make_ca(cluster_name));
  GESTALT_ASSIGN(auto request, make_request(leader_name));
  GESTALT_ASSIGN(auto certificate, issue_certificate(ca, request.csr_pem, leader_name));
  GESTALT_ASSIGN(auto fingerprint, certificate_fingerprint(ca.certificate_pem));
  GESTALT_ASSIGN(auto token, make_join_token(fingerprint));
  GESTALT_TRY(replace_file(ca_key_path(directory), ca.key_pem, 0600));
  GESTALT_TRY(replace_file(leader_key_path(directory), request.key_pem, 0600));
  GESTALT_TRY(replace_file(leader_certificate_path(directory), certificate, 0644));
  GESTALT_TRY(replace_file(join_token_path(directory), format_join_token(token) + "\n", 0600));
  GESTALT_TRY(
      replace_file(token_hash_path(directory), join_secret_hash(token.secret_hex) + "\n", 0600));
  GESTALT_TRY(replace_file(ca_certificate_path(directory), ca.certificate_pem, 0644));
  if (::fsync(lock.get()) != 0) return fail_errno(errno, formatted("sync {}", directory));
  return token;
}

Result<ClusterState> load_cluster_state(const std::string& directory) {
  if (!exists(ca_certificate_path(directory)))
    return fail(ErrorCode::kNotFound, formatted("{} holds no cluster yet", directory),
                "run `gestalt init` on the leader");
  ClusterState state;
  GESTALT_ASSIGN(state.leader,
                 load_tls_identity(leader_key_path(directory), leader_certificate_path(directory),
                                   ca_certificate_path(directory)));
  state.ca.certificate_pem = state.leader.ca_pem;
  GESTALT_ASSIGN(state.ca.key_pem, read_file(ca_key_path(directory), 64U << 10));
  GESTALT_ASSIGN(auto hash, read_file(token_hash_path(directory), 4096));
  state.join_secret_sha256 = hash.substr(0, hash.find('\n'));
  auto good = verify_certificate(state.leader.certificate_pem, state.leader.ca_pem);
  if (!good)
    return std::unexpected(
        std::move(good).error().in(formatted("{}", leader_certificate_path(directory))));
  return state;
}

}  // namespace gestalt
