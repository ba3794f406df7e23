// A set of pages of one address space, as bitmaps of 2 MiB blocks: cheap to build in
// order, to unite, to subtract and to send, however scattered the pages are. Not
// thread-safe.
#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <map>

namespace gestalt {

inline constexpr std::uint64_t kPageBytes = 4096;
inline constexpr std::uint64_t kPagesPerBlock = 512;
inline constexpr std::uint64_t kBlockBytes = kPagesPerBlock * kPageBytes;

class PageSet {
 public:
  using Bitmap = std::array<std::uint64_t, kPagesPerBlock / 64>;

  // Addresses are in bytes and page-aligned; `end` is exclusive.
  void add(std::uint64_t start, std::uint64_t end);
  void remove(std::uint64_t start, std::uint64_t end);
  void add(const PageSet& other);
  void remove(const PageSet& other);
  // Keeps only what is in `other` too.
  void intersect(const PageSet& other);
  // Moves what lies in [start, end) to `target` on (mremap).
  void move(std::uint64_t start, std::uint64_t end, std::uint64_t target);
  void clear() { blocks_.clear(); }

  [[nodiscard]] bool contains(std::uint64_t address) const;
  // All of [start, end).
  [[nodiscard]] bool contains(std::uint64_t start, std::uint64_t end) const;
  [[nodiscard]] bool empty() const { return blocks_.empty(); }
  [[nodiscard]] std::uint64_t pages() const;
  [[nodiscard]] std::uint64_t pages_in(std::uint64_t start, std::uint64_t end) const;

  struct Range {
    std::uint64_t start = 0;
    std::uint64_t end = 0;
    [[nodiscard]] std::uint64_t bytes() const { return end - start; }
    [[nodiscard]] bool empty() const { return start >= end; }
    bool operator==(const Range&) const = default;
  };
  // The first run of members at or after `from`, at most `limit_bytes` long; empty at the
  // end. It ends at block borders only if the run does, or the limit.
  [[nodiscard]] Range next(std::uint64_t from, std::uint64_t limit_bytes) const;
  // Each maximal run, in order.
  void for_each(const std::function<void(std::uint64_t start, std::uint64_t end)>& visit) const;

  // Block number (address / kBlockBytes) to bitmap; no bitmap is all zero.
  [[nodiscard]] const std::map<std::uint64_t, Bitmap>& blocks() const { return blocks_; }
  void add_block(std::uint64_t block, const Bitmap& bitmap);

 private:
  std::map<std::uint64_t, Bitmap> blocks_;
};

}  // namespace gestalt
