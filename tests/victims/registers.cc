#include "registers.h"

#include <immintrin.h>

#include <array>
#include <cstring>

#include "victim.h"

namespace victim {
namespace {

// Eight registers of up to 64 bytes each.
struct alignas(64) Vectors {
  std::array<std::array<std::uint64_t, 8>, 8> words{};
};

Vectors pattern(std::uint64_t seed) {
  Vectors vectors;
  std::uint64_t n = 0;
  for (auto& vector : vectors.words)
    for (std::uint64_t& word : vector) word = mix(seed + ++n);
  return vectors;
}

bool equal(const Vectors& a, const Vectors& b, std::size_t bytes) {
  for (std::size_t i = 0; i < a.words.size(); ++i)
    if (std::memcmp(a.words[i].data(), b.words[i].data(), bytes) != 0) return false;
  return true;
}

#define LOAD_ALL(load, reg)                                                                        \
  load " 0(%[in]), %%" reg "0\n\t" load " 64(%[in]), %%" reg "1\n\t" load " 128(%[in]), %%" reg    \
       "2\n\t" load " 192(%[in]), %%" reg "3\n\t" load " 256(%[in]), %%" reg "4\n\t" load          \
       " 320(%[in]), %%" reg "5\n\t" load " 384(%[in]), %%" reg "6\n\t" load " 448(%[in]), %%" reg \
       "7\n\t"
#define STORE_ALL(store, reg)                                                            \
  store " %%" reg "0, 0(%[out])\n\t" store " %%" reg "1, 64(%[out])\n\t" store " %%" reg \
        "2, 128(%[out])\n\t" store " %%" reg "3, 192(%[out])\n\t" store " %%" reg        \
        "4, 256(%[out])\n\t" store " %%" reg "5, 320(%[out])\n\t" store " %%" reg        \
        "6, 384(%[out])\n\t" store " %%" reg "7, 448(%[out])\n\t"
#define SPIN "1: dec %[left]\n\tjnz 1b\n\t"
#define VECTOR_CLOBBERS \
  "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", "memory", "cc"

void hold_sse(const Vectors& in, Vectors& out, std::uint64_t left) {
  asm volatile(LOAD_ALL("movaps", "xmm") SPIN STORE_ALL("movaps", "xmm")
               : [left] "+r"(left)
               : [in] "r"(&in), [out] "r"(&out)
               : VECTOR_CLOBBERS);
}

__attribute__((target("avx"))) void hold_avx(const Vectors& in, Vectors& out, std::uint64_t left) {
  asm volatile(LOAD_ALL("vmovaps", "ymm") SPIN STORE_ALL("vmovaps", "ymm") "vzeroupper\n\t"
               : [left] "+r"(left)
               : [in] "r"(&in), [out] "r"(&out)
               : VECTOR_CLOBBERS);
}

__attribute__((target("avx512f"))) void hold_avx512(const Vectors& in, Vectors& out,
                                                    std::uint64_t left) {
  asm volatile(LOAD_ALL("vmovaps", "zmm") SPIN STORE_ALL("vmovaps", "zmm") "vzeroupper\n\t"
               : [left] "+r"(left)
               : [in] "r"(&in), [out] "r"(&out)
               : VECTOR_CLOBBERS);
}

enum class Kind { kSse, kAvx, kAvx512 };

Kind kind() {
  static const Kind found = __builtin_cpu_supports("avx512f") ? Kind::kAvx512
                            : __builtin_cpu_supports("avx")   ? Kind::kAvx
                                                              : Kind::kSse;
  return found;
}

const char* hold_vectors(std::uint64_t seed, std::uint64_t iterations) {
  Vectors in = pattern(seed);
  Vectors out;
  switch (kind()) {
    case Kind::kSse:
      hold_sse(in, out, iterations);
      return equal(in, out, 16) ? nullptr : "an SSE register";
    case Kind::kAvx:
      hold_avx(in, out, iterations);
      return equal(in, out, 32) ? nullptr : "an AVX register";
    case Kind::kAvx512:
      hold_avx512(in, out, iterations);
      return equal(in, out, 64) ? nullptr : "an AVX-512 register";
  }
  return nullptr;
}

const char* hold_general(std::uint64_t seed, std::uint64_t iterations) {
  std::array<std::uint64_t, 8> in{};
  std::array<std::uint64_t, 8> out{};
  for (std::size_t i = 0; i < in.size(); ++i) in[i] = mix(seed ^ (i + 100));
  asm volatile(
      "mov 0(%[in]), %%r8\n\tmov 8(%[in]), %%r9\n\tmov 16(%[in]), %%r10\n\t"
      "mov 24(%[in]), %%r11\n\tmov 32(%[in]), %%r12\n\tmov 40(%[in]), %%r13\n\t"
      "mov 48(%[in]), %%r14\n\tmov 56(%[in]), %%r15\n\t" SPIN
      "mov %%r8, 0(%[out])\n\tmov %%r9, 8(%[out])\n\tmov %%r10, 16(%[out])\n\t"
      "mov %%r11, 24(%[out])\n\tmov %%r12, 32(%[out])\n\tmov %%r13, 40(%[out])\n\t"
      "mov %%r14, 48(%[out])\n\tmov %%r15, 56(%[out])\n\t"
      : [left] "+r"(iterations)
      : [in] "r"(in.data()), [out] "r"(out.data())
      : "r8", "r9", "r10", "r11", "r12", "r13", "r14", "r15", "memory", "cc");
  return in == out ? nullptr : "a general register";
}

// Three values on the x87 stack, and control words that are not the defaults.
const char* hold_x87(std::uint64_t seed, std::uint64_t iterations) {
  const double value = static_cast<double>(seed % 1'000'003) + 0.125;
  double first = 0;
  double second = 0;
  double third = 0;
  const std::uint16_t control = 0x077f;  // round down
  std::uint16_t default_control = 0;
  std::uint16_t control_after = 0;
  asm volatile(
      "fnstcw %[saved]\n\tfldcw %[control]\n\tfldl %[value]\n\tfld1\n\tfldpi\n\t" SPIN
      "fstpl %[third]\n\tfstpl %[second]\n\tfstpl %[first]\n\tfnstcw %[after]\n\tfldcw %[saved]\n\t"
      : [left] "+r"(iterations), [first] "=m"(first), [second] "=m"(second), [third] "=m"(third),
        [saved] "=m"(default_control), [after] "=m"(control_after)
      : [value] "m"(value), [control] "m"(control)
      : "st", "st(1)", "st(2)", "st(3)", "st(4)", "st(5)", "st(6)", "st(7)", "memory", "cc");
  if (control_after != control) return "the x87 control word";
  // Round-down makes the stored pi the double just below, or the nearest.
  bool good = first == value && second == 1.0 && third > 3.1415926 && third < 3.1415927;
  return good ? nullptr : "an x87 register";
}

const char* hold_mxcsr(std::uint64_t iterations) {
  const unsigned before = _mm_getcsr();
  const unsigned wanted = (before & ~0x6000U) | 0x4000U;  // round up
  _mm_setcsr(wanted);
  asm volatile(SPIN : [left] "+r"(iterations) : : "memory", "cc");
  const unsigned after = _mm_getcsr();
  _mm_setcsr(before);
  return (after & 0x6000U) == 0x4000U ? nullptr : "MXCSR";
}

}  // namespace

const char* hold_registers(std::uint64_t seed, std::uint64_t iterations) {
  if (const char* what = hold_vectors(seed, iterations / 2)) return what;
  if (const char* what = hold_general(seed, iterations / 4)) return what;
  if (const char* what = hold_x87(seed, iterations / 8)) return what;
  return hold_mxcsr(iterations / 8);
}

const char* vector_kind() {
  switch (kind()) {
    case Kind::kSse:
      return "sse";
    case Kind::kAvx:
      return "avx";
    case Kind::kAvx512:
      return "avx512";
  }
  return "";
}

}  // namespace victim
