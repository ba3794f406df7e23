#include <endian.h>
#include <openssl/crypto.h>
#include <openssl/hmac.h>
#include <openssl/rand.h>

#include <array>
#include <cstring>

#include "common/format.h"
#include "migrate/page_wire.h"

namespace gestalt {
namespace {

constexpr std::size_t kNonceBytes = 32;
constexpr std::size_t kProofBytes = 32;
using Nonce = std::array<std::byte, kNonceBytes>;
using Proof = std::array<std::byte, kProofBytes>;

Result<Proof> prove(std::string_view secret, PageRole role, std::uint64_t link, const Nonce& own,
                    const Nonce& peer) {
  std::string text =
      formatted("gestalt page {} {} ", role == PageRole::kSource ? "source" : "destination", link);
  text.append(reinterpret_cast<const char*>(own.data()), own.size());
  text.append(reinterpret_cast<const char*>(peer.data()), peer.size());
  Proof proof;
  unsigned int length = proof.size();
  if (::HMAC(EVP_sha256(), secret.data(), static_cast<int>(secret.size()),
             reinterpret_cast<const unsigned char*>(text.data()), text.size(),
             reinterpret_cast<unsigned char*>(proof.data()), &length) == nullptr ||
      length != proof.size())
    return fail(ErrorCode::kInternal, "compute an HMAC");
  return proof;
}

}  // namespace

Result<void> authenticate(PageConnection& connection, PageRole role, std::string_view secret,
                          std::uint64_t& link, Deadline deadline) {
  if (secret.size() < 32) return fail(ErrorCode::kInvalidArgument, "the migration has no secret");
  Nonce own;
  if (::RAND_bytes(reinterpret_cast<unsigned char*>(own.data()), own.size()) != 1)
    return fail(ErrorCode::kInternal, "no random numbers");
  std::vector<std::byte> hello(4);
  std::uint32_t version = htobe32(kPageProtocolVersion);
  std::memcpy(hello.data(), &version, 4);
  hello.insert(hello.end(), own.begin(), own.end());
  std::uint64_t announced = role == PageRole::kSource ? link : 0;
  GESTALT_TRY(connection.send(FrameType::kHello, announced, hello, deadline));

  std::vector<std::byte> payload;
  GESTALT_ASSIGN(auto greeting, connection.expect(FrameType::kHello, payload, deadline));
  bool known_link =
      role == PageRole::kSource ? greeting.argument == 0 : greeting.argument <= kLastLink;
  if (!known_link || payload.size() != hello.size() ||
      std::memcmp(payload.data(), &version, 4) != 0)
    return fail(ErrorCode::kProtocol, "the other node speaks another page protocol",
                "run the same Gestalt version on all nodes");
  if (role == PageRole::kDestination) link = greeting.argument;
  Nonce peer;
  std::memcpy(peer.data(), payload.data() + 4, peer.size());

  GESTALT_ASSIGN(auto proof, prove(secret, role, link, own, peer));
  GESTALT_TRY(connection.send(FrameType::kProof, 0, proof, deadline));
  GESTALT_ASSIGN(auto shown, connection.expect(FrameType::kProof, payload, deadline));
  auto other = role == PageRole::kSource ? PageRole::kDestination : PageRole::kSource;
  GESTALT_ASSIGN(auto wanted, prove(secret, other, link, peer, own));
  if (shown.argument != 0 || payload.size() != wanted.size() ||
      ::CRYPTO_memcmp(payload.data(), wanted.data(), wanted.size()) != 0)
    return fail(ErrorCode::kPermission, "the peer does not know this migration's secret");
  return {};
}

}  // namespace gestalt
