// The cluster's own certificate authority: EC P-256, X.509 v3, everything as PEM text.
// A node certificate carries the node's name as CN and as DNS name, for both roles
// (TLS server and client). Thread-safe.
#pragma once

#include <openssl/x509.h>

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>

#include "common/node_set.h"
#include "common/result.h"

namespace gestalt {

inline constexpr int kCaValidityDays = 3652;
inline constexpr int kNodeValidityDays = 365;

struct KeyAndCertificate {
  std::string key_pem;  // PKCS#8, not encrypted: file mode 0600
  std::string certificate_pem;
};

struct KeyAndRequest {
  std::string key_pem;
  std::string csr_pem;
};

[[nodiscard]] Result<KeyAndCertificate> make_ca(const std::string& cluster_name);
[[nodiscard]] Result<KeyAndRequest> make_request(const std::string& node_name);

// The CSR comes from the network: its signature must be its own key's, its key EC
// P-256, its CN `node_name`; everything else in it is ignored.
[[nodiscard]] Result<std::string> issue_certificate(const KeyAndCertificate& ca,
                                                    const std::string& csr_pem,
                                                    const std::string& node_name);

// Lower-case hex SHA-256 of the DER form (the first certificate of the text).
[[nodiscard]] Result<std::string> certificate_fingerprint(const std::string& certificate_pem);
// The CN, if it is a valid node name. Says nothing about who signed it.
[[nodiscard]] Result<std::string> certificate_node_name(const std::string& certificate_pem);
// Renew before this.
[[nodiscard]] Result<std::int64_t> certificate_expiry_unix_seconds(
    const std::string& certificate_pem);
// kPermission unless `ca_pem` signed it and it is valid now.
[[nodiscard]] Result<void> verify_certificate(const std::string& certificate_pem,
                                              const std::string& ca_pem);

[[nodiscard]] std::string sha256_hex(std::string_view bytes);
[[nodiscard]] std::string to_hex(std::string_view bytes);
// Lower case only, so that a value has one spelling.
[[nodiscard]] Result<std::string> from_hex(std::string_view hex);
// From the system's generator; kSystem if that fails.
[[nodiscard]] Result<std::string> random_bytes(std::size_t count);

// For daemon/tls.cc: OpenSSL's objects as values.
struct OpensslFree {
  void operator()(X509* object) const;
  void operator()(X509_STORE* object) const;
  void operator()(X509_STORE_CTX* object) const;
  void operator()(X509_REQ* object) const;
  void operator()(EVP_PKEY* object) const;
  void operator()(BIO* object) const;
};
template <class T>
using OpensslPtr = std::unique_ptr<T, OpensslFree>;

[[nodiscard]] Result<OpensslPtr<X509>> parse_certificate(const std::string& certificate_pem);
[[nodiscard]] Result<OpensslPtr<EVP_PKEY>> parse_key(const std::string& key_pem);
[[nodiscard]] Result<std::string> fingerprint_of(const X509* certificate);
[[nodiscard]] Result<std::string> node_name_of(const X509* certificate);
// An error with OpenSSL's own reason; empties its error queue.
[[nodiscard]] Unexpected fail_openssl(ErrorCode code, std::string message, std::string remedy = {});

}  // namespace gestalt
