// Memory that several writers share to less than a page: each page has eight slots, one
// for each writer, who alone writes it and keeps its versions elsewhere. A write that is
// lost because another writer's fault brought an old page over it is found in this way.
#pragma once

#include <array>
#include <span>
#include <vector>

#include "pages.h"

namespace victim {

inline constexpr std::uint64_t kWriters = 8;

struct Slot {
  std::uint64_t version;
  std::array<std::uint64_t, kPageBytes / kWriters / 8 - 1> words;
};

using SlotPage = std::array<Slot, kWriters>;
static_assert(sizeof(SlotPage) == kPageBytes);

inline std::span<SlotPage> map_slots(std::uint64_t pages, int flags) {
  return {static_cast<SlotPage*>(map(pages * kPageBytes, PROT_READ | PROT_WRITE, flags)), pages};
}

class SlotWriter {
 public:
  SlotWriter(std::span<SlotPage> pages, std::uint64_t self)
      : pages_(pages), self_(self), versions_(pages.size(), 0), dice_(self) {}

  void write_all() {
    for (std::uint64_t i = 0; i < pages_.size(); ++i) rewrite(i);
  }
  void rewrite_one() { rewrite(dice_.roll(pages_.size())); }
  void verify_all() const {
    for (std::uint64_t i = 0; i < pages_.size(); ++i) verify(i);
  }

 private:
  void rewrite(std::uint64_t i) {
    verify(i);
    Slot& slot = pages_[i][self_];
    slot.version = ++versions_[i];
    for (std::uint64_t k = 0; k < slot.words.size(); ++k) slot.words[k] = word(i, k);
  }
  // A slot of version 0 has never been written.
  std::uint64_t word(std::uint64_t i, std::uint64_t k) const {
    return versions_[i] == 0 ? 0 : mix(address_of(&pages_[i][self_]) ^ versions_[i] << 48) + k;
  }
  void verify(std::uint64_t i) const {
    const Slot& slot = pages_[i][self_];
    check(slot.version == versions_[i], "page {}: writer {} finds version {} instead of {}", i,
          self_, slot.version, versions_[i]);
    for (std::uint64_t k = 0; k < slot.words.size(); ++k)
      check(slot.words[k] == word(i, k), "page {}: word {} of writer {} version {} differs", i, k,
            self_, versions_[i]);
  }

  std::span<SlotPage> pages_;
  std::uint64_t self_;
  std::vector<std::uint64_t> versions_;
  Dice dice_;
};

}  // namespace victim
