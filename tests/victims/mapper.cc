// Maps, unmaps, grows, moves and shrinks memory at random, gives pages back by
// MADV_DONTNEED, forbids and allows access, grows and shrinks the heap, and recurses deep
// into its stack. What each page must hold is kept elsewhere.
#include <vector>

#include "pages.h"

namespace {

using victim::address_of;
using victim::bad;
using victim::check;
using victim::Dice;
using victim::kPageBytes;
using victim::must;
using victim::Page;

constexpr std::uint64_t kMostRegions = 24;
constexpr std::uint64_t kMostStackPages = 512;  // 2 MiB
constexpr std::uint64_t kMostHeapPages = 256;

// What a page holds; generation 0: it is zero.
struct Expected {
  std::uint64_t index = 0;
  std::uint64_t generation = 0;
  std::uint64_t address = 0;  // where it was written
};

void verify(const Page& page, const Expected& expected, const char* what) {
  if (expected.generation == 0)
    victim::verify_zero(page, expected.index, what);
  else
    victim::verify(page, expected.index, expected.generation, what, expected.address);
}

struct Region {
  Page* pages = nullptr;
  std::vector<Expected> expected;
  std::uint64_t size() const { return expected.size(); }
};

class Mapper {
 public:
  explicit Mapper(std::uint64_t most_pages) : most_pages_(most_pages) {}

  void step() {
    switch (dice_.roll(12)) {
      case 0:
        return map_one();
      case 1:
        return unmap_some();
      case 2:
        return resize(/*grow=*/true);
      case 3:
        return resize(/*grow=*/false);
      case 4:
        return move_one();
      case 5:
        return give_back_some();
      case 6:
        return forbid_and_allow();
      case 7:
        return change_heap();
      case 8:
        return recurse(dice_.roll(kMostStackPages));
      default:
        return write_some();
    }
  }

  void verify_all() const {
    for (const Region& region : regions_) verify_region(region);
    verify_region(heap_, "heap");
  }

 private:
  Region* any() { return regions_.empty() ? nullptr : &regions_[dice_.roll(regions_.size())]; }

  static void verify_region(const Region& region, const char* what = "mapped") {
    for (std::uint64_t i = 0; i < region.size(); ++i)
      verify(region.pages[i], region.expected[i], what);
  }

  // At random places, so that some are verified for the first time long after a move.
  void verify_some(const Region& region, const char* what) {
    for (int k = 0; k < 4 && region.size() > 0; ++k) {
      std::uint64_t i = dice_.roll(region.size());
      verify(region.pages[i], region.expected[i], what);
    }
  }

  void write(Region& region, std::uint64_t i, const char* what) {
    verify(region.pages[i], region.expected[i], what);
    region.expected[i] = {++last_index_, ++last_generation_, address_of(&region.pages[i])};
    victim::fill(region.pages[i], region.expected[i].index, region.expected[i].generation);
  }

  void write_some() {
    Region* region = any();
    if (region == nullptr) return map_one();
    std::uint64_t first = dice_.roll(region->size());
    std::uint64_t count = 1 + dice_.roll(64);
    for (std::uint64_t i = first; i < std::min(region->size(), first + count); ++i)
      write(*region, i, "mapped");
    if (Region* other = any()) verify_some(*other, "mapped");
  }

  std::uint64_t room() const { return used_ < most_pages_ ? most_pages_ - used_ : 0; }

  void map_one() {
    std::uint64_t size = 1 + dice_.roll(most_pages_ / 8);
    if (size > room() || regions_.size() >= kMostRegions) return unmap_some();
    Region region{victim::map_pages(size).data(), std::vector<Expected>(size)};
    used_ += size;
    for (std::uint64_t i = 0; i < size; ++i)
      if (dice_.roll(4) != 0) write(region, i, "new");
    regions_.push_back(std::move(region));
  }

  // The whole, the beginning, the end, or a hole in the middle, which makes two of one.
  void unmap_some() {
    Region* region = any();
    if (region == nullptr) return;
    std::uint64_t first = dice_.roll(2) == 0 ? 0 : dice_.roll(region->size());
    std::uint64_t count = 1 + dice_.roll(region->size() - first);
    must(::munmap(region->pages + first, count * kPageBytes), "munmap");
    used_ -= count;
    auto hole = region->expected.begin() + static_cast<std::ptrdiff_t>(first);
    auto hole_end = hole + static_cast<std::ptrdiff_t>(count);
    Region rest{region->pages + first + count, {hole_end, region->expected.end()}};
    region->expected.erase(hole, region->expected.end());
    if (region->size() == 0) regions_.erase(regions_.begin() + (region - regions_.data()));
    if (rest.size() > 0) regions_.push_back(std::move(rest));
  }

