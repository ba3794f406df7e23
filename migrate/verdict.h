// The leader's decision about a migration. It alone decides, durably, which of the two
// copies lives; both ends obey.
#pragma once

namespace gestalt {

enum class Verdict {
  kUndecided,
  kGranted,     // the destination may resume
  kDenied,      // the source goes on
  kCompleted,   // the destination runs: the source ends its copy
  kRolledBack,  // granted, but the destination failed: the source goes on
};

}  // namespace gestalt
