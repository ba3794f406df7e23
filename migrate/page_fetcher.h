// How a link brings pages that are asked for: by requests that the source answers with chunks, or
// by reading the source's memory.
#pragma once

#include <atomic>
#include <cstdint>
#include <deque>
#include <memory>
#include <mutex>
#include <vector>

#include "migrate/page_chunk.h"

namespace gestalt {

// The source hears of pages that are read in place each time there are so many more on a link: its
// thread has to wake for it. At 10 Gbit/s that is ten times a second.
inline constexpr std::uint64_t kToldPages = 32768;

// Reads of the source's memory by a link, for the statistics.
struct ReadCounts {
  std::atomic<std::uint64_t> reads = 0;
  std::atomic<std::uint64_t> bytes = 0;
  std::atomic<std::uint64_t> pages_in_place = 0;  // that have arrived, of remote ranges
};

struct FetchedPages {
  PageRun run;                 // as it was asked for
  std::vector<ChunkRun> runs;  // fill it; their bytes are good until the next call of next()
};

class PageFetcher {
 public:
  virtual ~PageFetcher() = default;
  // From one thread at a time; does not wait for the pages.
  [[nodiscard]] virtual Result<void> submit(const PageRun& run, Deadline deadline) = 0;
  // Waits for the next pages to arrive, of any that were submitted. From one thread, perhaps
  // another.
  [[nodiscard]] virtual Result<FetchedPages> next() = 0;
};

// kRequest, kChunk. Works on any connection.
[[nodiscard]] std::unique_ptr<PageFetcher> make_request_fetcher(PageConnection& connection);

// On a connection that is one-sided. Pages in one of the source's remote ranges are read where
// they are, of which the source hears only how many; others in a slot of the link's staging memory,
// where the source has put them; those of which neither is true as above. Both ends have as many
// slots: who asks for one reads into the slot of the same number here.
class OneSidedFetcher final : public PageFetcher {
 public:
  // At most kToldPages, after which the source is told.
  OneSidedFetcher(PageConnection& connection, ReadCounts& counts,
                  std::uint64_t told_pages = kToldPages)
      : connection_(connection),
        one_sided_(*connection.stream().one_sided()),
        counts_(counts),
        told_pages_(told_pages) {}

  // Gets the memory to read into, which takes time that there is before the freeze. Once.
  [[nodiscard]] Result<void> prepare(std::size_t bytes);
  // Until then only requests are sent. `ranges` outlives the fetcher. An error: there is no
  // such memory; requests do.
  [[nodiscard]] Result<void> open(const Staging& staging, const RemoteRangeTable& ranges);

  Result<void> submit(const PageRun& run, Deadline deadline) override;
  Result<FetchedPages> next() override;

 private:
  enum class SlotState { kFree, kAsked, kReading, kGiven };
  struct Slot {
    SlotState state = SlotState::kFree;
    bool direct = false;  // from a remote range
    StagedPages pages;
    std::vector<ChunkRun> runs;
  };

  [[nodiscard]] Result<void> begin(const PageRun& run, std::uint32_t slot, Deadline deadline);
  [[nodiscard]] Result<void> begin_waiting();
  [[nodiscard]] Result<bool> take_frame(FetchedPages& out);
  [[nodiscard]] Result<bool> take_staged(const FrameHeader& header, FetchedPages& out);
  [[nodiscard]] Result<void> read_staged(std::uint32_t number, Slot& slot);
  [[nodiscard]] Result<void> finish(std::uint64_t token, FetchedPages& out);
  [[nodiscard]] Result<void> count_in_place(std::uint64_t pages);
  [[nodiscard]] FetchedPages give(std::uint32_t number);
  [[nodiscard]] std::span<std::byte> memory_of(std::uint32_t slot) const;
  [[nodiscard]] Result<void> read(std::span<const RemoteRead> reads, std::uint32_t slot);

  PageConnection& connection_;
  OneSided& one_sided_;
  ReadCounts& counts_;
  std::uint64_t told_pages_;
  ChunkReader reader_;
  std::vector<std::byte> payload_;
  std::mutex mutex_;  // guards all below, and sending
  Staging staging_;
  const RemoteRangeTable* ranges_ = nullptr;
  std::span<std::byte> landing_;
  std::vector<Slot> slots_;
  std::deque<PageRun> waiting_;  // for a slot
  std::uint64_t untold_ = 0;     // pages read in place
};

}  // namespace gestalt
