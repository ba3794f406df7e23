// What lets a new node into the cluster: gestalt1.<CA's SHA-256>.<32-byte secret>, both
// in lower-case hex. The fingerprint tells the node which leader to trust, the secret
// tells the leader to sign the node's certificate. The leader keeps only a hash of it.
#pragma once

#include <string>
#include <string_view>

#include "common/result.h"

namespace gestalt {

struct JoinToken {
  std::string ca_sha256;   // 64 hex digits
  std::string secret_hex;  // 64 hex digits: JoinRequest.token_secret
};

[[nodiscard]] Result<JoinToken> make_join_token(const std::string& ca_sha256);
// White space around it is allowed (it comes from a file); the text itself is never put
// into an error message.
[[nodiscard]] Result<JoinToken> parse_join_token(std::string_view text);
[[nodiscard]] std::string format_join_token(const JoinToken& token);
// Reads paths.join_token; a missing file is kNotFound with the remedy.
[[nodiscard]] Result<JoinToken> load_join_token(const std::string& path);

// What the leader stores.
[[nodiscard]] std::string join_secret_hash(std::string_view secret_hex);
// Compares in constant time. Any bytes may be given as the secret.
[[nodiscard]] bool join_secret_matches(std::string_view secret_hex, std::string_view stored_hash);

}  // namespace gestalt
