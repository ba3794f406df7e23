// Huge pages, and what becomes of them: whole ones that are rewritten in places; ones with
// holes by MADV_DONTNEED, refilled and dug again; ones cut in two by munmap; and ones that
// the kernel may make at any time of small pages.
#include <vector>

#include "pages.h"

namespace {

using victim::Dice;
using victim::kHugePageBytes;
using victim::kPageBytes;
using victim::must;
using victim::Page;

constexpr std::uint64_t kPagesOfHuge = kHugePageBytes / kPageBytes;

// Aligned to a huge page.
Page* map_huge(std::uint64_t bytes) {
  auto* start = static_cast<char*>(
      victim::map(bytes + kHugePageBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS));
  auto* aligned = start + -victim::address_of(start) % kHugePageBytes;
  // The kernel may have no such pages: then it is one more test of small ones.
  (void)::madvise(aligned, bytes, MADV_HUGEPAGE);
  return reinterpret_cast<Page*>(aligned);
}

class Huge {
 public:
  explicit Huge(std::uint64_t huge_pages)
      : pages_(map_huge(huge_pages * kHugePageBytes)),
        generations_(huge_pages * kPagesOfHuge, 1),
        mapped_(generations_.size(), true) {
    for (std::uint64_t i = 0; i < generations_.size(); ++i) victim::fill(pages_[i], i, 1);
  }

  // Every fourth huge page is dug, the next but one is cut, the others stay whole.
  void step() {
    std::uint64_t i = dice_.roll(generations_.size());
    if (i / kPagesOfHuge % 4 == 1 && dice_.roll(4) == 0) return dig(i);
    if (i / kPagesOfHuge % 8 == 2 && dice_.roll(64) == 0) return cut(i);
    if (!mapped_[i]) return;
    verify(i);
    generations_[i] = (generations_[i] & ~kHole) + 1;
    victim::fill(pages_[i], i, generations_[i]);
  }
  void verify_all() const {
    for (std::uint64_t i = 0; i < generations_.size(); ++i)
      if (mapped_[i]) verify(i);
  }

 private:
  void verify(std::uint64_t i) const {
    if (is_hole(i))
      victim::verify_zero(pages_[i], i, "hole in a huge");
    else
      victim::verify(pages_[i], i, generations_[i], "huge");
  }
  bool is_hole(std::uint64_t i) const { return (generations_[i] & kHole) != 0; }

  void dig(std::uint64_t first) {
    std::uint64_t count = std::min(1 + dice_.roll(40), kPagesOfHuge - first % kPagesOfHuge);
    must(::madvise(pages_ + first, count * kPageBytes, MADV_DONTNEED), "madvise");
    for (std::uint64_t i = first; i < first + count; ++i) generations_[i] |= kHole;
  }
  void cut(std::uint64_t i) {
    must(::munmap(pages_ + i, kPageBytes), "munmap");
    mapped_[i] = false;
  }

  static constexpr std::uint64_t kHole = 1ULL << 63;
  Page* pages_;
  std::vector<std::uint64_t> generations_;
  std::vector<bool> mapped_;
  Dice dice_{7};
};

}  // namespace

int main(int argc, char** argv) {
  victim::Options options = victim::parse_options(argc, argv);
  victim::Run run(options);
  Huge huge(std::max<std::uint64_t>(options.mib / 2, 1));
  victim::Pace pace(options.rate);
  std::uint64_t steps = 0;
  run.ready();
  while (run.keep_going(steps)) {
    std::uint64_t step = pace.step();
    for (std::uint64_t i = 0; i < step; ++i) huge.step();
    steps += step;
  }
  huge.verify_all();
  run.ok("mib={} steps={}", options.mib, steps);
}
