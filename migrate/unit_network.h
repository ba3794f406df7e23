// A network namespace that a unit has to itself, whose address moves with it. Never are two copies
// of the unit connected: what comes while it moves must be lost, so that its peers send it again,
// and not be acknowledged by a copy that nobody will run.
#pragma once

#include <vector>

#include "common/result.h"
#include "migrate/held_packets.h"

namespace gestalt {

// What CRIU's images call it.
inline constexpr const char* kUnitNetworkKey = "unit-network";

class UnitNetwork {
 public:
  virtual ~UnitNetwork() = default;
  // The namespace.
  [[nodiscard]] virtual int descriptor() const = 0;
  // Nothing goes in or out any more, and nobody hears why. Takes well below a millisecond.
  [[nodiscard]] virtual Result<void> hold() = 0;
  // What has come since then, as far as there was room for it.
  [[nodiscard]] virtual std::vector<Packet> held() = 0;
  // To be held first: the unit's connections can be restored here.
  [[nodiscard]] virtual Result<void> prepare() = 0;
  // From now on the address is here, and the network is told so.
  [[nodiscard]] virtual Result<void> connect() = 0;
  // As if they came only now. What is not for this network is left out.
  virtual void deliver(std::vector<Packet> packets) = 0;
  // The address is not here any more. Some milliseconds.
  [[nodiscard]] virtual Result<void> disconnect() = 0;
};

}  // namespace gestalt
