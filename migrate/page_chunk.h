// Chunks: up to 256 pages on their way, zero pages as runs. Payload of a kChunk frame: a front
// (chunk_front.h), then the data of the kData runs, plain or as one lz4 block. Of a kStaged
// frame: u32 slot, and a front.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "migrate/kernel.h"
#include "migrate/memory_keepers.h"
#include "migrate/page_wire.h"
#include "migrate/remote_memory.h"

namespace gestalt {

struct ChunkOptions {
  bool compress = false;  // lz4, where it makes the chunk smaller
  bool checksum = false;  // xxh3 of the data as it was read
};

enum class RunKind : std::uint16_t { kData = 0, kZero = 1, kAbsent = 2 };

struct ChunkRun {
  std::uint64_t address = 0;
  std::uint32_t count = 0;
  RunKind kind = RunKind::kData;
  std::span<const std::byte> bytes;  // kData only
};

struct PageCounts {
  std::uint64_t sent = 0;    // with their bytes
  std::uint64_t zero = 0;    // as runs
  std::uint64_t absent = 0;  // could not be read: unmapped meanwhile
};

struct ChunkFront;

// Pages of one kind, counted from the chunk's first.
struct PlainRun {
  std::size_t page = 0;
  std::uint32_t count = 0;
  RunKind kind = RunKind::kData;
};

// Pages that the source has put into a slot of staging memory, each at its place.
struct StagedPages {
  PageRun run;
  std::uint32_t slot = 0;
  std::optional<std::uint64_t> checksum;
};

// Reads memory and sends it. One for each connection; not thread-safe.
class ChunkWriter {
 public:
  // `keepers`: who has the memory of processes that have lost it; or null.
  ChunkWriter(Kernel& kernel, ChunkOptions options, const MemoryKeepers* keepers = nullptr)
      : kernel_(kernel), options_(options), keepers_(keepers) {}
  // Pages that a running process has unmapped meanwhile are sent as absent. kGone: the
  // process has ended; nothing was sent.
  [[nodiscard]] Result<PageCounts> send(PageConnection& connection, const PageRun& run,
                                        Deadline deadline);
  // The same, but the pages go into a slot of staging memory, and only where they are is sent.
  [[nodiscard]] Result<PageCounts> stage(PageConnection& connection, const StagedRequest& request,
                                         std::span<std::byte> slot, Deadline deadline);

 private:
  [[nodiscard]] Result<void> read(const PageRun& run, std::span<std::byte> pages);
  [[nodiscard]] PageCounts sort(const PageRun& run, std::span<const std::byte> pages);
  [[nodiscard]] ChunkFront front_of(const PageRun& run) const;
  [[nodiscard]] Result<void> send_data(PageConnection& connection, const PageRun& run,
                                       Deadline deadline);
  bool compress_data();

  Kernel& kernel_;
  ChunkOptions options_;
  const MemoryKeepers* keepers_;
  std::vector<std::byte> pages_;
  std::vector<bool> absent_;
  std::vector<PlainRun> runs_;
  std::vector<std::span<const std::byte>> data_;  // parts of pages_, or of packed_
  std::vector<std::byte> packed_;
};

// Receives chunks. One for each connection; not thread-safe.
class ChunkReader {
 public:
  // The payload of a frame whose header was received. The runs point into the reader, and
  // are good until the next call. Everything is checked: kProtocol.
  [[nodiscard]] Result<PageRun> receive(PageConnection& connection, const FrameHeader& header,
                                        std::vector<ChunkRun>& runs, Deadline deadline);
  // The same of a payload in memory.
  [[nodiscard]] Result<PageRun> decode(const FrameHeader& header,
                                       std::span<const std::byte> payload,
                                       std::vector<ChunkRun>& runs);
  // Of a kStaged frame. The runs have no bytes yet; check_staged() when they do.
  [[nodiscard]] static Result<StagedPages> decode_staged(const FrameHeader& header,
                                                         std::span<const std::byte> payload,
                                                         std::vector<ChunkRun>& runs);

 private:
  std::vector<std::byte> payload_;
  std::vector<std::byte> unpacked_;
};

// kProtocol: the data are not what the source had read.
[[nodiscard]] Result<void> check_staged(const StagedPages& staged, std::span<const ChunkRun> runs);

// In the runs of kData.
[[nodiscard]] std::uint64_t data_bytes_of(std::span<const ChunkRun> runs);

// True if all bytes of the page are zero.
[[nodiscard]] bool is_zero_page(std::span<const std::byte> page);

}  // namespace gestalt
