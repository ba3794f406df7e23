#pragma once

#include <cstdint>

namespace gestalt {

// CRIU carries the content of deleted files that are open, up to this (its ghost limit).
inline constexpr std::uint32_t kMaxDeletedFileBytes = 64U << 20;

}  // namespace gestalt
