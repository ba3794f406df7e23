// A set of pages of one address space, as disjoint ranges. Not thread-safe.
#pragma once

#include <cstdint>
#include <map>

namespace gestalt {

class PageRanges {
 public:
  // Addresses are in bytes and page-aligned; `end` is exclusive.
  void add(std::uint64_t start, std::uint64_t end);
  void remove(std::uint64_t start, std::uint64_t end);
  // Moves what lies in [start, end) to `target` on (mremap).
  void move(std::uint64_t start, std::uint64_t end, std::uint64_t target);

  [[nodiscard]] bool contains(std::uint64_t address) const;
  [[nodiscard]] bool contains(std::uint64_t start, std::uint64_t end) const;
  [[nodiscard]] bool empty() const { return ranges_.empty(); }
  [[nodiscard]] std::uint64_t bytes() const;
  [[nodiscard]] const std::map<std::uint64_t, std::uint64_t>& ranges() const { return ranges_; }

 private:
  std::map<std::uint64_t, std::uint64_t> ranges_;  // start -> end, neighbours merged
};

}  // namespace gestalt
