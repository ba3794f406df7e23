#include "daemon/join_token.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include "common/fd.h"

namespace gestalt {
namespace {

const std::string kCa(64, 'a');
const std::string kSecret(64, '5');

TEST(JoinToken, RoundTrip) {
  auto token = make_join_token(kCa);
  ASSERT_TRUE(token);
  EXPECT_EQ(token->ca_sha256, kCa);
  auto again = parse_join_token("  " + format_join_token(*token) + "\n");
  ASSERT_TRUE(again) << again.error().text();
  EXPECT_EQ(again->ca_sha256, token->ca_sha256);
  EXPECT_EQ(again->secret_hex, token->secret_hex);
  EXPECT_NE(make_join_token(kCa)->secret_hex, token->secret_hex);
  EXPECT_FALSE(make_join_token("short"));
}

TEST(JoinToken, RefusesAndDoesNotTell) {
  std::string good = "gestalt1." + kCa + "." + kSecret;
  ASSERT_TRUE(parse_join_token(good));
  for (const std::string& bad :
       {std::string(), std::string(" \n"), std::string("gestalt1"), "gestalt2" + good.substr(8),
        good + "0", good.substr(0, good.size() - 1), good + "." + kSecret,
        "gestalt1." + std::string(64, 'A') + "." + kSecret, "gestalt1." + kCa + "x" + kSecret,
        "gestalt1." + kCa + "." + std::string(64, 'g'), good + std::string(1, '\0'),
        "gestalt1." + kCa + "." + kSecret.substr(1) + " "}) {
    auto token = parse_join_token(bad);
    ASSERT_FALSE(token) << bad;
    EXPECT_EQ(token.error().text().find("5555"), std::string::npos);
    EXPECT_FALSE(token.error().remedy.empty());
  }
}

TEST(JoinToken, SecretAgainstItsHash) {
  auto hash = join_secret_hash(kSecret);
  EXPECT_EQ(hash.size(), 64U);
  EXPECT_TRUE(join_secret_matches(kSecret, hash));
  EXPECT_FALSE(join_secret_matches(kCa, hash));
  EXPECT_FALSE(join_secret_matches("", hash));
  EXPECT_FALSE(join_secret_matches(hash, hash));
  EXPECT_FALSE(join_secret_matches(kSecret, ""));
  EXPECT_FALSE(join_secret_matches("", ""));
  EXPECT_FALSE(join_secret_matches(kSecret, hash.substr(1)));
  EXPECT_FALSE(join_secret_matches(std::string(1 << 20, '\0'), hash));
}

TEST(JoinToken, File) {
  std::string path = testing::TempDir() + "/gestalt-token-" + std::to_string(::getpid());
  EXPECT_EQ(load_join_token(path).error().code, ErrorCode::kNotFound);
  ASSERT_TRUE(replace_file(path, "gestalt1." + kCa + "." + kSecret + "\n", 0600));
  EXPECT_EQ(load_join_token(path)->secret_hex, kSecret);
  ASSERT_TRUE(replace_file(path, "gestalt1.", 0600));
  EXPECT_NE(load_join_token(path).error().message.find(path), std::string::npos);
  ::unlink(path.c_str());
}

}  // namespace
}  // namespace gestalt
