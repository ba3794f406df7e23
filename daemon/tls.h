// TLS 1.3 contexts for the control plane: certificates of the cluster's CA at both ends,
// no session tickets, no resumption, no renegotiation.
//
// In TLS 1.3 a client's handshake is over before the server has judged the client's
// certificate: a refusal shows up as an error of the client's first read.
#pragma once

#include <boost/asio/ssl/context.hpp>
#include <optional>
#include <string>

#include "common/result.h"

namespace gestalt {

struct TlsIdentity {
  std::string key_pem;
  std::string certificate_pem;
  std::string ca_pem;
};

[[nodiscard]] Result<TlsIdentity> load_tls_identity(const std::string& key_path,
                                                    const std::string& certificate_path,
                                                    const std::string& ca_path);

// The leader's. A client's certificate is asked for and, if presented, must be the
// CA's. A client without one gets through the handshake: peer_node_name() is empty then
// and nothing but JoinRequest may be served to it. Sends the CA along in its chain.
[[nodiscard]] Result<boost::asio::ssl::context> server_context(const TlsIdentity& identity);

// A node's, once it has its certificate. The server must be `server_name` (the leader's
// node name) by a certificate of the CA, so that no other node can pose as the leader.
[[nodiscard]] Result<boost::asio::ssl::context> client_context(const TlsIdentity& identity,
                                                               const std::string& server_name);

// A node's that wants to join: no certificate of its own; the CA in the server's chain
// must have the join token's fingerprint, and the server be `server_name`.
[[nodiscard]] Result<boost::asio::ssl::context> joining_context(const std::string& ca_sha256,
                                                                const std::string& server_name);

// After the handshake. Nothing if the peer showed no certificate or a bad one.
[[nodiscard]] std::optional<std::string> peer_node_name(SSL* connection);
[[nodiscard]] std::optional<std::string> peer_fingerprint(SSL* connection);

}  // namespace gestalt
