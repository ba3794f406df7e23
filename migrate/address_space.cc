#include "migrate/address_space.h"

#include <algorithm>
#include <thread>
#include <vector>

namespace gestalt {

AddressSpace::AddressSpace(Kernel& kernel, std::uint32_t pid, PageSet remote_pages,
                           PageSet local_pages, std::shared_ptr<PageStore> store,
                           std::uint32_t max_prefetch_pages)
    : remote(std::move(remote_pages)),
      local(std::move(local_pages)),
      around(max_prefetch_pages),
      kernel_(kernel),
      pid_(pid),
      store_(std::move(store)),
      max_prefetch_pages_(max_prefetch_pages) {}

std::unique_lock<std::mutex> AddressSpace::lock_politely() {
  while (urgent_.load(std::memory_order_relaxed) > 0)
    std::this_thread::sleep_for(std::chrono::microseconds(20));
  return lock();
}

void AddressSpace::close() {
  uffd_.reset();
  if (auto tell = std::exchange(on_close_, nullptr)) tell();
  closed_ = true;
  remote.clear();
  in_flight.clear();
  local.clear();
  waiting.clear();
}

std::uint64_t AddressSpace::source_address(std::uint64_t address, std::uint64_t& bytes) const {
  auto after = moves_.upper_bound(address);
  if (after != moves_.begin()) {
    const auto& [start, move] = *std::prev(after);
    if (address < move.end) {
      bytes = std::min(bytes, move.end - address);
      return address - start + move.source;
    }
  }
  if (after != moves_.end()) bytes = std::min(bytes, after->first - address);
  return address;
}

void AddressSpace::removed(std::uint64_t start, std::uint64_t end) {
  for (PageSet* set : {&remote, &in_flight, &local}) set->remove(start, end);
  stop_waiting(start, end);
}

// The pages that they wait for will not come there any more.
void AddressSpace::stop_waiting(std::uint64_t start, std::uint64_t end) {
  auto first = waiting.lower_bound(start);
  auto last = waiting.lower_bound(end);
  if (first == last) return;
  waiting.erase(first, last);
  kernel_.wake(uffd(), start, end - start);
}

void AddressSpace::moved(std::uint64_t start, std::uint64_t end, std::uint64_t target) {
  std::uint64_t length = end - start;
  // What lay at the target is gone.
  removed(target, target + length);
  std::vector<std::pair<std::uint64_t, Move>> pieces;
  for (std::uint64_t at = start; at < end;) {
    std::uint64_t bytes = end - at;
    std::uint64_t source = source_address(at, bytes);
    pieces.emplace_back(at - start + target, Move{at - start + target + bytes, source});
    at += bytes;
  }
  // Entries that the target covers, entirely or in part.
  auto first = moves_.lower_bound(target);
  if (first != moves_.begin() && std::prev(first)->second.end > target) {
    auto& before = *std::prev(first);
    if (before.second.end > target + length)
      moves_[target + length] = {before.second.end,
                                 before.second.source + (target + length - before.first)};
    before.second.end = target;
  }
  for (auto it = moves_.lower_bound(target); it != moves_.end() && it->first < target + length;) {
    if (it->second.end > target + length)
      moves_[target + length] = {it->second.end, it->second.source + (target + length - it->first)};
    it = moves_.erase(it);
  }
  moves_.insert(pieces.begin(), pieces.end());
  // What is under way to the old place is asked for again from the new one.
  remote.move(start, end, target);
  local.move(start, end, target);
  in_flight.move(start, end, target);
  PageSet again = in_flight;
  PageSet window;
  window.add(target, target + length);
  again.intersect(window);
  in_flight.remove(again);
  remote.add(again);
  stop_waiting(start, end);
}

std::shared_ptr<AddressSpace> AddressSpace::fork(Fd uffd, std::function<void()> on_close) const {
  PageSet to_fetch = remote;
  to_fetch.add(in_flight);
  auto child = std::make_shared<AddressSpace>(kernel_, pid_, std::move(to_fetch), local, store_,
                                              max_prefetch_pages_);
  child->moves_ = moves_;
  child->set_uffd(std::move(uffd), std::move(on_close));
  return child;
}

Result<AddressSpace::Placed> AddressSpace::place(std::uint64_t address, std::uint64_t bytes,
                                                 const std::byte* data, std::uint64_t& done_bytes) {
  done_bytes = 0;
  while (done_bytes < bytes) {
    std::uint64_t placed = 0;
    std::uint64_t at = address + done_bytes;
    GESTALT_ASSIGN(
        auto outcome,
        data == nullptr
            ? kernel_.place_zero(uffd(), at, bytes - done_bytes, placed)
            : kernel_.place_pages(uffd(), at, {data + done_bytes, bytes - done_bytes}, placed));
    done_bytes += placed;
    if (outcome == PlaceOutcome::kPlaced || placed > 0) continue;
    if (outcome == PlaceOutcome::kGone) return Placed::kGone;
    if (outcome == PlaceOutcome::kRetry) return Placed::kChanging;
    if (outcome == PlaceOutcome::kNoMapping) return Placed::kNoMapping;
    kernel_.wake(uffd(), at, kPageBytes);
    done_bytes += kPageBytes;
  }
  return Placed::kAll;
}

}  // namespace gestalt
