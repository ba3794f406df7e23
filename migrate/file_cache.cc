#include "migrate/file_cache.h"

#include <endian.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <filesystem>
#include <set>
#include <sstream>

#include "common/fd.h"
#include "common/format.h"
#include "common/log.h"

namespace gestalt {
namespace {

constexpr std::uint64_t kPage = 4096;
constexpr std::uint64_t kSmallGap = 128U << 10;     // what one read-ahead of the kernel's brings
constexpr std::uint64_t kSmallestFile = 64U << 10;  // smaller ones are read in one go anyway
constexpr std::uint64_t kWindow = 1ULL << 30;
constexpr std::uint64_t kMostLookedAt = 64ULL << 30;  // of a file that is cached in part
constexpr std::uint64_t kStep = 2U << 20;  // the most that the kernel takes of one request
constexpr std::size_t kMaxPath = 4096;

// As linux/mman.h has it since 6.5.
struct CacheStat {
  std::uint64_t cached, dirty, writeback, evicted, recently_evicted;
};
constexpr long kCachestatCall = 451;

// 0 where the kernel does not know the call, or the pages are another file's (overlayfs).
std::uint64_t cached_pages(int fd) {
  struct {
    std::uint64_t offset = 0, length = 0;  // to its end
  } all;
  CacheStat out{};
  return ::syscall(kCachestatCall, fd, &all, &out, 0) == 0 ? out.cached : 0;
}

void add_range(std::vector<FileRange>& ranges, std::uint64_t from, std::uint64_t to) {
  if (!ranges.empty() && from - (ranges.back().offset + ranges.back().length) <= kSmallGap)
    ranges.back().length = to - ranges.back().offset;
  else if (ranges.size() < kMaxCachedRanges)
    ranges.push_back({from, to - from});
}

void look_at_window(int fd, std::uint64_t at, std::uint64_t length,
                    std::vector<FileRange>& ranges) {
  void* mapped = ::mmap(nullptr, length, PROT_READ, MAP_SHARED, fd, static_cast<off_t>(at));
  if (mapped == MAP_FAILED) return;
  std::vector<unsigned char> resident((length + kPage - 1) / kPage);
  if (::mincore(mapped, length, resident.data()) == 0)
    for (std::size_t i = 0; i < resident.size(); ++i)
      if ((resident[i] & 1U) != 0)
        add_range(ranges, at + i * kPage, std::min(at + (i + 1) * kPage, at + length));
  (void)::munmap(mapped, length);
}

std::vector<std::string> open_and_mapped(const std::string& proc, const ProcessTree& tree) {
  std::vector<std::string> links;
  std::error_code error;
  for (pid_t pid : tree.pids)
    for (const char* directory : {"fd", "map_files"})
      for (const auto& entry :
           std::filesystem::directory_iterator(formatted("{}/{}/{}", proc, pid, directory), error))
        links.push_back(entry.path());
  return links;
}

std::uint64_t available_bytes() {
  auto text = read_file("/proc/meminfo");
  if (!text) return 0;
  std::istringstream lines(*text);
  std::uint64_t kib = 0;
  for (std::string key; lines >> key; lines.ignore(256, '\n'))
    if (key == "MemAvailable:" && lines >> kib) return kib << 10;
  return 0;
}

}  // namespace

std::uint64_t CachedFile::bytes() const {
  std::uint64_t sum = 0;
  for (const auto& range : ranges) sum += range.length;
  return sum;
}

std::vector<FileRange> cached_ranges(int fd, std::uint64_t size_bytes) {
  std::vector<FileRange> ranges;
  if (cached_pages(fd) >= (size_bytes + kPage - 1) / kPage) return {{0, size_bytes}};
  for (std::uint64_t at = 0; at < std::min(size_bytes, kMostLookedAt); at += kWindow)
    look_at_window(fd, at, std::min(kWindow, size_bytes - at), ranges);
  return ranges;
}

std::vector<CachedFile> cached_files(const std::string& proc, const ProcessTree& tree) {
  std::vector<CachedFile> files;
  std::set<std::pair<dev_t, ino_t>> seen;
  for (const auto& link : open_and_mapped(proc, tree)) {
    if (files.size() >= kMaxCachedFiles) break;
    struct stat info{};
    if (::stat(link.c_str(), &info) != 0 || !S_ISREG(info.st_mode) || info.st_nlink == 0) continue;
    auto size = static_cast<std::uint64_t>(info.st_size);
    if (size < kSmallestFile || !seen.emplace(info.st_dev, info.st_ino).second) continue;
    std::error_code error;
    auto path = std::filesystem::read_symlink(link, error).string();
    if (error || !path.starts_with('/') || path.size() >= kMaxPath) continue;
    auto fd = open_file(link, O_RDONLY | O_NONBLOCK | O_NOCTTY);
    if (!fd) continue;
    auto ranges = cached_ranges(fd->get(), size);
    if (!ranges.empty()) files.push_back({std::move(path), size, std::move(ranges)});
  }
  return files;
}

std::vector<std::byte> encode_cached_file(const CachedFile& file) {
  std::vector<std::uint64_t> numbers{file.size_bytes};
  for (const auto& range : file.ranges) {
    numbers.push_back(range.offset);
    numbers.push_back(range.length);
  }
  for (auto& number : numbers) number = htobe64(number);
  std::uint32_t count = htobe32(static_cast<std::uint32_t>(file.ranges.size()));
  std::vector<std::byte> out(sizeof count + numbers.size() * 8 + file.path.size());
  std::memcpy(out.data(), &count, sizeof count);
  std::memcpy(out.data() + sizeof count, numbers.data(), numbers.size() * 8);
  std::memcpy(out.data() + sizeof count + numbers.size() * 8, file.path.data(), file.path.size());
  return out;
}

Result<CachedFile> decode_cached_file(std::span<const std::byte> payload) {
  auto strange = fail(ErrorCode::kProtocol, "a hint about a cached file makes no sense");
  std::uint32_t count = 0;
  if (payload.size() < sizeof count) return strange;
  std::memcpy(&count, payload.data(), sizeof count);
  count = be32toh(count);
  payload = payload.subspan(sizeof count);
  std::size_t numbers = 1 + std::size_t{count} * 2;
  if (count == 0 || count > kMaxCachedRanges || payload.size() < numbers * 8) return strange;
  auto number = [&](std::size_t i) {
    std::uint64_t value = 0;
    std::memcpy(&value, payload.data() + i * 8, 8);
    return be64toh(value);
  };
  CachedFile file;
  file.size_bytes = number(0);
  std::uint64_t end = 0;
  for (std::size_t i = 1; i < numbers; i += 2) {
    FileRange range{number(i), number(i + 1)};
    bool first = file.ranges.empty();
    if (range.length == 0 || range.offset > file.size_bytes ||
        range.length > file.size_bytes - range.offset || (!first && range.offset <= end))
      return strange;
    end = range.offset + range.length;
    file.ranges.push_back(range);
  }
  auto path = payload.subspan(numbers * 8);
  file.path.assign(reinterpret_cast<const char*>(path.data()), path.size());
  if (!file.path.starts_with('/') || file.path.size() >= kMaxPath || file.path.contains('\0'))
    return strange;
  return file;
}

FileWarmer::FileWarmer(std::vector<CachedFile> files)
    : thread_([this, files = std::move(files)](const std::stop_token& stop) { run(stop, files); }) {
}

void FileWarmer::run(const std::stop_token& stop, const std::vector<CachedFile>& files) {
  auto limit = available_bytes() / 2;
  for (const auto& file : files) {
    auto fd = open_file(file.path, O_RDONLY | O_NONBLOCK | O_NOCTTY);
    struct stat info{};
    if (!fd || ::fstat(fd->get(), &info) != 0 || !S_ISREG(info.st_mode) ||
        static_cast<std::uint64_t>(info.st_size) != file.size_bytes)
      continue;
    for (const auto& range : file.ranges)
      for (std::uint64_t done = 0; done < range.length; done += kStep) {
        auto length = std::min(kStep, range.length - done);
        if (stop.stop_requested() || requested_bytes_ + length > limit) return;
        (void)::posix_fadvise(fd->get(), static_cast<off_t>(range.offset + done),
                              static_cast<off_t>(length), POSIX_FADV_WILLNEED);
        requested_bytes_ += length;
      }
  }
  log::debug("files read ahead", log::field("files", files.size()),
             log::field("bytes", requested_bytes_.load()));
}

}  // namespace gestalt
