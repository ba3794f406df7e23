#include "common/result.h"

#include <gtest/gtest.h>

#include <cerrno>
#include <memory>

namespace gestalt {
namespace {

Result<int> half(int value) {
  if (value % 2 != 0) return fail(ErrorCode::kInvalidArgument, "odd", "give an even number");
  return value / 2;
}

Result<int> quarter(int value) {
  GESTALT_ASSIGN(int once, half(value));
  GESTALT_ASSIGN(once, half(once));
  return once;
}

Result<void> both_even(int a, int b) {
  GESTALT_TRY(half(a));
  GESTALT_TRY(half(b));
  return {};
}

TEST(Result, HandsValuesAndErrorsOn) {
  EXPECT_EQ(quarter(12), 3);
  EXPECT_EQ(quarter(6).error().message, "odd");
  EXPECT_TRUE(both_even(2, 4));
  EXPECT_FALSE(both_even(2, 3));
}

TEST(Result, MovesWhatCannotBeCopied) {
  auto make = []() -> Result<std::unique_ptr<int>> { return std::make_unique<int>(5); };
  auto use = [&]() -> Result<int> {
    GESTALT_ASSIGN(auto owned, make());
    return *owned;
  };
  EXPECT_EQ(use(), 5);
}

TEST(Result, MacrosNest) {
  auto run = []() -> Result<void> {
    GESTALT_TRY([]() -> Result<void> {
      GESTALT_TRY(half(2));
      GESTALT_ASSIGN(int value, half(4));
      return value == 2 ? Result<void>{} : fail(ErrorCode::kInternal, "wrong");
    }());
    return {};
  };
  EXPECT_TRUE(run());
}

TEST(Result, MacroIsOneStatement) {
  auto run = [](bool checked, int value) -> Result<void> {
    if (checked)
      GESTALT_TRY(half(value));
    else
      return fail(ErrorCode::kInternal, "unchecked");
    return {};
  };
  EXPECT_TRUE(run(true, 2));
  EXPECT_EQ(run(true, 1).error().code, ErrorCode::kInvalidArgument);
  EXPECT_EQ(run(false, 2).error().code, ErrorCode::kInternal);
}

TEST(Error, Text) {
  Error error = half(1).error();
  EXPECT_EQ(error.text(), "odd (give an even number)");
  EXPECT_EQ(std::move(error).in("halve 1").text(), "halve 1: odd (give an even number)");
  EXPECT_EQ((Error{ErrorCode::kGone, "gone", ""}).text(), "gone");
}

TEST(Error, FromErrno) {
  auto failed = fail_errno(ENOSPC, "write /x", "free space");
  EXPECT_EQ(failed.error().code, ErrorCode::kNoSpace);
  EXPECT_EQ(failed.error().message, "write /x: No space left on device");
  EXPECT_EQ(failed.error().remedy, "free space");
  EXPECT_EQ(code_from_errno(EACCES), ErrorCode::kPermission);
  EXPECT_EQ(code_from_errno(ENOENT), ErrorCode::kNotFound);
  EXPECT_EQ(code_from_errno(ESRCH), ErrorCode::kGone);
  EXPECT_EQ(code_from_errno(ECONNREFUSED), ErrorCode::kUnavailable);
  EXPECT_EQ(code_from_errno(ETIMEDOUT), ErrorCode::kTimeout);
  EXPECT_EQ(code_from_errno(EEXIST), ErrorCode::kBusy);
  EXPECT_EQ(code_from_errno(EIO), ErrorCode::kSystem);
  // A number that no kernel gives still makes a message.
  EXPECT_NE(fail_errno(99999, "x").error().message.find("99999"), std::string::npos);
}

}  // namespace
}  // namespace gestalt
