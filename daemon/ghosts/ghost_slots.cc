#include "daemon/ghosts/ghost_slots.h"

#include <sys/mman.h>

#include <cerrno>
#include <new>

namespace gestalt {

void GhostSlots::Unmap::operator()(Block* block) const { (void)::munmap(block, sizeof(Block)); }

Result<void> GhostSlots::add_block() {
  void* memory =
      ::mmap(nullptr, sizeof(Block), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (memory == MAP_FAILED) return fail_errno(errno, "get memory for ghosts");
  // A page of it that nobody has touched is no memory; the kernel's zeroes are the initial
  // values, so nothing is constructed here.
  blocks_.emplace_back(static_cast<Block*>(memory));
  auto& block = *blocks_.back();
  for (std::size_t i = kSlots; i-- > 0;) free_.push_back(&block.slots[i]);
  return {};
}

Result<GhostSlot*> GhostSlots::take() {
  if (free_.empty()) GESTALT_TRY(add_block());
  GhostSlot* slot = free_.back();
  free_.pop_back();
  for (auto& block : blocks_) {
    auto first = block->slots.data();
    if (slot < first || slot >= first + kSlots) continue;
    auto index = static_cast<std::size_t>(slot - first);
    new (slot) GhostSlot{};
    slot->dirty = &block->dirty[index / 64];
    slot->dirty_bit = static_cast<std::uint32_t>(index % 64);
  }
  return slot;
}

void GhostSlots::reset(GhostSlot& slot) {
  auto* dirty = slot.dirty;
  auto bit = slot.dirty_bit;
  new (&slot) GhostSlot{};
  slot.dirty = dirty;
  slot.dirty_bit = bit;
}

}  // namespace gestalt
