#include "migrate/page_set.h"

#include <algorithm>
#include <bit>

namespace gestalt {
namespace {

constexpr std::uint64_t kWordPages = 64;

bool is_empty(const PageSet::Bitmap& bitmap) {
  return std::ranges::all_of(bitmap, [](std::uint64_t word) { return word == 0; });
}

std::uint64_t count(const PageSet::Bitmap& bitmap) {
  std::uint64_t sum = 0;
  for (std::uint64_t word : bitmap) sum += static_cast<std::uint64_t>(std::popcount(word));
  return sum;
}

// Bits [first, last) of a word.
std::uint64_t word_mask(std::uint64_t first, std::uint64_t last) {
  std::uint64_t below_last = last == kWordPages ? ~0ULL : (1ULL << last) - 1;
  return below_last & ~((1ULL << first) - 1);
}

// Calls visit(word index, mask) for pages [first, last) of a block.
template <class Visit>
void for_each_word(std::uint64_t first, std::uint64_t last, Visit visit) {
  for (std::uint64_t page = first; page < last;) {
    std::uint64_t word = page / kWordPages;
    std::uint64_t stop = std::min(last, (word + 1) * kWordPages);
    visit(word, word_mask(page - word * kWordPages, stop - word * kWordPages));
    page = stop;
  }
}

// The first page at or after `from` whose membership is `wanted`; kPagesPerBlock if none.
std::uint64_t find_page(const PageSet::Bitmap& bitmap, std::uint64_t from, bool wanted) {
  for (std::uint64_t page = from; page < kPagesPerBlock;) {
    std::uint64_t word = bitmap[page / kWordPages];
    if (!wanted) word = ~word;
    word &= ~0ULL << (page % kWordPages);
    if (word != 0)
      return page / kWordPages * kWordPages + static_cast<std::uint64_t>(std::countr_zero(word));
    page = (page / kWordPages + 1) * kWordPages;
  }
  return kPagesPerBlock;
}

struct BlockPart {
  std::uint64_t block, first, last;  // pages [first, last) of the block
};

// The part of [start, end) that lies in start's block.
BlockPart part_at(std::uint64_t start, std::uint64_t end) {
  std::uint64_t block = start / kBlockBytes;
  std::uint64_t stop = std::min(end, (block + 1) * kBlockBytes);
  return {block, start % kBlockBytes / kPageBytes, (stop - block * kBlockBytes) / kPageBytes};
}

std::uint64_t part_end(const BlockPart& part) {
  return part.block * kBlockBytes + part.last * kPageBytes;
}

}  // namespace

void PageSet::add(std::uint64_t start, std::uint64_t end) {
  auto hint = blocks_.lower_bound(start / kBlockBytes);
  while (start < end) {
    auto part = part_at(start, end);
    auto found = blocks_.try_emplace(hint, part.block);
    for_each_word(part.first, part.last,
                  [&](std::uint64_t word, std::uint64_t mask) { found->second[word] |= mask; });
    hint = std::next(found);
    start = part_end(part);
  }
}

void PageSet::remove(std::uint64_t start, std::uint64_t end) {
  auto found = blocks_.lower_bound(start / kBlockBytes);
  while (found != blocks_.end() && found->first * kBlockBytes < end) {
    auto part = part_at(std::max(start, found->first * kBlockBytes), end);
    for_each_word(part.first, part.last,
                  [&](std::uint64_t word, std::uint64_t mask) { found->second[word] &= ~mask; });
    found = is_empty(found->second) ? blocks_.erase(found) : std::next(found);
  }
}

void PageSet::add_block(std::uint64_t block, const Bitmap& bitmap) {
  if (is_empty(bitmap)) return;
  auto& ours = blocks_[block];
  for (std::size_t i = 0; i < bitmap.size(); ++i) ours[i] |= bitmap[i];
}

void PageSet::add(const PageSet& other) {
  for (const auto& [block, bitmap] : other.blocks_) add_block(block, bitmap);
}

void PageSet::remove(const PageSet& other) {
  for (const auto& [block, bitmap] : other.blocks_) {
    auto found = blocks_.find(block);
    if (found == blocks_.end()) continue;
    for (std::size_t i = 0; i < bitmap.size(); ++i) found->second[i] &= ~bitmap[i];
    if (is_empty(found->second)) blocks_.erase(found);
  }
}

void PageSet::intersect(const PageSet& other) {
  for (auto it = blocks_.begin(); it != blocks_.end();) {
    auto found = other.blocks_.find(it->first);
    for (std::size_t i = 0; i < it->second.size(); ++i)
      it->second[i] &= found == other.blocks_.end() ? 0 : found->second[i];
    it = is_empty(it->second) ? blocks_.erase(it) : std::next(it);
  }
}

void PageSet::move(std::uint64_t start, std::uint64_t end, std::uint64_t target) {
  PageSet moved;
  for (Range range = next(start, end - start); !range.empty() && range.start < end;
       range = next(range.end, end - start)) {
    std::uint64_t stop = std::min(range.end, end);
    moved.add(range.start - start + target, stop - start + target);
  }
  remove(start, end);
  add(moved);
}

bool PageSet::contains(std::uint64_t address) const {
  auto found = blocks_.find(address / kBlockBytes);
  if (found == blocks_.end()) return false;
  std::uint64_t page = address % kBlockBytes / kPageBytes;
  return (found->second[page / kWordPages] >> (page % kWordPages) & 1) != 0;
}

bool PageSet::contains(std::uint64_t start, std::uint64_t end) const {
  return pages_in(start, end) == (end - start) / kPageBytes;
}

std::uint64_t PageSet::pages() const {
  std::uint64_t sum = 0;
  for (const auto& [block, bitmap] : blocks_) sum += count(bitmap);
  return sum;
}

std::uint64_t PageSet::pages_in(std::uint64_t start, std::uint64_t end) const {
  std::uint64_t sum = 0;
  auto found = blocks_.lower_bound(start / kBlockBytes);
  for (; found != blocks_.end() && found->first * kBlockBytes < end; ++found) {
    auto part = part_at(std::max(start, found->first * kBlockBytes), end);
    for_each_word(part.first, part.last, [&](std::uint64_t word, std::uint64_t mask) {
      sum += static_cast<std::uint64_t>(std::popcount(found->second[word] & mask));
    });
  }
  return sum;
}

PageSet::Range PageSet::next(std::uint64_t from, std::uint64_t limit_bytes) const {
  for (auto found = blocks_.lower_bound(from / kBlockBytes); found != blocks_.end(); ++found) {
    std::uint64_t base = found->first * kBlockBytes;
    std::uint64_t first =
        find_page(found->second, from > base ? (from - base) / kPageBytes : 0, true);
    if (first == kPagesPerBlock) continue;
    Range range{base + first * kPageBytes, 0};
    std::uint64_t last = find_page(found->second, first, false);
    range.end = base + last * kPageBytes;
    while (last == kPagesPerBlock && range.bytes() < limit_bytes) {
      auto following = std::next(found);
      if (following == blocks_.end() || following->first != found->first + 1) break;
      found = following;
      last = find_page(found->second, 0, false);
      range.end = found->first * kBlockBytes + last * kPageBytes;
    }
    range.end = std::min(range.end, range.start + limit_bytes);
    return range;
  }
  return {};
}

void PageSet::for_each(
    const std::function<void(std::uint64_t start, std::uint64_t end)>& visit) const {
  constexpr std::uint64_t kNoLimit = 1ULL << 62;
  for (Range range = next(0, kNoLimit); !range.empty(); range = next(range.end, kNoLimit))
    visit(range.start, range.end);
}

}  // namespace gestalt
