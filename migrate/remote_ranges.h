// Memory of the source's processes that a destination may read by RDMA, with no help from the
// source's processor.
#pragma once

#include <cstdint>

namespace gestalt {

// [start, end) of process `pid`, whole pages, as the process itself addresses it; `end - start`
// bytes from `remote_address` on are its memory to whoever reads with `rkey`.
struct RemoteRange {
  std::uint32_t pid = 0;
  std::uint64_t start = 0;
  std::uint64_t end = 0;
  std::uint64_t remote_address = 0;
  std::uint32_t rkey = 0;

  friend bool operator==(const RemoteRange&, const RemoteRange&) = default;
};

}  // namespace gestalt
