// Pages of one address space of the source that are at the destination, but not in the
// restored process yet: what pre-copy rounds brought, and what came before CRIU had
// registered the mapping. Thread-safe; see find() for what its pointers are worth.
#pragma once

#include <cstddef>
#include <cstdint>
#include <mutex>
#include <optional>
#include <span>
#include <unordered_map>
#include <vector>

#include "common/result.h"
#include "migrate/page_set.h"

namespace gestalt {

class PageStore {
 public:
  PageStore() = default;
  PageStore(const PageStore&) = delete;
  PageStore& operator=(const PageStore&) = delete;
  ~PageStore();

  // Whole pages; what was there is written over. kNoSpace: no memory.
  [[nodiscard]] Result<void> put(std::uint64_t address, std::span<const std::byte> pages);
  void put_zero(std::uint64_t address, std::uint64_t bytes);
  // Frees them; what is not there does not matter.
  void drop(std::uint64_t start, std::uint64_t end);
  void clear();

  struct Run {
    std::uint64_t bytes = 0;
    const std::byte* data = nullptr;  // null: zero pages
  };
  // What is stored from `address` on: one kind, inside one block, at most `limit_bytes`.
  // The memory stays as it is until somebody puts or drops these pages.
  [[nodiscard]] std::optional<Run> find(std::uint64_t address, std::uint64_t limit_bytes) const;
  [[nodiscard]] PageSet stored() const;

 private:
  struct Block {
    std::byte* memory = nullptr;  // kBlockBytes, mapped when data comes
    PageSet::Bitmap data{};
    PageSet::Bitmap zero{};
    int writers = 0;  // copying into it without the lock
  };
  [[nodiscard]] Result<std::byte*> memory_of(Block& block);
  void release_if_empty(std::uint64_t number, Block& block);

  mutable std::mutex mutex_;
  std::unordered_map<std::uint64_t, Block> blocks_;
};

}  // namespace gestalt
