#include "migrate/state.h"

#include <cstdlib>

#include "common/log.h"

namespace gestalt {

std::string_view name_of(SourceState state) {
  switch (state) {
    case SourceState::kStarting:
      return "starting";
    case SourceState::kConnecting:
      return "connecting";
    case SourceState::kPreflight:
      return "preflight";
    case SourceState::kPrecopy:
      return "pre-copy";
    case SourceState::kDumping:
      return "dumping";
    case SourceState::kFrozen:
      return "frozen";
    case SourceState::kSendingState:
      return "sending-state";
    case SourceState::kAwaitingReady:
      return "awaiting-ready";
    case SourceState::kAsking:
      return "asking";
    case SourceState::kGranted:
      return "granted";
    case SourceState::kServing:
      return "serving";
    case SourceState::kDestroying:
      return "destroying";
    case SourceState::kCompleted:
      return "completed";
    case SourceState::kRolledBack:
      return "rolled-back";
  }
  return "?";
}

std::string_view name_of(DestinationState state) {
  switch (state) {
    case DestinationState::kStarting:
      return "starting";
    case DestinationState::kListening:
      return "listening";
    case DestinationState::kReceivingState:
      return "receiving-state";
    case DestinationState::kRestoring:
      return "restoring";
    case DestinationState::kFetching:
      return "fetching";
    case DestinationState::kReady:
      return "ready";
    case DestinationState::kResumed:
      return "resumed";
    case DestinationState::kPaging:
      return "paging";
    case DestinationState::kCompleted:
      return "completed";
    case DestinationState::kRolledBack:
      return "rolled-back";
  }
  return "?";
}

template <class State>
void StateMachine<State>::trace(State from, State to) const {
  log::debug("migration state", log::field("migration", migration_id_),
             log::field("from", name_of(from)), log::field("to", name_of(to)));
}

template <class State>
void StateMachine<State>::change(State from, State to) {
  State expected = from;
  if (!state_.compare_exchange_strong(expected, to)) {
    log::error("impossible change of a migration's state", log::field("migration", migration_id_),
               log::field("is", name_of(expected)), log::field("expected", name_of(from)),
               log::field("to", name_of(to)));
    std::abort();
  }
  trace(from, to);
}

template <class State>
void StateMachine<State>::finish(State to) {
  trace(state_.exchange(to), to);
}

template class StateMachine<SourceState>;
template class StateMachine<DestinationState>;

}  // namespace gestalt
