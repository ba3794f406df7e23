// Holds known values in the processor's registers for a while, and looks whether they
// are still there. The values live nowhere else meanwhile.
#pragma once

#include <cstdint>

namespace victim {

// Spins for about `iterations` instructions with `seed`'s pattern in the general, x87,
// SSE and, where there are any, AVX and AVX-512 registers. Returns what differed
// (a static text), or nullptr.
[[nodiscard]] const char* hold_registers(std::uint64_t seed, std::uint64_t iterations);

// Which kinds were held: "sse", "avx" or "avx512".
[[nodiscard]] const char* vector_kind();

}  // namespace victim
