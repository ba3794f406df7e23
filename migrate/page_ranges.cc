#include "migrate/page_ranges.h"

#include <algorithm>
#include <vector>

namespace gestalt {

void PageRanges::add(std::uint64_t start, std::uint64_t end) {
  if (start >= end) return;
  auto next = ranges_.upper_bound(start);
  if (next != ranges_.begin()) {
    auto before = std::prev(next);
    if (before->second >= start) {
      start = before->first;
      end = std::max(end, before->second);
      ranges_.erase(before);
    }
  }
  while (next != ranges_.end() && next->first <= end) {
    end = std::max(end, next->second);
    next = ranges_.erase(next);
  }
  ranges_[start] = end;
}

void PageRanges::remove(std::uint64_t start, std::uint64_t end) {
  if (start >= end) return;
  auto it = ranges_.upper_bound(start);
  if (it != ranges_.begin()) --it;
  while (it != ranges_.end() && it->first < end) {
    auto [old_start, old_end] = *it;
    if (old_end <= start) {
      ++it;
      continue;
    }
    it = ranges_.erase(it);
    if (old_start < start) ranges_[old_start] = start;
    if (old_end > end) it = ranges_.emplace(end, old_end).first;
  }
}

void PageRanges::move(std::uint64_t start, std::uint64_t end, std::uint64_t target) {
  std::vector<std::pair<std::uint64_t, std::uint64_t>> moved;
  for (auto [old_start, old_end] : ranges_) {
    auto from = std::max(old_start, start);
    auto to = std::min(old_end, end);
    if (from < to) moved.emplace_back(from - start + target, to - start + target);
  }
  remove(start, end);
  for (auto [from, to] : moved) add(from, to);
}

bool PageRanges::contains(std::uint64_t address) const { return contains(address, address + 1); }

bool PageRanges::contains(std::uint64_t start, std::uint64_t end) const {
  auto it = ranges_.upper_bound(start);
  if (it == ranges_.begin()) return false;
  --it;
  return end <= it->second;
}

std::uint64_t PageRanges::bytes() const {
  std::uint64_t total = 0;
  for (auto [start, end] : ranges_) total += end - start;
  return total;
}

}  // namespace gestalt
