// What CRIU does not do, where that depends on its version or our settings.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

namespace gestalt {

// CRIU carries the content of deleted files that are open, up to this (its ghost limit).
inline constexpr std::uint32_t kMaxDeletedFileBytes = 64U << 20;

// Before 4.2 CRIU asks every socket for SO_PASSCRED, which kernels from 6.16 on have for Unix
// sockets only. `version` as "4.1.1".
[[nodiscard]] bool wants_credentials_of_every_socket(std::string_view version);

// The version of the installed CRIU if it cannot save internet sockets on this kernel; empty if it
// can. Asks the kernel, and CRIU only if that matters; once in a process. Thread-safe.
[[nodiscard]] const std::string& criu_without_internet_sockets();

}  // namespace gestalt
