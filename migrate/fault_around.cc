#include "migrate/fault_around.h"

#include <algorithm>
#include <cstdlib>

namespace gestalt {
namespace {

constexpr std::uint32_t kSmallestWindow = 16;
constexpr std::uint32_t kLargestFirstWindow = 16;
constexpr std::int64_t kLargestStride = 4096;

std::int64_t distance(std::uint64_t from, std::uint64_t to) {
  return static_cast<std::int64_t>(to - from);
}

// Page numbers are not negative.
std::uint32_t limit_to_numbers(std::uint32_t count, std::uint64_t first, std::int64_t stride) {
  if (stride > 0) return count;
  auto start = static_cast<std::int64_t>(first);
  std::int64_t left = start < 0 ? 0 : start / -stride + 1;
  return static_cast<std::uint32_t>(std::min<std::int64_t>(count, left));
}

}  // namespace

FaultAround::Plan FaultAround::on_fault(std::uint64_t page) {
  ++clock_;
  if (max_pages_ == 0) return {};
  Stream* stream = follow(page);
  if (stream == nullptr) stream = recognise(page);
  if (stream != nullptr) {
    first_window_ = std::min(first_window_ * 2, kLargestFirstWindow);
    return extend(*stream, page);
  }
  Plan plan{page + 1, 1, std::min(first_window_ - 1, max_pages_)};
  history_[history_size_++ % history_.size()] = {page, plan.first + plan.count};
  first_window_ = std::max(first_window_ / 2, 1U);
  return plan;
}

// A stream expects faults between its newest one and a little beyond what was planned.
FaultAround::Stream* FaultAround::follow(std::uint64_t page) {
  for (auto& stream : streams_) {
    if (stream.stride == 0) continue;
    std::int64_t way = distance(stream.last, page);
    if (way % stream.stride != 0) continue;
    std::int64_t steps = way / stream.stride;
    std::int64_t planned = distance(stream.last, stream.next) / stream.stride;
    if (steps > 0 && steps <= planned + 4) return &stream;
  }
  return nullptr;
}

// Two earlier faults at the same distance, or one that this follows where its window ended.
FaultAround::Stream* FaultAround::recognise(std::uint64_t page) {
  std::uint64_t known = std::min<std::uint64_t>(history_size_, history_.size());
  std::int64_t stride = 0;
  for (std::uint64_t i = 0; i < known && stride == 0; ++i) {
    std::int64_t way = distance(history_[i].page, page);
    if (way == 0 || std::abs(way) > kLargestStride) continue;
    if (way == 1 || page == history_[i].next) stride = 1;
    for (std::uint64_t k = 0; k < known && stride == 0; ++k)
      if (distance(history_[k].page, history_[i].page) == way) stride = way;
  }
  if (stride == 0) return nullptr;
  Stream& oldest = *std::ranges::min_element(streams_, {}, &Stream::used);
  oldest = {page, page + static_cast<std::uint64_t>(stride), stride, kSmallestWindow / 2, clock_};
  return &oldest;
}

FaultAround::Plan FaultAround::extend(Stream& stream, std::uint64_t page) {
  stream.window = std::min(std::max(stream.window * 2, kSmallestWindow), max_pages_);
  stream.used = clock_;
  stream.last = page;
  auto stride = static_cast<std::uint64_t>(stream.stride);
  // A task that ran into what is on its way: read on from there.
  std::int64_t ahead = distance(page, stream.next) / stream.stride;
  if (ahead <= 0) stream.next = page + stride;
  Plan plan{stream.next, stream.stride, stream.window};
  if (ahead >= static_cast<std::int64_t>(stream.window)) plan.count = 0;  // far enough
  plan.count = limit_to_numbers(plan.count, plan.first, plan.stride);
  stream.next += stride * plan.count;
  return plan;
}

}  // namespace gestalt
