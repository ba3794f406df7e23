#include "cli/exit_codes.h"

namespace gestalt::cli {

int command_exit_code(ErrorCode code) {
  switch (code) {
    case ErrorCode::kInvalidArgument:
      return kExitUsage;
    case ErrorCode::kNotFound:
    case ErrorCode::kGone:
      return kExitNotFound;
    case ErrorCode::kPermission:
      return kExitPermission;
    case ErrorCode::kBlocked:
      return kExitBlocked;
    case ErrorCode::kUnavailable:
    case ErrorCode::kTimeout:
    case ErrorCode::kBusy:
      return kExitUnavailable;
    case ErrorCode::kInternal:
    case ErrorCode::kNoSpace:
    case ErrorCode::kProtocol:
    case ErrorCode::kSystem:
    case ErrorCode::kExecNotFound:
    case ErrorCode::kExecDenied:
      return kExitFailed;
  }
  return kExitFailed;
}

int run_exit_code(ErrorCode code) {
  switch (code) {
    case ErrorCode::kExecNotFound:
      return kExitCommandNotFound;
    case ErrorCode::kExecDenied:
      return kExitCannotExecute;
    default:
      return kExitGestalt;
  }
}

}  // namespace gestalt::cli
