#include "daemon/join_token.h"

#include <openssl/crypto.h>

#include "common/fd.h"
#include "common/format.h"
#include "daemon/certificates.h"

namespace gestalt {
namespace {

constexpr std::string_view kPrefix = "gestalt1";
constexpr std::size_t kSecretBytes = 32;
constexpr std::size_t kHexDigits = 64;

bool is_hex64(std::string_view text) { return text.size() == kHexDigits && from_hex(text); }

Unexpected bad_token(std::string_view why) {
  return fail(ErrorCode::kInvalidArgument, formatted("not a join token: {}", why),
              "copy the leader's join-token file again, all of it");
}

}  // namespace

Result<JoinToken> make_join_token(const std::string& ca_sha256) {
  if (!is_hex64(ca_sha256))
    return fail(ErrorCode::kInvalidArgument, "the CA's fingerprint is not 64 hex digits");
  GESTALT_ASSIGN(auto secret, random_bytes(kSecretBytes));
  return JoinToken{ca_sha256, to_hex(secret)};
}

Result<JoinToken> parse_join_token(std::string_view text) {
  constexpr std::string_view kSpace = " \t\r\n";
  auto begin = text.find_first_not_of(kSpace);
  if (begin == std::string_view::npos) return bad_token("it is empty");
  text = text.substr(begin, text.find_last_not_of(kSpace) - begin + 1);
  auto first = text.find('.');
  if (text.substr(0, first) != kPrefix) return bad_token("it does not begin with gestalt1.");
  if (text.size() != kPrefix.size() + 2 * (kHexDigits + 1)) return bad_token("its length is wrong");
  if (text[first + 1 + kHexDigits] != '.') return bad_token("it has no second dot");
  auto ca = text.substr(first + 1, kHexDigits);
  auto secret = text.substr(first + 2 + kHexDigits);
  if (!is_hex64(ca) || !is_hex64(secret))
    return bad_token("it has other than lower-case hex digits");
  return JoinToken{std::string(ca), std::string(secret)};
}

std::string format_join_token(const JoinToken& token) {
  return formatted("{}.{}.{}", kPrefix, token.ca_sha256, token.secret_hex);
}

Result<JoinToken> load_join_token(const std::string& path) {
  auto text = read_file(path, 4096);
  if (!text && text.error().code == ErrorCode::kNotFound)
    return fail(ErrorCode::kNotFound, formatted("there is no join token {}", path),
                "`gestalt init` on the leader makes one; put it into the node's image");
  if (!text) return std::unexpected(std::move(text).error());
  auto token = parse_join_token(*text);
  if (!token) return std::unexpected(std::move(token).error().in(path));
  return token;
}

std::string join_secret_hash(std::string_view secret_hex) { return sha256_hex(secret_hex); }

bool join_secret_matches(std::string_view secret_hex, std::string_view stored_hash) {
  // Hashes have one length; an empty or damaged record matches nothing.
  std::string hash = join_secret_hash(secret_hex);
  return stored_hash.size() == hash.size() &&
         CRYPTO_memcmp(hash.data(), stored_hash.data(), hash.size()) == 0;
}

}  // namespace gestalt
