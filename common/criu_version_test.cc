#include "common/criu_version.h"

#include <gtest/gtest.h>
#include <sys/wait.h>

#include <cerrno>
#include <regex>

namespace gestalt {
namespace {

TEST(CriuVersion, OfTheOneThatIsInstalled) {
  auto version = criu_version(deadline_in(std::chrono::seconds(20)));
  ASSERT_TRUE(version) << version.error().text();
  EXPECT_TRUE(std::regex_match(*version, std::regex("[0-9]+(\\.[0-9]+)+"))) << *version;
}

TEST(CriuVersion, TooLateLeavesNoChild) {
  auto version = criu_version(Clock::now());
  // It may have been quick.
  if (!version) {
    EXPECT_EQ(version.error().code, ErrorCode::kTimeout);
  }
  EXPECT_EQ(::waitpid(-1, nullptr, WNOHANG), -1);
  EXPECT_EQ(errno, ECHILD);
}

}  // namespace
}  // namespace gestalt
