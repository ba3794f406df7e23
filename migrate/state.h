// The states of a migration. docs/migration.md draws them. A state changes only by
// compare-exchange, and each change is traced.
#pragma once

#include <atomic>
#include <cstdint>
#include <string_view>

namespace gestalt {

enum class SourceState {
  kStarting,
  kConnecting,
  kPreflight,
  kPrecopy,  // rounds, while the processes run
  kDumping,  // CRIU holds the processes: the freeze time runs
  kFrozen,   // the control group holds them; CRIU is done
  kSendingState,
  kAwaitingReady,  // pages go out as they are asked for
  kAsking,         // the leader decides
  kGranted,        // the destination may run; the source waits, frozen
  kServing,        // completed: the frozen copy is a store of pages
  kDestroying,     // completed: the source's copy is ended
  kCompleted,
  kRolledBack,  // failed or denied: the source's copy runs
};

enum class DestinationState {
  kStarting,
  kListening,
  kReceivingState,
  kRestoring,
  kFetching,  // restored, and all pages must be here before it runs
  kReady,     // restored, not running
  kResumed,   // runs, but frozen again unless confirmed in time
  kPaging,    // confirmed; pages are still at the source
  kCompleted,
  kRolledBack,  // nothing of the process is left here
};

[[nodiscard]] std::string_view name_of(SourceState state);
[[nodiscard]] std::string_view name_of(DestinationState state);

// Thread-safe. A change from another state than the expected one aborts the program:
// it would be a bug that could run a process twice or lose it.
template <class State>
class StateMachine {
 public:
  explicit StateMachine(std::uint64_t migration_id) : migration_id_(migration_id) {}
  void change(State from, State to);
  // From any state, for the two ends.
  void finish(State to);
  [[nodiscard]] State get() const { return state_.load(); }

 private:
  void trace(State from, State to) const;
  std::uint64_t migration_id_;
  std::atomic<State> state_ = State::kStarting;
};

extern template class StateMachine<SourceState>;
extern template class StateMachine<DestinationState>;

}  // namespace gestalt