  void remap(Region& region, std::uint64_t size, int flags, void* where = nullptr) {
    void* now = ::mremap(region.pages, region.size() * kPageBytes, size * kPageBytes, flags, where);
    if (now == MAP_FAILED) bad("mremap: {}", std::strerror(errno));
    used_ = used_ + size - region.size();
    region.pages = static_cast<Page*>(now);
    region.expected.resize(size);
    verify_some(region, "remapped");
  }

  void resize(bool grow) {
    Region* region = any();
    if (region == nullptr) return;
    if (!grow) return remap(*region, 1 + dice_.roll(region->size()), 0);
    std::uint64_t more = 1 + dice_.roll(region->size());
    if (more <= room()) remap(*region, region->size() + more, MREMAP_MAYMOVE);
  }

  void move_one() {
    Region* region = any();
    if (region == nullptr) return;
    void* where = victim::map(region->size() * kPageBytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS);
    remap(*region, region->size(), MREMAP_MAYMOVE | MREMAP_FIXED, where);
  }

  void give_back_some() {
    Region* region = any();
    if (region == nullptr) return;
    std::uint64_t first = dice_.roll(region->size());
    std::uint64_t count = 1 + dice_.roll(region->size() - first);
    must(::madvise(region->pages + first, count * kPageBytes, MADV_DONTNEED), "madvise");
    for (std::uint64_t i = first; i < first + count; ++i) region->expected[i] = {};
    verify_some(*region, "given back");
  }

  // Some stay forbidden for a while: the next call allows them again.
  void forbid_and_allow() {
    if (forbidden_.pages != nullptr) {
      must(::mprotect(forbidden_.pages, forbidden_.size() * kPageBytes, PROT_READ | PROT_WRITE),
           "mprotect");
      verify_region(forbidden_, "forbidden");
      regions_.push_back(std::exchange(forbidden_, {}));
    } else if (Region* region = any()) {
      must(::mprotect(region->pages, region->size() * kPageBytes, PROT_NONE), "mprotect");
      forbidden_ = std::move(*region);
      regions_.erase(regions_.begin() + (region - regions_.data()));
    }
  }

  // Somebody else's brk in between makes a hole in which we go on; then it never shrinks.
  void change_heap() {
    auto* end = static_cast<char*>(::sbrk(0));
    bool ours = heap_.size() > 0 && end == reinterpret_cast<char*>(heap_.pages + heap_.size());
    if (ours && dice_.roll(2) == 0) {
      std::uint64_t less = 1 + dice_.roll(heap_.size());
      must(reinterpret_cast<std::intptr_t>(::sbrk(-static_cast<std::intptr_t>(less * kPageBytes))),
           "sbrk");
      heap_.expected.resize(heap_.size() - less);
    } else if (heap_.size() < kMostHeapPages && (ours || heap_.size() == 0)) {
      grow_heap(end);
    }
    verify_some(heap_, "heap");
  }

  void grow_heap(const char* end) {
    std::uint64_t more = 1 + dice_.roll(kMostHeapPages - heap_.size());
    std::uint64_t padding = heap_.size() > 0 ? 0 : -address_of(end) % kPageBytes;
    auto* begin =
        static_cast<char*>(::sbrk(static_cast<std::intptr_t>(padding + more * kPageBytes)));
    must(reinterpret_cast<std::intptr_t>(begin), "sbrk");
    if (heap_.size() == 0) heap_.pages = reinterpret_cast<Page*>(begin + padding);
    std::uint64_t before = heap_.size();
    heap_.expected.resize(before + more);
    for (std::uint64_t i = before; i < heap_.size(); ++i)
      if (dice_.roll(2) == 0) write(heap_, i, "heap");
  }

  [[gnu::noinline]] void recurse(std::uint64_t depth) {  // NOLINT(misc-no-recursion)
    Page page;
    std::uint64_t index = ++last_index_;
    victim::fill(page, index, depth);
    asm volatile("" : : "r"(&page) : "memory");
    if (depth > 0) recurse(depth - 1);
    asm volatile("" : : "r"(&page) : "memory");
    victim::verify(page, index, depth, "stack");
  }

  std::uint64_t most_pages_;
  std::uint64_t used_ = 0;
  std::uint64_t last_index_ = 0;
  std::uint64_t last_generation_ = 0;
  std::vector<Region> regions_;
  Region forbidden_;
  Region heap_;
  Dice dice_{42};
};

}  // namespace

int main(int argc, char** argv) {
  victim::Options defaults;
  defaults.rate = 400;  // steps a second
  victim::Options options = victim::parse_options(argc, argv, defaults);
  victim::Run run(options);
  Mapper mapper(std::max<std::uint64_t>(options.mib, 1) * 256);
  victim::Pace pace(options.rate);
  std::uint64_t steps = 0;
  for (; steps < 100; ++steps) mapper.step();  // something to move
  run.ready();
  while (run.keep_going(steps)) {
    std::uint64_t step = pace.step();
    for (std::uint64_t i = 0; i < step; ++i) mapper.step();
    steps += step;
  }
  mapper.verify_all();
  run.ok("mib={} steps={}", options.mib, steps);
}
