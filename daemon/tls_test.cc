// The contexts in real handshakes, over memory buffers.
#include "daemon/tls.h"

#include <gtest/gtest.h>
#include <openssl/ssl.h>
#include <stdlib.h>
#include <sys/stat.h>

#include <filesystem>

#include "common/fd.h"
#include "daemon/certificates.h"
#include "daemon/cluster_state_dir.h"
#include "daemon/join_token.h"

namespace gestalt {
namespace {

using boost::asio::ssl::context;

struct SslFree {
  void operator()(SSL* ssl) const { SSL_free(ssl); }
};

struct Handshake {
  std::unique_ptr<SSL, SslFree> client;
  std::unique_ptr<SSL, SslFree> server;
  bool client_done = false;
  bool server_done = false;
  [[nodiscard]] bool done() const { return client_done && server_done; }
};

Handshake shake(context& client, context& server) {
  Handshake out;
  out.client.reset(SSL_new(client.native_handle()));
  out.server.reset(SSL_new(server.native_handle()));
  BIO* to_server = BIO_new(BIO_s_mem());
  BIO* to_client = BIO_new(BIO_s_mem());
  BIO_up_ref(to_server);
  BIO_up_ref(to_client);
  SSL_set_bio(out.client.get(), to_client, to_server);
  SSL_set_bio(out.server.get(), to_server, to_client);
  for (int round = 0; round < 8; ++round) {
    out.client_done = SSL_connect(out.client.get()) == 1;
    out.server_done = SSL_accept(out.server.get()) == 1;
  }
  return out;
}

TlsIdentity identity(const KeyAndCertificate& ca, const std::string& name) {
  auto request = make_request(name);
  auto certificate = issue_certificate(ca, request->csr_pem, name);
  return {request->key_pem, *certificate, ca.certificate_pem};
}

class Tls : public testing::Test {
 protected:
  KeyAndCertificate ca_ = *make_ca("test");
  KeyAndCertificate other_ca_ = *make_ca("test");
  TlsIdentity leader_ = identity(ca_, "leader");
  TlsIdentity node_ = identity(ca_, "n1");
};

TEST_F(Tls, NodeAndLeaderKnowEachOther) {
  auto server = server_context(leader_);
  auto client = client_context(node_, "leader");
  ASSERT_TRUE(server && client);
  auto made = shake(*client, *server);
  ASSERT_TRUE(made.done());
  EXPECT_EQ(peer_node_name(made.server.get()), "n1");
  EXPECT_EQ(peer_node_name(made.client.get()), "leader");
  EXPECT_EQ(peer_fingerprint(made.server.get()), *certificate_fingerprint(node_.certificate_pem));
  EXPECT_STREQ(SSL_get_version(made.server.get()), "TLSv1.3");
}

TEST_F(Tls, ForeignClientIsRefused) {
  auto server = server_context(leader_);
  TlsIdentity foreign = identity(other_ca_, "n1");
  foreign.ca_pem = ca_.certificate_pem;  // trusts our leader, but has its own certificate
  auto client = client_context(foreign, "leader");
  ASSERT_TRUE(server && client);
  auto made = shake(*client, *server);
  EXPECT_FALSE(made.server_done);
  EXPECT_EQ(peer_node_name(made.server.get()), std::nullopt);
}

TEST_F(Tls, ForeignServerIsRefused) {
  auto server = server_context(identity(other_ca_, "leader"));
  auto client = client_context(node_, "leader");
  ASSERT_TRUE(server && client);
  EXPECT_FALSE(shake(*client, *server).client_done);
}

TEST_F(Tls, ANodeCannotPoseAsTheLeader) {
  auto server = server_context(node_);
  auto client = client_context(identity(ca_, "n2"), "leader");
  auto joining = joining_context(*certificate_fingerprint(ca_.certificate_pem), "leader");
  ASSERT_TRUE(server && client && joining);
  EXPECT_FALSE(shake(*client, *server).client_done);
  EXPECT_FALSE(shake(*joining, *server).client_done);
}

TEST_F(Tls, JoiningNodeChecksTheToken) {
  auto server = server_context(leader_);
  auto client = joining_context(*certificate_fingerprint(ca_.certificate_pem), "leader");
  ASSERT_TRUE(server && client);
  auto made = shake(*client, *server);
  ASSERT_TRUE(made.done());
  EXPECT_EQ(peer_node_name(made.server.get()), std::nullopt);
  EXPECT_EQ(peer_fingerprint(made.server.get()), std::nullopt);
  EXPECT_EQ(peer_node_name(made.client.get()), "leader");

  auto wrong = joining_context(*certificate_fingerprint(other_ca_.certificate_pem), "leader");
  ASSERT_TRUE(wrong);
  EXPECT_FALSE(shake(*wrong, *server).client_done);
  // The leaf's own fingerprint is no CA's.
  auto leaf = joining_context(*certificate_fingerprint(leader_.certificate_pem), "leader");
  ASSERT_TRUE(leaf);
  EXPECT_FALSE(shake(*leaf, *server).client_done);
}

TEST_F(Tls, AServerThatOnlyShowsTheCaIsRefused) {
  // Our CA in the chain, but a leaf that it did not sign.
  TlsIdentity impostor = identity(other_ca_, "leader");
  impostor.ca_pem = ca_.certificate_pem;
  auto server = server_context(impostor);
  auto client = joining_context(*certificate_fingerprint(ca_.certificate_pem), "leader");
  ASSERT_TRUE(server && client);
  EXPECT_FALSE(shake(*client, *server).client_done);
}

TEST_F(Tls, OldVersionsAreRefused) {
  auto server = server_context(leader_);
  context old(context::tlsv12_client);
  ASSERT_TRUE(server);
  EXPECT_FALSE(shake(old, *server).client_done);
}

TEST_F(Tls, MismatchedIdentityIsAnError) {
  TlsIdentity mixed = leader_;
  mixed.key_pem = node_.key_pem;
  EXPECT_FALSE(server_context(mixed));
  EXPECT_FALSE(server_context({}));
  EXPECT_FALSE(client_context({.key_pem = "x"}, "leader"));
}

TEST(ClusterStateDir, InitOnceThenOnlyWithForce) {
  std::string base = testing::TempDir() + "/gestalt-state-XXXXXX";
  ASSERT_NE(::mkdtemp(base.data()), nullptr);
  std::string directory = base + "/var/leader";
  EXPECT_EQ(load_cluster_state(directory).error().code, ErrorCode::kNotFound);
  auto token = create_cluster_state(directory, "test", "leader");
  ASSERT_TRUE(token) << token.error().text();
  auto state = load_cluster_state(directory);
  ASSERT_TRUE(state) << state.error().text();
  EXPECT_TRUE(join_secret_matches(token->secret_hex, state->join_secret_sha256));
  EXPECT_EQ(*certificate_node_name(state->leader.certificate_pem), "leader");
  EXPECT_EQ(load_join_token(join_token_path(directory))->ca_sha256,
            *certificate_fingerprint(state->ca.certificate_pem));
  EXPECT_TRUE(server_context(state->leader));

  struct stat info{};
  ASSERT_EQ(::stat(directory.c_str(), &info), 0);
  EXPECT_EQ(info.st_mode & 0777, 0700U);
  for (const auto& path : {ca_key_path(directory), leader_key_path(directory),
                           join_token_path(directory), token_hash_path(directory)}) {
    ASSERT_EQ(::stat(path.c_str(), &info), 0) << path;
    EXPECT_EQ(info.st_mode & 0777, 0600U) << path;
  }

  auto again = create_cluster_state(directory, "test", "leader");
  ASSERT_FALSE(again);
  EXPECT_EQ(again.error().code, ErrorCode::kBusy);
  EXPECT_NE(again.error().remedy.find("--force"), std::string::npos);
  EXPECT_EQ(load_cluster_state(directory)->ca.key_pem, state->ca.key_pem);

  ASSERT_TRUE(create_cluster_state(directory, "test", "leader", true));
  EXPECT_NE(load_cluster_state(directory)->ca.key_pem, state->ca.key_pem);
  // An init that was interrupted before its last file is simply run again.
  std::filesystem::remove(ca_certificate_path(directory));
  EXPECT_TRUE(create_cluster_state(directory, "test", "leader"));
  EXPECT_FALSE(create_cluster_state(directory, "test", "Not A Name", true));
  std::filesystem::remove_all(base);
}

}  // namespace
}  // namespace gestalt
