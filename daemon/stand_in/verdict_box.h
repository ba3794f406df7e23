// Where the leader's verdict about a migration waits for the engine's thread.
#pragma once

#include <condition_variable>
#include <mutex>
#include <optional>

#include "common/clock.h"
#include "common/proto/control.pb.h"
#include "migrate/verdict.h"

namespace gestalt {

class VerdictBox {
 public:
  // A final verdict is never replaced: the leader may repeat older ones.
  void put(Verdict verdict) {
    std::lock_guard lock(mutex_);
    if (!is_final(verdict_)) verdict_ = verdict;
    changed_.notify_all();
  }
  // The verdict once it is other than undecided; nothing by the deadline.
  std::optional<Verdict> await_decision(Deadline deadline) {
    return await(deadline, [](Verdict verdict) { return verdict != Verdict::kUndecided; });
  }
  // The verdict once nothing can follow it.
  std::optional<Verdict> await_final(Deadline deadline) { return await(deadline, is_final); }

 private:
  static bool is_final(Verdict verdict) {
    return verdict != Verdict::kUndecided && verdict != Verdict::kGranted;
  }
  template <class Predicate>
  std::optional<Verdict> await(Deadline deadline, Predicate wanted) {
    std::unique_lock lock(mutex_);
    if (deadline == Deadline::max()) {
      changed_.wait(lock, [&] { return wanted(verdict_); });
    } else if (!changed_.wait_until(lock, deadline, [&] { return wanted(verdict_); })) {
      return std::nullopt;
    }
    return verdict_;
  }

  std::mutex mutex_;
  std::condition_variable changed_;
  Verdict verdict_ = Verdict::kUndecided;
};

[[nodiscard]] inline Verdict from_wire(wire::MigrationVerdict::Verdict verdict) {
  switch (verdict) {
    case wire::MigrationVerdict::GRANTED:
      return Verdict::kGranted;
    case wire::MigrationVerdict::DENIED:
      return Verdict::kDenied;
    case wire::MigrationVerdict::COMPLETED:
      return Verdict::kCompleted;
    case wire::MigrationVerdict::ROLLED_BACK:
      return Verdict::kRolledBack;
    default:
      return Verdict::kUndecided;
  }
}

}  // namespace gestalt
