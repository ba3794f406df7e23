#include "daemon/certificates.h"

#include <openssl/bio.h>
#include <openssl/bn.h>
#include <openssl/ec.h>
#include <openssl/err.h>
#include <openssl/evp.h>
#include <openssl/pem.h>
#include <openssl/rand.h>
#include <openssl/sha.h>
#include <openssl/x509.h>
#include <openssl/x509v3.h>

#include <array>
#include <cstring>

#include "common/format.h"

namespace gestalt {
namespace {

constexpr std::size_t kMaxPemBytes = 64U << 10;
constexpr int kSerialBytes = 16;
// A node whose clock is a little behind must accept a certificate made just now.
constexpr long kClockSkewSeconds = 3600;
constexpr long kDaySeconds = 86400;

OpensslPtr<BIO> memory_bio(const std::string& text) {
  if (text.size() > kMaxPemBytes) return nullptr;
  return OpensslPtr<BIO>(BIO_new_mem_buf(text.data(), static_cast<int>(text.size())));
}

// Never asks on the terminal for the passphrase of an encrypted key.
int no_passphrase(char*, int, int, void*) { return -1; }

template <class Write>
Result<std::string> to_pem(Write write, const char* what) {
  OpensslPtr<BIO> bio(BIO_new(BIO_s_mem()));
  if (!bio || write(bio.get()) != 1)
    return fail_openssl(ErrorCode::kInternal, formatted("write {}", what));
  char* data = nullptr;
  long size = BIO_get_mem_data(bio.get(), &data);
  return std::string(data, static_cast<std::size_t>(size));
}

Result<std::string> key_to_pem(EVP_PKEY* key) {
  return to_pem(
      [key](BIO* bio) {
        return PEM_write_bio_PKCS8PrivateKey(bio, key, nullptr, nullptr, 0, nullptr, nullptr);
      },
      "a private key");
}

Result<std::string> certificate_to_pem(X509* certificate) {
  return to_pem([certificate](BIO* bio) { return PEM_write_bio_X509(bio, certificate); },
                "a certificate");
}

Result<OpensslPtr<EVP_PKEY>> make_key() {
  OpensslPtr<EVP_PKEY> key(EVP_EC_gen("P-256"));
  if (!key) return fail_openssl(ErrorCode::kSystem, "make a P-256 key");
  return key;
}

bool is_p256(const EVP_PKEY* key) {
  std::array<char, 64> group{};
  return EVP_PKEY_is_a(key, "EC") == 1 &&
         EVP_PKEY_get_group_name(key, group.data(), group.size(), nullptr) == 1 &&
         OBJ_sn2nid(group.data()) == NID_X9_62_prime256v1;
}

bool set_name(X509_NAME* name, const char* field, const std::string& text) {
  return X509_NAME_add_entry_by_txt(name, field, MBSTRING_UTF8,
                                    reinterpret_cast<const unsigned char*>(text.data()),
                                    static_cast<int>(text.size()), -1, 0) == 1;
}

bool add_extension(X509* certificate, X509* issuer, int nid, const char* value) {
  X509V3_CTX context;
  X509V3_set_ctx_nodb(&context);
  X509V3_set_ctx(&context, issuer, certificate, nullptr, nullptr, 0);
  X509_EXTENSION* extension = X509V3_EXT_conf_nid(nullptr, &context, nid, value);
  if (extension == nullptr) return false;
  bool added = X509_add_ext(certificate, extension, -1) == 1;
  X509_EXTENSION_free(extension);
  return added;
}

bool set_random_serial(X509* certificate) {
  std::array<unsigned char, kSerialBytes> bytes{};
  if (RAND_bytes(bytes.data(), kSerialBytes) != 1) return false;
  // Positive, and never zero.
  bytes[0] = static_cast<unsigned char>((bytes[0] & 0x3F) | 0x40);
  BIGNUM* number = BN_bin2bn(bytes.data(), kSerialBytes, nullptr);
  bool done = number != nullptr &&
              BN_to_ASN1_INTEGER(number, X509_get_serialNumber(certificate)) != nullptr;
  BN_free(number);
  return done;
}

// What both kinds of certificate have; the caller adds extensions and signs.
Result<OpensslPtr<X509>> begin_certificate(EVP_PKEY* key, long validity_days) {
  OpensslPtr<X509> out(X509_new());
  if (!out || X509_set_version(out.get(), X509_VERSION_3) != 1 || !set_random_serial(out.get()) ||
      X509_gmtime_adj(X509_getm_notBefore(out.get()), -kClockSkewSeconds) == nullptr ||
      X509_gmtime_adj(X509_getm_notAfter(out.get()), validity_days * kDaySeconds) == nullptr ||
      X509_set_pubkey(out.get(), key) != 1)
    return fail_openssl(ErrorCode::kInternal, "fill in a certificate");
  return out;
}

Result<OpensslPtr<X509_REQ>> parse_request(const std::string& csr_pem) {
  auto bio = memory_bio(csr_pem);
  OpensslPtr<X509_REQ> request(
      bio ? PEM_read_bio_X509_REQ(bio.get(), nullptr, no_passphrase, nullptr) : nullptr);
  if (!request) return fail_openssl(ErrorCode::kInvalidArgument, "not a certificate request");
  return request;
}

Result<std::string> common_name(const X509_NAME* name) {
  int at = name == nullptr ? -1 : X509_NAME_get_index_by_NID(name, NID_commonName, -1);
  if (at < 0 || X509_NAME_get_index_by_NID(name, NID_commonName, at) >= 0)
    return fail(ErrorCode::kInvalidArgument, "the certificate's subject needs exactly one CN");
  const ASN1_STRING* text = X509_NAME_ENTRY_get_data(X509_NAME_get_entry(name, at));
  unsigned char* utf8 = nullptr;
  int size = ASN1_STRING_to_UTF8(&utf8, text);
  if (size < 0) return fail_openssl(ErrorCode::kInvalidArgument, "the CN is no text");
  std::string out(reinterpret_cast<char*>(utf8), static_cast<std::size_t>(size));
  OPENSSL_free(utf8);
  GESTALT_TRY(check_node_name(out));
  return out;
}

// The request's public key, once the request has proved itself.
Result<OpensslPtr<EVP_PKEY>> checked_request_key(X509_REQ* request, const std::string& node_name) {
  OpensslPtr<EVP_PKEY> key(X509_REQ_get_pubkey(request));
  if (!key || X509_REQ_verify(request, key.get()) != 1)
    return fail_openssl(ErrorCode::kPermission, "the certificate request's signature is wrong");
  if (!is_p256(key.get()))
    return fail(ErrorCode::kInvalidArgument, "the certificate request's key is not EC P-256");
  GESTALT_ASSIGN(auto name, common_name(X509_REQ_get_subject_name(request)));
  if (name != node_name)
    return fail(ErrorCode::kPermission,
                formatted("the certificate request is for {}, not for {}", name, node_name));
  return key;
}

}  // namespace

void OpensslFree::operator()(X509* object) const { X509_free(object); }
void OpensslFree::operator()(X509_STORE* object) const { X509_STORE_free(object); }
void OpensslFree::operator()(X509_STORE_CTX* object) const { X509_STORE_CTX_free(object); }
void OpensslFree::operator()(X509_REQ* object) const { X509_REQ_free(object); }
void OpensslFree::operator()(EVP_PKEY* object) const { EVP_PKEY_free(object); }
void OpensslFree::operator()(BIO* object) const { BIO_free(object); }

Unexpected fail_openssl(ErrorCode code, std::string message, std::string remedy) {
  std::array<char, 256> text{};
  if (unsigned long reason = ERR_get_error(); reason != 0) {
    ERR_error_string_n(reason, text.data(), text.size());
    message = formatted("{}: {}", message, text.data());
  }
  ERR_clear_error();
  return fail(code, std::move(message), std::move(remedy));
}

Result<OpensslPtr<X509>> parse_certificate(const std::string& certificate_pem) {
  auto bio = memory_bio(certificate_pem);
  OpensslPtr<X509> out(bio ? PEM_read_bio_X509(bio.get(), nullptr, no_passphrase, nullptr)
                           : nullptr);
  if (!out) return fail_openssl(ErrorCode::kInvalidArgument, "not a certificate");
  return out;
}

Result<OpensslPtr<EVP_PKEY>> parse_key(const std::string& key_pem) {
  auto bio = memory_bio(key_pem);
  OpensslPtr<EVP_PKEY> out(bio ? PEM_read_bio_PrivateKey(bio.get(), nullptr, no_passphrase, nullptr)
                               : nullptr);
  if (!out) return fail_openssl(ErrorCode::kInvalidArgument, "not a private key");
  return out;
}

Result<KeyAndCertificate> make_ca(const std::string& cluster_name) {
  GESTALT_ASSIGN(auto key, make_key());
  GESTALT_ASSIGN(auto ca, begin_certificate(key.get(), kCaValidityDays));
  X509_NAME* subject = X509_get_subject_name(ca.get());
  // X.520 bounds a CN to 64 characters.
  std::string common = formatted("{} CA", cluster_name).substr(0, 64);
  if (!set_name(subject, "O", "Gestalt") || !set_name(subject, "CN", common) ||
      X509_set_issuer_name(ca.get(), subject) != 1 ||
      !add_extension(ca.get(), ca.get(), NID_basic_constraints, "critical,CA:TRUE,pathlen:0") ||
      !add_extension(ca.get(), ca.get(), NID_key_usage, "critical,keyCertSign,cRLSign") ||
      !add_extension(ca.get(), ca.get(), NID_subject_key_identifier, "hash") ||
      X509_sign(ca.get(), key.get(), EVP_sha256()) == 0)
    return fail_openssl(ErrorCode::kInternal, "make the cluster's CA");
  KeyAndCertificate out;
  GESTALT_ASSIGN(out.key_pem, key_to_pem(key.get()));
  GESTALT_ASSIGN(out.certificate_pem, certificate_to_pem(ca.get()));
  return out;
}

Result<KeyAndRequest> make_request(const std::string& node_name) {
  GESTALT_TRY(check_node_name(node_name));
  GESTALT_ASSIGN(auto key, make_key());
  OpensslPtr<X509_REQ> request(X509_REQ_new());
  if (!request || X509_REQ_set_version(request.get(), X509_REQ_VERSION_1) != 1 ||
      !set_name(X509_REQ_get_subject_name(request.get()), "CN", node_name) ||
      X509_REQ_set_pubkey(request.get(), key.get()) != 1 ||
      X509_REQ_sign(request.get(), key.get(), EVP_sha256()) == 0)
    return fail_openssl(ErrorCode::kInternal, "make a certificate request");
  KeyAndRequest out;
  GESTALT_ASSIGN(out.key_pem, key_to_pem(key.get()));
  GESTALT_ASSIGN(out.csr_pem,
                 to_pem([&](BIO* bio) { return PEM_write_bio_X509_REQ(bio, request.get()); },
                        "a certificate request"));
  return out;
}

Result<std::string> issue_certificate(const KeyAndCertificate& ca, const std::string& csr_pem,
                                      const std::string& node_name) {
  GESTALT_TRY(check_node_name(node_name));
  GESTALT_ASSIGN(auto ca_key, parse_key(ca.key_pem));
  GESTALT_ASSIGN(auto ca_certificate, parse_certificate(ca.certificate_pem));
  if (X509_check_private_key(ca_certificate.get(), ca_key.get()) != 1)
    return fail_openssl(ErrorCode::kInvalidArgument, "the CA's key and certificate do not match");
  GESTALT_ASSIGN(auto request, parse_request(csr_pem));
  GESTALT_ASSIGN(auto key, checked_request_key(request.get(), node_name));
  GESTALT_ASSIGN(auto node, begin_certificate(key.get(), kNodeValidityDays));
  X509* out = node.get();
  X509* issuer = ca_certificate.get();
  std::string dns_name = "DNS:" + node_name;
  if (!set_name(X509_get_subject_name(out), "CN", node_name) ||
      X509_set_issuer_name(out, X509_get_subject_name(issuer)) != 1 ||
      !add_extension(out, issuer, NID_basic_constraints, "critical,CA:FALSE") ||
      !add_extension(out, issuer, NID_key_usage, "critical,digitalSignature") ||
      !add_extension(out, issuer, NID_ext_key_usage, "serverAuth,clientAuth") ||
      !add_extension(out, issuer, NID_subject_alt_name, dns_name.c_str()) ||
      !add_extension(out, issuer, NID_subject_key_identifier, "hash") ||
      !add_extension(out, issuer, NID_authority_key_identifier, "keyid:always") ||
      X509_sign(out, ca_key.get(), EVP_sha256()) == 0)
    return fail_openssl(ErrorCode::kInternal, formatted("sign {}'s certificate", node_name));
  return certificate_to_pem(out);
}

Result<std::string> fingerprint_of(const X509* certificate) {
  std::array<unsigned char, SHA256_DIGEST_LENGTH> digest{};
  unsigned int size = 0;
  if (X509_digest(certificate, EVP_sha256(), digest.data(), &size) != 1 || size != digest.size())
    return fail_openssl(ErrorCode::kInternal, "hash a certificate");
  return to_hex(std::string_view(reinterpret_cast<const char*>(digest.data()), digest.size()));
}

Result<std::string> node_name_of(const X509* certificate) {
  return common_name(X509_get_subject_name(certificate));
}

Result<std::string> certificate_fingerprint(const std::string& certificate_pem) {
  GESTALT_ASSIGN(auto certificate, parse_certificate(certificate_pem));
  return fingerprint_of(certificate.get());
}

Result<std::string> certificate_node_name(const std::string& certificate_pem) {
  GESTALT_ASSIGN(auto certificate, parse_certificate(certificate_pem));
  return node_name_of(certificate.get());
}

Result<std::int64_t> certificate_expiry_unix_seconds(const std::string& certificate_pem) {
  GESTALT_ASSIGN(auto certificate, parse_certificate(certificate_pem));
  tm when{};
  if (ASN1_TIME_to_tm(X509_get0_notAfter(certificate.get()), &when) != 1)
    return fail_openssl(ErrorCode::kInvalidArgument, "the certificate's end of validity");
  return static_cast<std::int64_t>(::timegm(&when));
}

Result<void> verify_certificate(const std::string& certificate_pem, const std::string& ca_pem) {
  GESTALT_ASSIGN(auto certificate, parse_certificate(certificate_pem));
  GESTALT_ASSIGN(auto ca, parse_certificate(ca_pem));
  OpensslPtr<X509_STORE> store(X509_STORE_new());
  OpensslPtr<X509_STORE_CTX> context(X509_STORE_CTX_new());
  if (!store || !context || X509_STORE_add_cert(store.get(), ca.get()) != 1 ||
      X509_STORE_CTX_init(context.get(), store.get(), certificate.get(), nullptr) != 1)
    return fail_openssl(ErrorCode::kInternal, "prepare to verify a certificate");
  if (X509_verify_cert(context.get()) == 1) return {};
  int reason = X509_STORE_CTX_get_error(context.get());
  ERR_clear_error();
  return fail(ErrorCode::kPermission,
              formatted("the certificate is not good: {}", X509_verify_cert_error_string(reason)));
}

std::string to_hex(std::string_view bytes) {
  static constexpr char kDigits[] = "0123456789abcdef";
  std::string out;
  out.reserve(bytes.size() * 2);
  for (char c : bytes) {
    auto byte = static_cast<unsigned char>(c);
    out += kDigits[byte >> 4];
    out += kDigits[byte & 15];
  }
  return out;
}

Result<std::string> from_hex(std::string_view hex) {
  auto digit = [](char c) {
    if (c >= '0' && c <= '9') return c - '0';
    return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
  };
  if (hex.size() % 2 != 0) return fail(ErrorCode::kInvalidArgument, "an odd number of hex digits");
  std::string out;
  for (std::size_t i = 0; i < hex.size(); i += 2) {
    int high = digit(hex[i]);
    int low = digit(hex[i + 1]);
    if (high < 0 || low < 0) return fail(ErrorCode::kInvalidArgument, "not lower-case hex digits");
    out += static_cast<char>(high * 16 + low);
  }
  return out;
}

std::string sha256_hex(std::string_view bytes) {
  std::array<unsigned char, SHA256_DIGEST_LENGTH> digest{};
  SHA256(reinterpret_cast<const unsigned char*>(bytes.data()), bytes.size(), digest.data());
  return to_hex(std::string_view(reinterpret_cast<const char*>(digest.data()), digest.size()));
}

Result<std::string> random_bytes(std::size_t count) {
  std::string out(count, '\0');
  if (RAND_bytes(reinterpret_cast<unsigned char*>(out.data()), static_cast<int>(count)) != 1)
    return fail_openssl(ErrorCode::kSystem, "read random bytes");
  return out;
}

}  // namespace gestalt
