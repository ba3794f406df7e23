#include "migrate/page_source.h"

#include <algorithm>
#include <cstring>

namespace gestalt {

bool is_zero_page(std::span<const std::byte> page) {
  // Equal to itself moved by one word, and the first word is zero.
  std::uint64_t first = 0;
  std::memcpy(&first, page.data(), sizeof first);
  return first == 0 && std::memcmp(page.data(), page.data() + 8, page.size() - 8) == 0;
}

Result<PageCounts> PageSource::send_all(const std::map<std::uint32_t, PageRanges>& pages,
                                        const std::function<void(std::uint64_t)>& progress,
                                        Deadline deadline) {
  constexpr std::uint64_t kChunkBytes = kMaxPagesPerFrame * kPageBytes;
  std::uint64_t done_bytes = 0;
  for (const auto& [pid, ranges] : pages) {
    for (auto [start, range_end] : ranges.ranges()) {
      for (std::uint64_t address = start; address < range_end; address += kChunkBytes) {
        std::uint64_t end = std::min(address + kChunkBytes, range_end);
        GESTALT_TRY(send_chunk(pid, address, end, deadline));
        done_bytes += end - address;
        progress(done_bytes);
      }
    }
  }
  GESTALT_TRY(send_zero(deadline));
  GESTALT_TRY(connection_.send(FrameType::kPagesEnd, counts_.sent + counts_.zero,
                               std::string_view(), deadline));
  return counts_;
}

Result<void> PageSource::send_chunk(std::uint32_t pid, std::uint64_t address, std::uint64_t end,
                                    Deadline deadline) {
  buffer_.resize(end - address);
  GESTALT_TRY(kernel_.read_memory(static_cast<pid_t>(pid), address, buffer_));
  std::span<const std::byte> bytes(buffer_);
  auto page_at = [&](std::uint64_t offset) { return bytes.subspan(offset, kPageBytes); };
  for (std::uint64_t offset = 0; offset < bytes.size();) {
    std::uint64_t stop = offset;
    bool zero = is_zero_page(page_at(offset));
    while (stop < bytes.size() && is_zero_page(page_at(stop)) == zero) stop += kPageBytes;
    auto count = static_cast<std::uint32_t>((stop - offset) / kPageBytes);
    if (zero) {
      bool adjoins = zero_run_.pid == pid &&
                     zero_run_.address + zero_run_.count * kPageBytes == address + offset;
      if (!adjoins) {
        GESTALT_TRY(send_zero(deadline));
        zero_run_ = {pid, address + offset, 0};
      }
      zero_run_.count += count;
      counts_.zero += count;
    } else {
      GESTALT_TRY(send_zero(deadline));
      GESTALT_TRY(connection_.send_pages({pid, address + offset, count},
                                         bytes.subspan(offset, stop - offset), deadline));
      counts_.sent += count;
    }
    offset = stop;
  }
  return {};
}

Result<void> PageSource::send_zero(Deadline deadline) {
  if (zero_run_.count == 0) return {};
  PageRun run = std::exchange(zero_run_, {});
  auto payload = encode_page_run(run.pid, run.count);
  return connection_.send(FrameType::kZeroPages, run.address, payload, deadline);
}

}  // namespace gestalt
