// The leader's own directory (paths.state_directory, 0700), made by `gestalt init`:
// the CA, the leader's certificate, the join token. The database lies beside them.
#pragma once

#include <string>

#include "common/result.h"
#include "daemon/certificates.h"
#include "daemon/join_token.h"
#include "daemon/tls.h"

namespace gestalt {

struct ClusterState {
  KeyAndCertificate ca;
  TlsIdentity leader;              // the leader's own key and certificate, and the CA's
  std::string join_secret_sha256;  // for join_secret_matches
};

// Where things lie below the directory.
[[nodiscard]] std::string ca_key_path(const std::string& directory);
[[nodiscard]] std::string ca_certificate_path(const std::string& directory);
[[nodiscard]] std::string leader_key_path(const std::string& directory);
[[nodiscard]] std::string leader_certificate_path(const std::string& directory);
[[nodiscard]] std::string join_token_path(const std::string& directory);  // 0600, for node images
[[nodiscard]] std::string token_hash_path(const std::string& directory);
[[nodiscard]] std::string database_path(const std::string& directory);

// Makes all of it and returns the token, which the caller may put into the node image.
// An existing CA is never overwritten: kBusy. With `force` the old files, database
// included, are moved into DIRECTORY/replaced-TIME first: all nodes must join anew then.
// An init that was interrupted is simply run again.
[[nodiscard]] Result<JoinToken> create_cluster_state(const std::string& directory,
                                                     const std::string& cluster_name,
                                                     const std::string& leader_name,
                                                     bool force = false);

// kNotFound, with `gestalt init` as the remedy, where nothing was made yet.
[[nodiscard]] Result<ClusterState> load_cluster_state(const std::string& directory);

}  // namespace gestalt
