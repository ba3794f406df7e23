#include "daemon/round_pacer.h"

#include <algorithm>

namespace gestalt {

bool RoundPacer::note(Clock::time_point now) {
  if (happened_) return false;
  auto before = next();
  happened_ = now;
  return next() < before;
}

void RoundPacer::begin(Clock::time_point now) {
  begun_ = now;
  happened_.reset();
}

void RoundPacer::end(Clock::time_point now) { ended_ = now; }

// The period counts from begin to begin; a round that took longer is followed at once.
Clock::time_point RoundPacer::next() const {
  auto regular = std::max(begun_ + period_, ended_);
  if (!happened_) return regular;
  auto rest = std::max<Clock::duration>(kRoundRest, kRoundRestFactor * (ended_ - begun_));
  return std::min(regular, std::max(*happened_ + kRoundDelay, ended_ + rest));
}

}  // namespace gestalt
