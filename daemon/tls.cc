#include "daemon/tls.h"

#include <openssl/ssl.h>
#include <openssl/x509_vfy.h>

#include <boost/system/system_error.hpp>

#include "common/fd.h"
#include "common/format.h"
#include "daemon/certificates.h"

namespace gestalt {
namespace {

namespace ssl = boost::asio::ssl;

// What a joining node expects of the server; owned by its SSL_CTX.
struct Expected {
  std::string ca_sha256;
  std::string server_name;
};

void free_expected(void*, void* data, CRYPTO_EX_DATA*, int, long, void*) {
  delete static_cast<Expected*>(data);
}

int expected_index() {
  static const int kIndex = SSL_CTX_get_ex_new_index(0, nullptr, nullptr, nullptr, free_expected);
  return kIndex;
}

Result<ssl::context> base_context(ssl::context::method method) {
  try {
    ssl::context context(method);
    SSL_CTX* raw = context.native_handle();
    if (SSL_CTX_set_min_proto_version(raw, TLS1_3_VERSION) != 1 ||
        SSL_CTX_set_max_proto_version(raw, TLS1_3_VERSION) != 1 ||
        SSL_CTX_set_num_tickets(raw, 0) != 1)
      return fail_openssl(ErrorCode::kSystem, "set up TLS 1.3");
    SSL_CTX_set_options(raw, SSL_OP_NO_TICKET | SSL_OP_NO_RENEGOTIATION | SSL_OP_NO_COMPRESSION);
    SSL_CTX_set_session_cache_mode(raw, SSL_SESS_CACHE_OFF);
    return context;
  } catch (const boost::system::system_error& error) {
    return fail(ErrorCode::kSystem, formatted("set up TLS: {}", error.what()));
  }
}

Result<void> use_identity(SSL_CTX* raw, const TlsIdentity& identity) {
  GESTALT_ASSIGN(auto key, parse_key(identity.key_pem));
  GESTALT_ASSIGN(auto certificate, parse_certificate(identity.certificate_pem));
  GESTALT_ASSIGN(auto ca, parse_certificate(identity.ca_pem));
  // With the CA along, so that a joining node can check it against its token.
  if (SSL_CTX_use_certificate(raw, certificate.get()) != 1 ||
      SSL_CTX_use_PrivateKey(raw, key.get()) != 1 || SSL_CTX_check_private_key(raw) != 1 ||
      SSL_CTX_add1_chain_cert(raw, ca.get()) != 1 ||
      X509_STORE_add_cert(SSL_CTX_get_cert_store(raw), ca.get()) != 1)
    return fail_openssl(ErrorCode::kInvalidArgument, "use the node's certificate",
                        "key, certificate and CA must belong together");
  return {};
}

bool expect_server(X509_VERIFY_PARAM* param, const std::string& server_name) {
  X509_VERIFY_PARAM_set_hostflags(param, X509_CHECK_FLAG_NO_PARTIAL_WILDCARDS);
  return X509_VERIFY_PARAM_set1_host(param, server_name.c_str(), server_name.size()) == 1;
}

// The certificate in the server's chain that the join token names.
X509* find_ca(STACK_OF(X509) * chain, const std::string& ca_sha256) {
  for (int i = 0; i < sk_X509_num(chain); ++i) {
    X509* candidate = sk_X509_value(chain, i);
    auto fingerprint = fingerprint_of(candidate);
    if (fingerprint && *fingerprint == ca_sha256) return candidate;
  }
  return nullptr;
}

// Instead of OpenSSL's own verification: the same, with the token's CA as the only root.
int verify_joining(X509_STORE_CTX* context, void*) {
  auto* connection =
      static_cast<SSL*>(X509_STORE_CTX_get_ex_data(context, SSL_get_ex_data_X509_STORE_CTX_idx()));
  auto* expected =
      static_cast<Expected*>(SSL_CTX_get_ex_data(SSL_get_SSL_CTX(connection), expected_index()));
  auto refuse = [context](int reason) {
    X509_STORE_CTX_set_error(context, reason);
    return 0;
  };
  STACK_OF(X509)* chain = X509_STORE_CTX_get0_untrusted(context);
  X509* leaf = X509_STORE_CTX_get0_cert(context);
  X509* ca = find_ca(chain, expected->ca_sha256);
  if (ca == nullptr || leaf == nullptr) return refuse(X509_V_ERR_CERT_UNTRUSTED);
  OpensslPtr<X509_STORE> store(X509_STORE_new());
  OpensslPtr<X509_STORE_CTX> inner(X509_STORE_CTX_new());
  if (!store || !inner || X509_STORE_add_cert(store.get(), ca) != 1 ||
      X509_STORE_CTX_init(inner.get(), store.get(), leaf, nullptr) != 1 ||
      X509_STORE_CTX_set_default(inner.get(), "ssl_server") != 1 ||
      !expect_server(X509_STORE_CTX_get0_param(inner.get()), expected->server_name))
    return refuse(X509_V_ERR_OUT_OF_MEM);
  if (X509_verify_cert(inner.get()) != 1) return refuse(X509_STORE_CTX_get_error(inner.get()));
  X509_STORE_CTX_set_error(context, X509_V_OK);
  return 1;
}

OpensslPtr<X509> good_peer_certificate(SSL* connection) {
  OpensslPtr<X509> certificate(SSL_get1_peer_certificate(connection));
  if (certificate && SSL_get_verify_result(connection) != X509_V_OK) return nullptr;
  return certificate;
}

}  // namespace

Result<TlsIdentity> load_tls_identity(const std::string& key_path,
                                      const std::string& certificate_path,
                                      const std::string& ca_path) {
  TlsIdentity out;
  GESTALT_ASSIGN(out.key_pem, read_file(key_path, 64U << 10));
  GESTALT_ASSIGN(out.certificate_pem, read_file(certificate_path, 64U << 10));
  GESTALT_ASSIGN(out.ca_pem, read_file(ca_path, 64U << 10));
  return out;
}

Result<ssl::context> server_context(const TlsIdentity& identity) {
  GESTALT_ASSIGN(auto context, base_context(ssl::context::tls_server));
  GESTALT_TRY(use_identity(context.native_handle(), identity));
  // Without FAIL_IF_NO_PEER_CERT: a joining node has none.
  SSL_CTX_set_verify(context.native_handle(), SSL_VERIFY_PEER, nullptr);
  return context;
}

Result<ssl::context> client_context(const TlsIdentity& identity, const std::string& server_name) {
  GESTALT_ASSIGN(auto context, base_context(ssl::context::tls_client));
  SSL_CTX* raw = context.native_handle();
  GESTALT_TRY(use_identity(raw, identity));
  if (!expect_server(SSL_CTX_get0_param(raw), server_name))
    return fail_openssl(ErrorCode::kInvalidArgument, "expect a server name");
  SSL_CTX_set_verify(raw, SSL_VERIFY_PEER, nullptr);
  return context;
}

Result<ssl::context> joining_context(const std::string& ca_sha256, const std::string& server_name) {
  GESTALT_ASSIGN(auto context, base_context(ssl::context::tls_client));
  SSL_CTX* raw = context.native_handle();
  auto expected = std::make_unique<Expected>(Expected{ca_sha256, server_name});
  if (SSL_CTX_set_ex_data(raw, expected_index(), expected.get()) != 1)
    return fail_openssl(ErrorCode::kSystem, "set up TLS for joining");
  (void)expected.release();  // the SSL_CTX frees it
  SSL_CTX_set_cert_verify_callback(raw, verify_joining, nullptr);
  SSL_CTX_set_verify(raw, SSL_VERIFY_PEER, nullptr);
  return context;
}

std::optional<std::string> peer_node_name(SSL* connection) {
  auto certificate = good_peer_certificate(connection);
  if (!certificate) return std::nullopt;
  auto name = node_name_of(certificate.get());
  return name ? std::optional(*name) : std::nullopt;
}

std::optional<std::string> peer_fingerprint(SSL* connection) {
  auto certificate = good_peer_certificate(connection);
  if (!certificate) return std::nullopt;
  auto fingerprint = fingerprint_of(certificate.get());
  return fingerprint ? std::optional(*fingerprint) : std::nullopt;
}

}  // namespace gestalt
