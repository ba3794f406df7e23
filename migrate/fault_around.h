// Which pages to fetch along with the one that a task touched: sequential and strided
// streams are recognised and read ahead in growing windows, faults at random shrink the
// first window to the page itself. After AMPoM (Ho et al., "Lightweight Process Migration
// and Memory Prefetching in openMosix", IPDPS 2008) and Linux's file readahead. One for
// each address space; not thread-safe.
#pragma once

#include <array>
#include <cstdint>

namespace gestalt {

class FaultAround {
 public:
  static constexpr std::uint32_t kDefaultMaxPages = 512;
  explicit FaultAround(std::uint32_t max_pages = kDefaultMaxPages) : max_pages_(max_pages) {}

  // Pages first + k * stride for k < count, in page numbers. `count` may be 0.
  struct Plan {
    std::uint64_t first = 0;
    std::int64_t stride = 1;
    std::uint32_t count = 0;
  };
  // What to fetch besides the page that was touched.
  [[nodiscard]] Plan on_fault(std::uint64_t page);

 private:
  struct Stream {
    std::uint64_t last = 0;   // the newest fault
    std::uint64_t next = 0;   // the first page that was not planned
    std::int64_t stride = 0;  // 0: unused
    std::uint32_t window = 0;
    std::uint64_t used = 0;
  };
  [[nodiscard]] Stream* follow(std::uint64_t page);
  [[nodiscard]] Stream* recognise(std::uint64_t page);
  [[nodiscard]] Plan extend(Stream& stream, std::uint64_t page);

  std::uint32_t max_pages_;
  std::uint32_t first_window_ = 8;
  std::uint64_t clock_ = 0;
  std::array<Stream, 16> streams_{};
  struct Fault {
    std::uint64_t page = 0;
    std::uint64_t next = 0;  // the first page that was not fetched with it
  };
  std::array<Fault, 16> history_{};  // faults that belong to no stream
  std::uint64_t history_size_ = 0;
};

}  // namespace gestalt
