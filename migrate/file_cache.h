// What the source has of a unit's files in its page cache is read ahead at the destination: file
// caches do not move, and without a hint the process meets a cold one (MOSIX's users did).
// cachestat(2), mincore(2), posix_fadvise(2).
#pragma once

#include <atomic>
#include <cstdint>
#include <span>
#include <string>
#include <thread>
#include <vector>

#include "common/result.h"
#include "migrate/process_tree.h"

namespace gestalt {

struct FileRange {
  std::uint64_t offset = 0;
  std::uint64_t length = 0;

  bool operator==(const FileRange&) const = default;
};

struct CachedFile {
  std::string path;  // absolute
  std::uint64_t size_bytes = 0;
  std::vector<FileRange> ranges;  // ascending, apart

  [[nodiscard]] std::uint64_t bytes() const;
  bool operator==(const CachedFile&) const = default;
};

inline constexpr std::size_t kMaxCachedFiles = 1024;
inline constexpr std::size_t kMaxCachedRanges = 4096;  // of one file

// Regular files with a name that processes of the unit have open or mapped, and of which a
// part is cached. Linear in their pages, some 10 ms for each GiB where only parts are cached.
// Stops nobody; what cannot be looked at is left out.
[[nodiscard]] std::vector<CachedFile> cached_files(const std::string& proc,
                                                   const ProcessTree& tree);
// The cached parts of an open file, gaps below 128 KiB included.
[[nodiscard]] std::vector<FileRange> cached_ranges(int fd, std::uint64_t size_bytes);

// A frame's payload; kProtocol for one that makes no sense.
[[nodiscard]] std::vector<std::byte> encode_cached_file(const CachedFile& file);
[[nodiscard]] Result<CachedFile> decode_cached_file(std::span<const std::byte> payload);

// Reads them ahead on a thread of its own, as long as half of what memory was available at the
// start is not used up. A file that is not there, or has another size, is left out.
class FileWarmer {
 public:
  explicit FileWarmer(std::vector<CachedFile> files);

  [[nodiscard]] std::uint64_t requested_bytes() const { return requested_bytes_; }
  void wait() { thread_.join(); }

 private:
  void run(const std::stop_token& stop, const std::vector<CachedFile>& files);

  std::atomic<std::uint64_t> requested_bytes_ = 0;
  std::jthread thread_;  // ends soon when this goes
};

}  // namespace gestalt
