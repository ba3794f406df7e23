// Chunks: up to 256 pages on their way, zero pages as runs. Payload of a kChunk frame:
//   u32 pid, u32 count, u16 flags, u16 runs, u32 bytes of data, u64 checksum,
//   runs of {u16 pages, u16 kind}, together `count` pages, then the data of the
//   kData runs, plain or as one lz4 block.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "migrate/kernel.h"
#include "migrate/memory_keepers.h"
#include "migrate/page_wire.h"

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

 private:
  [[nodiscard]] Result<void> read(const PageRun& run);
  void add_run(std::size_t page, std::uint32_t count, RunKind kind, PageCounts& counts);
  [[nodiscard]] Result<void> send_data(PageConnection& connection, const PageRun& run,
                                       Deadline deadline);
  bool compress_data();

  struct Run {
    std::size_t page;
    std::uint32_t count;
    RunKind kind;
  };
  Kernel& kernel_;
  ChunkOptions options_;
  const MemoryKeepers* keepers_;
  std::vector<std::byte> pages_;
  std::vector<bool> absent_;
  std::vector<Run> runs_;
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

 private:
  std::vector<std::byte> payload_;
  std::vector<std::byte> unpacked_;
};

// True if all bytes of the page are zero.
[[nodiscard]] bool is_zero_page(std::span<const std::byte> page);

}  // namespace gestalt
