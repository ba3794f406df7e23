// Pages that know what they are: each carries an index, a generation, the address at
// which it was written and a checksum over its body, and every word of the body follows
// from these. So a page that is lost, old, doubled or in the wrong place is told from the
// right one. A victim keeps the generations a second time, elsewhere.
#pragma once

#include <sys/mman.h>

#include <algorithm>
#include <array>
#include <span>

#include "victim.h"

namespace victim {

inline constexpr std::size_t kPageBytes = 4096;
inline constexpr std::size_t kHugePageBytes = 2U << 20;
inline constexpr std::size_t kBodyWords = kPageBytes / 8 - 4;

struct Page {
  std::uint64_t index;
  std::uint64_t generation;
  std::uint64_t checksum;
  std::uint64_t address;  // catches a page that was put in the wrong place
  std::array<std::uint64_t, kBodyWords> body;
};
static_assert(sizeof(Page) == kPageBytes);

inline std::uint64_t address_of(const void* place) {
  return reinterpret_cast<std::uint64_t>(place);
}

inline void* map(std::size_t bytes, int protection, int flags, int fd = -1) {
  void* address = ::mmap(nullptr, bytes, protection, flags, fd, 0);
  if (address == MAP_FAILED) bad("mmap of {} bytes: {}", bytes, std::strerror(errno));
  return address;
}

inline std::span<Page> map_pages(std::size_t pages, int flags = MAP_PRIVATE | MAP_ANONYMOUS) {
  return {static_cast<Page*>(map(pages * kPageBytes, PROT_READ | PROT_WRITE, flags)), pages};
}

inline void fill(Page& page, std::uint64_t index, std::uint64_t generation) {
  page.index = index;
  page.generation = generation;
  page.address = address_of(&page);
  std::uint64_t value = mix(index << 20 ^ generation);
  std::uint64_t sum = 0;
  for (std::uint64_t& word : page.body) {
    word = value;
    sum = (sum << 7 | sum >> 57) ^ value;
    value = value * 6364136223846793005 + 1442695040888963407;
  }
  page.checksum = sum;
}

// `address`: where it was written, for a page that has been moved with its mapping.
inline void verify(const Page& page, std::uint64_t index, std::uint64_t generation,
                   const char* what, std::uint64_t address = 0) {
  if (address == 0) address = address_of(&page);
  check(page.index == index, "{} page {} has index {}", what, index, page.index);
  check(page.generation == generation, "{} page {} is of generation {}, not {}", what, index,
        page.generation, generation);
  check(page.address == address, "{} page {} moved", what, index);
  std::uint64_t value = mix(index << 20 ^ generation);
  std::uint64_t sum = 0;
  for (std::uint64_t word : page.body) {
    check(word == value, "{} page {} generation {}: a word differs", what, index, generation);
    sum = (sum << 7 | sum >> 57) ^ word;
    value = value * 6364136223846793005 + 1442695040888963407;
  }
  check(sum == page.checksum, "{} page {}: checksum differs", what, index);
}

inline void verify_zero(const Page& page, std::uint64_t index, const char* what) {
  bool zero = (page.index | page.generation | page.checksum | page.address) == 0 &&
              std::ranges::all_of(page.body, [](std::uint64_t word) { return word == 0; });
  check(zero, "{} page {} is not zero", what, index);
}

// One draw after the other; which is known from the seed and the count.
class Dice {
 public:
  explicit Dice(std::uint64_t seed) : seed_(mix(seed)) {}
  std::uint64_t roll(std::uint64_t below) { return mix(seed_ + ++count_) % below; }

 private:
  std::uint64_t seed_;
  std::uint64_t count_ = 0;
};

}  // namespace victim
