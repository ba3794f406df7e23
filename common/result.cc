#include "common/result.h"

#include <cerrno>
#include <cstring>

#include "common/format.h"

namespace gestalt {

Error Error::in(std::string_view context) && {
  message = formatted("{}: {}", context, message);
  return std::move(*this);
}

std::string Error::text() const {
  return remedy.empty() ? message : formatted("{} ({})", message, remedy);
}

Unexpected fail(ErrorCode code, std::string message, std::string remedy) {
  return Unexpected(Error{code, std::move(message), std::move(remedy)});
}

ErrorCode code_from_errno(int error_number) {
  switch (error_number) {
    case EPERM:
    case EACCES:
      return ErrorCode::kPermission;
    case ENOENT:
      return ErrorCode::kNotFound;
    case ESRCH:
    case ECHILD:
      return ErrorCode::kGone;
    case ENOSPC:
    case EDQUOT:
    case EFBIG:
      return ErrorCode::kNoSpace;
    case ETIMEDOUT:
      return ErrorCode::kTimeout;
    case ECONNREFUSED:
    case ECONNRESET:
    case ECONNABORTED:
    case EPIPE:
    case EHOSTUNREACH:
    case ENETUNREACH:
    case EHOSTDOWN:
    case ENETDOWN:
    case ENOTCONN:
      return ErrorCode::kUnavailable;
    case EINVAL:
      return ErrorCode::kInvalidArgument;
    case EBUSY:
    case EEXIST:
      return ErrorCode::kBusy;
    default:
      return ErrorCode::kSystem;
  }
}

Unexpected fail_errno(int error_number, std::string message, std::string remedy) {
  char buffer[128];
  return fail(code_from_errno(error_number),
              formatted("{}: {}", message, ::strerror_r(error_number, buffer, sizeof buffer)),
              std::move(remedy));
}

}  // namespace gestalt
