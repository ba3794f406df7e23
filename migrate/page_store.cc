#include "migrate/page_store.h"

#include <sys/mman.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

namespace gestalt {
namespace {

bool get(const PageSet::Bitmap& bitmap, std::uint64_t page) {
  return (bitmap[page / 64] >> (page % 64) & 1) != 0;
}

void set(PageSet::Bitmap& bitmap, std::uint64_t page, bool value) {
  std::uint64_t bit = 1ULL << (page % 64);
  bitmap[page / 64] = value ? bitmap[page / 64] | bit : bitmap[page / 64] & ~bit;
}

bool is_empty(const PageSet::Bitmap& bitmap) {
  return std::ranges::all_of(bitmap, [](std::uint64_t word) { return word == 0; });
}

}  // namespace

PageStore::~PageStore() { clear(); }

void PageStore::clear() {
  std::lock_guard lock(mutex_);
  for (auto& [number, block] : blocks_)
    if (block.memory != nullptr) (void)::munmap(block.memory, kBlockBytes);
  blocks_.clear();
}

void PageStore::release_if_empty(std::uint64_t number, Block& block) {
  if (block.writers > 0 || !is_empty(block.data)) return;
  if (block.memory != nullptr) (void)::munmap(block.memory, kBlockBytes);
  block.memory = nullptr;
  if (is_empty(block.zero)) blocks_.erase(number);
}

Result<std::byte*> PageStore::memory_of(Block& block) {
  if (block.memory != nullptr) return block.memory;
  // Twice as much, to cut an aligned piece out of it: one huge page holds it then.
  void* raw = ::mmap(nullptr, 2 * kBlockBytes, PROT_READ | PROT_WRITE,
                     MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (raw == MAP_FAILED)
    return fail(ErrorCode::kNoSpace, "no memory for pages that arrive",
                "choose a node with more free memory");
  auto start = reinterpret_cast<std::uint64_t>(raw);
  std::uint64_t aligned = (start + kBlockBytes - 1) / kBlockBytes * kBlockBytes;
  if (aligned > start) (void)::munmap(raw, aligned - start);
  (void)::munmap(reinterpret_cast<void*>(aligned + kBlockBytes), start + kBlockBytes - aligned);
  block.memory = reinterpret_cast<std::byte*>(aligned);
  (void)::madvise(block.memory, kBlockBytes, MADV_HUGEPAGE);
  return block.memory;
}

Result<void> PageStore::put(std::uint64_t address, std::span<const std::byte> pages) {
  while (!pages.empty()) {
    std::uint64_t offset = address % kBlockBytes;
    std::size_t bytes = std::min<std::size_t>(pages.size(), kBlockBytes - offset);
    std::byte* memory = nullptr;
    {
      std::lock_guard lock(mutex_);
      Block& block = blocks_[address / kBlockBytes];
      GESTALT_ASSIGN(memory, memory_of(block));
      ++block.writers;
    }
    std::memcpy(memory + offset, pages.data(), bytes);
    {
      std::lock_guard lock(mutex_);
      Block& block = blocks_[address / kBlockBytes];
      --block.writers;
      for (std::uint64_t at = offset; at < offset + bytes; at += kPageBytes) {
        set(block.data, at / kPageBytes, true);
        set(block.zero, at / kPageBytes, false);
      }
    }
    address += bytes;
    pages = pages.subspan(bytes);
  }
  return {};
}

void PageStore::put_zero(std::uint64_t address, std::uint64_t bytes) {
  std::lock_guard lock(mutex_);
  for (std::uint64_t at = address; at < address + bytes; at += kPageBytes) {
    Block& block = blocks_[at / kBlockBytes];
    set(block.data, at % kBlockBytes / kPageBytes, false);
    set(block.zero, at % kBlockBytes / kPageBytes, true);
  }
}

void PageStore::drop(std::uint64_t start, std::uint64_t end) {
  std::lock_guard lock(mutex_);
  while (start < end) {
    std::uint64_t stop = std::min(end, (start / kBlockBytes + 1) * kBlockBytes);
    auto found = blocks_.find(start / kBlockBytes);
    if (found != blocks_.end()) {
      Block& block = found->second;
      for (std::uint64_t at = start; at < stop; at += kPageBytes) {
        set(block.data, at % kBlockBytes / kPageBytes, false);
        set(block.zero, at % kBlockBytes / kPageBytes, false);
      }
      release_if_empty(start / kBlockBytes, block);
    }
    start = stop;
  }
}

std::optional<PageStore::Run> PageStore::find(std::uint64_t address,
                                              std::uint64_t limit_bytes) const {
  std::lock_guard lock(mutex_);
  auto found = blocks_.find(address / kBlockBytes);
  if (found == blocks_.end()) return std::nullopt;
  const Block& block = found->second;
  std::uint64_t first = address % kBlockBytes / kPageBytes;
  bool is_data = get(block.data, first);
  if (!is_data && !get(block.zero, first)) return std::nullopt;
  std::uint64_t last = first + 1;
  std::uint64_t limit = std::min(kPagesPerBlock, first + limit_bytes / kPageBytes);
  while (last < limit && get(is_data ? block.data : block.zero, last)) ++last;
  return Run{(last - first) * kPageBytes, is_data ? block.memory + first * kPageBytes : nullptr};
}

PageSet PageStore::stored() const {
  std::lock_guard lock(mutex_);
  PageSet out;
  for (const auto& [number, block] : blocks_) {
    out.add_block(number, block.data);
    out.add_block(number, block.zero);
  }
  return out;
}

}  // namespace gestalt
