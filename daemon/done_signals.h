// Signals of ghosts that were delivered here, or are being: the leader asks again when it has
// no answer, also after its restart. docs/ghosts.md.
#pragma once

#include <cstdint>
#include <deque>
#include <map>
#include <utility>

namespace gestalt {

class DoneSignals {
 public:
  using Name = std::pair<std::uint64_t, std::uint64_t>;  // its keeper, its sequence
  enum class State : std::uint8_t { kNew, kBegun, kDone };

  // What it was until now; one that was new has begun.
  State begin(Name name) {
    auto [found, is_new] = states_.try_emplace(name, State::kBegun);
    return is_new ? State::kNew : found->second;
  }
  void end(Name name, bool done) {
    if (!done) {
      states_.erase(name);
      return;
    }
    states_[name] = State::kDone;
    order_.push_back(name);
    if (order_.size() <= kKept) return;
    states_.erase(order_.front());
    order_.pop_front();
  }

 private:
  // More than can be on their way to one node when a leader goes.
  static constexpr std::size_t kKept = 65'536;
  std::map<Name, State> states_;
  std::deque<Name> order_;
};

}  // namespace gestalt
