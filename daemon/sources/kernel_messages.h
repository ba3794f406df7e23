// Netlink messages that the kernel sends to many. Lengths are the sender's word, and are not
// trusted, whoever it is.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <functional>
#include <optional>
#include <span>

#include "common/result.h"

namespace gestalt {

using Bytes = std::span<const std::byte>;

// What one read of a netlink socket gave. kOther: a message of somebody who is not the kernel.
struct Datagram {
  enum class What { kNothing, kMessages, kOther, kLost };
  What what = What::kNothing;
  Bytes bytes = {};  // in the buffer
};

// Room for what comes while the reader does something else.
inline constexpr int kReceiveBytes = 1 << 20;
void make_room(int socket);

// Does not wait. Messages that did not fit count as lost.
[[nodiscard]] Result<Datagram> receive_from_kernel(int socket, std::span<std::byte> buffer);
// All that is there, but no more than so many reads. Whether something was lost.
[[nodiscard]] Result<bool> receive_all_from_kernel(int socket, std::span<std::byte> buffer,
                                                   int most,
                                                   const std::function<void(Bytes)>& each);

// Each message's, or attribute's, type and content. False: a length is wrong; what came before
// has been given.
using OnPart = std::function<void(std::uint16_t type, Bytes content)>;
[[nodiscard]] bool for_each_message(Bytes datagram, const OnPart& each);
[[nodiscard]] bool for_each_attribute(Bytes attributes, const OnPart& each);

// Copied, as nothing is aligned. Nothing: it is shorter than `least` bytes. What is not there of
// the rest is zero.
template <class Struct>
[[nodiscard]] std::optional<Struct> copy_of(Bytes bytes, std::size_t least = sizeof(Struct)) {
  if (bytes.size() < least) return std::nullopt;
  Struct out{};
  std::memcpy(&out, bytes.data(), std::min(sizeof out, bytes.size()));
  return out;
}

}  // namespace gestalt
