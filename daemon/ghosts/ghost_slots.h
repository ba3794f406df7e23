// Memory for ghosts' slots, in blocks of 1 MiB that are kept once they are there. Touched
// only as ghosts need it. Not thread-safe, but for what the ghosts themselves do.
#pragma once

#include <array>
#include <bit>
#include <memory>
#include <vector>

#include "common/result.h"
#include "daemon/ghosts/ghost_slot.h"

namespace gestalt {

class GhostSlots {
 public:
  // A slot that is all zero but for `dirty` and `dirty_bit`.
  [[nodiscard]] Result<GhostSlot*> take();
  // Its ghost must have been reaped, or never have started.
  void give_back(GhostSlot* slot) { free_.push_back(slot); }
  // As take() would have it.
  static void reset(GhostSlot& slot);

  // Calls function(slot) for those whose ghosts have written records since the last time.
  template <class Function>
  void for_each_dirty(Function function) {
    for (auto& block : blocks_)
      for (std::size_t word = 0; word < block->dirty.size(); ++word)
        for (auto bits = block->dirty[word].exchange(0); bits != 0; bits &= bits - 1)
          function(block->slots[word * 64 + static_cast<std::size_t>(std::countr_zero(bits))]);
  }

 private:
  static constexpr std::size_t kSlots = ((1U << 20) - 256) / sizeof(GhostSlot);
  struct Block {
    std::array<std::atomic<std::uint64_t>, kSlots / 64 + 1> dirty;
    std::array<GhostSlot, kSlots> slots;
  };
  static_assert(sizeof(Block) <= 1U << 20);
  struct Unmap {
    void operator()(Block* block) const;
  };
  Result<void> add_block();

  std::vector<std::unique_ptr<Block, Unmap>> blocks_;
  std::vector<GhostSlot*> free_;
};

}  // namespace gestalt
