// Packets that came for a unit while its network was held: what its peers would otherwise send
// again, after a fifth of a second at the earliest.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "common/result.h"

namespace gestalt {

using Packet = std::vector<std::byte>;  // an Ethernet frame without its checksum

inline constexpr std::size_t kMaxPacketBytes = 9216 + 14;
// Of all together, each with four bytes for its length.
inline constexpr std::size_t kMaxHeldBytes = 1U << 20;

// A frame's payload; packets beyond the limits are left out.
[[nodiscard]] std::vector<std::byte> encode_packets(const std::vector<Packet>& packets);
// kProtocol for one that makes no sense. What is in the packets is not looked at.
[[nodiscard]] Result<std::vector<Packet>> decode_packets(std::span<const std::byte> payload);

// An IPv4 packet as it was taken from a network interface of this machine may have no checksums
// yet, which hardware would have filled in. False: it is no such packet, or not whole.
[[nodiscard]] bool complete_checksum(Packet& packet);
// Where it is for, in host byte order; 0: no IPv4 packet.
[[nodiscard]] std::uint32_t destination_address(const Packet& packet);

}  // namespace gestalt
