// Errors as values. See docs/errors.md.
#pragma once

#include <expected>
#include <string>
#include <string_view>
#include <utility>

namespace gestalt {

// What kind of failure it was; decides the exit code and whether trying again helps.
// The numbers are those of wire::ErrorCode (common/proto/control.proto).
enum class ErrorCode {
  kInternal = 1,
  kInvalidArgument = 2,
  kNotFound = 3,
  kPermission = 4,
  kUnavailable = 5,
  kTimeout = 6,
  kBlocked = 7,
  kBusy = 8,
  kNoSpace = 9,
  kProtocol = 10,
  kSystem = 11,
  kGone = 12,
  kExecNotFound = 13,
  kExecDenied = 14,
};

// An error says what was being done, on what, why it failed (`message`), and what
// can be done about it (`remedy`, may be empty).
struct Error {
  ErrorCode code = ErrorCode::kInternal;
  std::string message;
  std::string remedy;

  // The error with "context: " put before its message.
  [[nodiscard]] Error in(std::string_view context) &&;
  // "message (remedy)" for logs and terminals.
  [[nodiscard]] std::string text() const;
};

template <class T = void>
using Result = std::expected<T, Error>;

using Unexpected = std::unexpected<Error>;

[[nodiscard]] Unexpected fail(ErrorCode code, std::string message, std::string remedy = {});

// An error from errno, the one place where errno becomes a code:
// "message: No space left on device".
[[nodiscard]] Unexpected fail_errno(int error_number, std::string message, std::string remedy = {});
[[nodiscard]] ErrorCode code_from_errno(int error_number);

}  // namespace gestalt

// Hands an error on to the caller; the value, if any, is dropped. The names are counted,
// so that an expression may hold a lambda that uses these macros itself.
#define GESTALT_CONCAT_(a, b) a##b
#define GESTALT_CONCAT(a, b) GESTALT_CONCAT_(a, b)
#define GESTALT_TRY_(temporary, expression)                     \
  do {                                                          \
    if (auto temporary = (expression); !temporary)              \
      return ::std::unexpected(::std::move(temporary).error()); \
  } while (false)
#define GESTALT_TRY(expression) GESTALT_TRY_(GESTALT_CONCAT(gestalt_try_, __COUNTER__), expression)

#define GESTALT_ASSIGN_(temporary, target, expression)                      \
  auto temporary = (expression);                                            \
  if (!temporary) return ::std::unexpected(::std::move(temporary).error()); \
  target = ::std::move(*temporary)

// `GESTALT_ASSIGN(auto fd, open_file(path));` declares or assigns, or hands the error on.
#define GESTALT_ASSIGN(target, expression) \
  GESTALT_ASSIGN_(GESTALT_CONCAT(gestalt_assign_, __COUNTER__), target, expression)
