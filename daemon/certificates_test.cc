#include "daemon/certificates.h"

#include <gtest/gtest.h>
#include <openssl/evp.h>
#include <openssl/pem.h>
#include <openssl/rsa.h>

#include <chrono>

namespace gestalt {
namespace {

std::string issue(const KeyAndCertificate& ca, const std::string& name) {
  auto request = make_request(name);
  EXPECT_TRUE(request);
  auto certificate = issue_certificate(ca, request->csr_pem, name);
  EXPECT_TRUE(certificate) << certificate.error().text();
  return certificate.value_or("");
}

TEST(Certificates, NodeCertificate) {
  auto ca = make_ca("test");
  ASSERT_TRUE(ca) << ca.error().text();
  auto certificate = issue(*ca, "node-1");
  EXPECT_EQ(*certificate_node_name(certificate), "node-1");
  EXPECT_TRUE(verify_certificate(certificate, ca->certificate_pem));
  auto now = std::chrono::system_clock::to_time_t(std::chrono::system_clock::now());
  EXPECT_NEAR(static_cast<double>(*certificate_expiry_unix_seconds(certificate)),
              static_cast<double>(now + 365 * 86400), 60);
  EXPECT_GT(*certificate_expiry_unix_seconds(ca->certificate_pem), now + 3650LL * 86400);
  auto parsed = parse_certificate(certificate);
  ASSERT_TRUE(parsed);
  EXPECT_EQ((*fingerprint_of(parsed->get())).size(), 64U);
  EXPECT_EQ(*fingerprint_of(parsed->get()), *certificate_fingerprint(certificate));
  // The longest name fits: a CN has at most 64 characters.
  EXPECT_EQ(*certificate_node_name(issue(*ca, std::string(63, 'x'))), std::string(63, 'x'));
  EXPECT_TRUE(make_ca(std::string(64, 'c')));
}

TEST(Certificates, AreAllDifferent) {
  auto ca = make_ca("test");
  ASSERT_TRUE(ca);
  EXPECT_NE(*certificate_fingerprint(issue(*ca, "n")), *certificate_fingerprint(issue(*ca, "n")));
  EXPECT_NE(make_ca("test")->key_pem, ca->key_pem);
}

TEST(Certificates, AnotherCaIsRefused) {
  auto ca = make_ca("test");
  auto other = make_ca("test");
  ASSERT_TRUE(ca && other);
  auto refused = verify_certificate(issue(*other, "n1"), ca->certificate_pem);
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().code, ErrorCode::kPermission);
  KeyAndCertificate mixed{other->key_pem, ca->certificate_pem};
  EXPECT_FALSE(issue_certificate(mixed, make_request("n1")->csr_pem, "n1"));
}

TEST(Certificates, ANodeCannotSign) {
  auto ca = make_ca("test");
  auto request = make_request("n1");
  ASSERT_TRUE(ca && request);
  auto certificate = issue_certificate(*ca, request->csr_pem, "n1");
  ASSERT_TRUE(certificate);
  KeyAndCertificate node{request->key_pem, *certificate};
  auto forged = issue_certificate(node, make_request("n2")->csr_pem, "n2");
  ASSERT_TRUE(forged);
  EXPECT_FALSE(verify_certificate(*forged, ca->certificate_pem));
  EXPECT_FALSE(verify_certificate(*forged, *certificate));
}

TEST(Certificates, HostileRequests) {
  auto ca = make_ca("test");
  auto request = make_request("n1");
  ASSERT_TRUE(ca && request);
  auto wrong_name = issue_certificate(*ca, request->csr_pem, "leader");
  ASSERT_FALSE(wrong_name);
  EXPECT_EQ(wrong_name.error().code, ErrorCode::kPermission);
  for (const std::string& csr :
       {std::string(), std::string("x"), std::string(1 << 20, 'A'), ca->certificate_pem,
        std::string(
            "-----BEGIN CERTIFICATE REQUEST-----\nAAAA\n-----END CERTIFICATE REQUEST-----\n"),
        request->csr_pem.substr(0, request->csr_pem.size() / 2)})
    EXPECT_FALSE(issue_certificate(*ca, csr, "n1"));
  // Any single wrong character of the body spoils it.
  for (std::size_t at = 40; at < request->csr_pem.size() - 40; at += 7) {
    auto bad = request->csr_pem;
    if (bad[at] == '\n') continue;
    bad[at] = bad[at] == 'A' ? 'B' : 'A';
    EXPECT_FALSE(issue_certificate(*ca, bad, "n1")) << at;
  }
}

TEST(Certificates, BadNames) {
  auto ca = make_ca("test");
  ASSERT_TRUE(ca);
  for (const char* name : {"", "A", "a.b", "*", "a,DNS:leader", "-a"}) {
    EXPECT_FALSE(make_request(name)) << name;
    EXPECT_FALSE(issue_certificate(*ca, make_request("n1")->csr_pem, name)) << name;
  }
  // The CA's own name is no node name.
  EXPECT_FALSE(certificate_node_name(ca->certificate_pem));
}

TEST(Certificates, RsaKeysAreRefused) {
  auto ca = make_ca("test");
  ASSERT_TRUE(ca);
  OpensslPtr<EVP_PKEY> key(EVP_RSA_gen(2048));
  OpensslPtr<X509_REQ> request(X509_REQ_new());
  X509_NAME_add_entry_by_txt(X509_REQ_get_subject_name(request.get()), "CN", MBSTRING_ASC,
                             reinterpret_cast<const unsigned char*>("n1"), 2, -1, 0);
  X509_REQ_set_pubkey(request.get(), key.get());
  X509_REQ_sign(request.get(), key.get(), EVP_sha256());
  OpensslPtr<BIO> bio(BIO_new(BIO_s_mem()));
  PEM_write_bio_X509_REQ(bio.get(), request.get());
  char* data = nullptr;
  auto size = static_cast<std::size_t>(BIO_get_mem_data(bio.get(), &data));
  EXPECT_FALSE(issue_certificate(*ca, std::string(data, size), "n1"));
}

TEST(Hex, BothWays) {
  EXPECT_EQ(to_hex(std::string_view("\x00\xff\x0a", 3)), "00ff0a");
  EXPECT_EQ(*from_hex("00ff0a"), std::string("\x00\xff\x0a", 3));
  for (const char* bad : {"0", "0g", "FF", "0x", " 0"}) EXPECT_FALSE(from_hex(bad)) << bad;
  EXPECT_EQ(sha256_hex("abc"), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
}

}  // namespace
}  // namespace gestalt
