#include "migrate/page_chunk.h"

#define XXH_STATIC_LINKING_ONLY  // for the state on the stack
#include <endian.h>
#include <lz4.h>
#include <xxhash.h>

#include <algorithm>
#include <cstring>

namespace gestalt {
namespace {

constexpr std::size_t kFrontBytes = 24;
constexpr std::uint16_t kFlagCompressed = 1;
constexpr std::uint16_t kFlagChecksum = 2;

struct Front {
  std::uint32_t pid = 0;
  std::uint32_t count = 0;
  std::uint16_t flags = 0;
  std::uint16_t runs = 0;
  std::uint32_t data_bytes = 0;
  std::uint64_t checksum = 0;
};

void encode_front(const Front& front, std::byte* out) {
  std::uint32_t pid = htobe32(front.pid), count = htobe32(front.count);
  std::uint16_t flags = htobe16(front.flags), runs = htobe16(front.runs);
  std::uint32_t data_bytes = htobe32(front.data_bytes);
  std::uint64_t checksum = htobe64(front.checksum);
  std::memcpy(out, &pid, 4);
  std::memcpy(out + 4, &count, 4);
  std::memcpy(out + 8, &flags, 2);
  std::memcpy(out + 10, &runs, 2);
  std::memcpy(out + 12, &data_bytes, 4);
  std::memcpy(out + 16, &checksum, 8);
}

Front decode_front(const std::byte* in) {
  Front front;
  std::memcpy(&front.pid, in, 4);
  std::memcpy(&front.count, in + 4, 4);
  std::memcpy(&front.flags, in + 8, 2);
  std::memcpy(&front.runs, in + 10, 2);
  std::memcpy(&front.data_bytes, in + 12, 4);
  std::memcpy(&front.checksum, in + 16, 8);
  return {be32toh(front.pid),  be32toh(front.count),      be16toh(front.flags),
          be16toh(front.runs), be32toh(front.data_bytes), be64toh(front.checksum)};
}

std::uint64_t checksum_of(std::span<const std::span<const std::byte>> parts) {
  XXH3_state_t state;
  XXH3_64bits_reset(&state);
  for (auto part : parts) XXH3_64bits_update(&state, part.data(), part.size());
  return XXH3_64bits_digest(&state);
}

std::size_t size_of(std::span<const std::span<const std::byte>> parts) {
  std::size_t sum = 0;
  for (auto part : parts) sum += part.size();
  return sum;
}

}  // namespace

bool is_zero_page(std::span<const std::byte> page) {
  // Equal to itself moved by one word, and the first word is zero.
  std::uint64_t first = 0;
  std::memcpy(&first, page.data(), sizeof first);
  return first == 0 && std::memcmp(page.data(), page.data() + 8, page.size() - 8) == 0;
}

Result<void> ChunkWriter::read(const PageRun& run) {
  pages_.resize(kMaxPagesPerChunk * kPageBytes);
  absent_.assign(run.count, false);
  for (std::size_t page = 0; page < run.count;) {
    auto into = std::span(pages_).subspan(page * kPageBytes, (run.count - page) * kPageBytes);
    auto pid = static_cast<pid_t>(run.pid);
    auto address = run.address + page * kPageBytes;
    GESTALT_ASSIGN(std::size_t bytes, keepers_ != nullptr
                                          ? keepers_->read(kernel_, pid, address, into)
                                          : kernel_.read_memory(pid, address, into));
    page += bytes / kPageBytes;
    if (page < run.count) absent_[page++] = true;
  }
  return {};
}

void ChunkWriter::add_run(std::size_t page, std::uint32_t count, RunKind kind, PageCounts& counts) {
  runs_.push_back({page, count, kind});
  if (kind == RunKind::kZero) counts.zero += count;
  if (kind == RunKind::kAbsent) counts.absent += count;
  if (kind != RunKind::kData) return;
  counts.sent += count;
  data_.push_back(
      std::span<const std::byte>(pages_).subspan(page * kPageBytes, count * kPageBytes));
}

Result<PageCounts> ChunkWriter::send(PageConnection& connection, const PageRun& run,
                                     Deadline deadline) {
  GESTALT_TRY(read(run));
  runs_.clear();
  data_.clear();
  PageCounts counts;
  auto kind_of = [&](std::size_t page) {
    if (absent_[page]) return RunKind::kAbsent;
    auto bytes = std::span<const std::byte>(pages_).subspan(page * kPageBytes, kPageBytes);
    return is_zero_page(bytes) ? RunKind::kZero : RunKind::kData;
  };
  RunKind kind = kind_of(0);
  for (std::size_t first = 0, page = 1; first < run.count; ++page) {
    RunKind next = page < run.count ? kind_of(page) : kind;
    if (page < run.count && next == kind) continue;
    add_run(first, static_cast<std::uint32_t>(page - first), kind, counts);
    first = page;
    kind = next;
  }
  GESTALT_TRY(send_data(connection, run, deadline));
  return counts;
}

// False if it would not be smaller by an eighth at least.
bool ChunkWriter::compress_data() {
  std::size_t plain_bytes = size_of(data_);
  if (plain_bytes == 0) return false;
  if (data_.size() > 1) {  // lz4 wants it in one piece
    std::size_t at = 0;
    for (auto part : data_) {
      std::memmove(pages_.data() + at, part.data(), part.size());
      at += part.size();
    }
    data_.assign(1, std::span<const std::byte>(pages_).first(plain_bytes));
  }
  packed_.resize(plain_bytes - plain_bytes / 8);
  int packed_bytes = ::LZ4_compress_default(
      reinterpret_cast<const char*>(data_[0].data()), reinterpret_cast<char*>(packed_.data()),
      static_cast<int>(plain_bytes), static_cast<int>(packed_.size()));
  if (packed_bytes <= 0) return false;
  data_.assign(1,
               std::span<const std::byte>(packed_).first(static_cast<std::size_t>(packed_bytes)));
  return true;
}

Result<void> ChunkWriter::send_data(PageConnection& connection, const PageRun& run,
                                    Deadline deadline) {
  Front front{.pid = run.pid, .count = run.count};
  front.runs = static_cast<std::uint16_t>(runs_.size());
  if (options_.checksum) {
    front.flags |= kFlagChecksum;
    front.checksum = checksum_of(data_);
  }
  if (options_.compress && compress_data()) front.flags |= kFlagCompressed;
  front.data_bytes = static_cast<std::uint32_t>(size_of(data_));
  std::vector<std::byte> head(kFrontBytes + runs_.size() * 4);
  encode_front(front, head.data());
  for (std::size_t i = 0; i < runs_.size(); ++i) {
    std::uint16_t words[2] = {htobe16(static_cast<std::uint16_t>(runs_[i].count)),
                              htobe16(static_cast<std::uint16_t>(runs_[i].kind))};
    std::memcpy(head.data() + kFrontBytes + i * 4, words, 4);
  }
  std::vector<std::span<const std::byte>> parts{std::span<const std::byte>(head)};
  parts.insert(parts.end(), data_.begin(), data_.end());
  return connection.send_parts(FrameType::kChunk, run.address, parts, deadline);
}

Result<PageRun> ChunkReader::receive(PageConnection& connection, const FrameHeader& header,
                                     std::vector<ChunkRun>& runs, Deadline deadline) {
  GESTALT_TRY(connection.receive_payload(header, payload_, deadline));
  return decode(header, payload_, runs);
}

Result<PageRun> ChunkReader::decode(const FrameHeader& header, std::span<const std::byte> payload,
                                    std::vector<ChunkRun>& runs) {
  auto bad = [](const char* what) { return fail(ErrorCode::kProtocol, what); };
  runs.clear();
  if (payload.size() < kFrontBytes) return bad("cut page chunk");
  Front front = decode_front(payload.data());
  PageRun run{front.pid, header.argument, front.count};
  if (!is_sensible(run, kMaxPagesPerChunk)) return bad("page chunk for impossible addresses");
  if ((front.flags & ~(kFlagCompressed | kFlagChecksum)) != 0)
    return bad("page chunk with unknown flags");
  if (front.runs > front.count ||
      payload.size() != kFrontBytes + front.runs * 4U + front.data_bytes)
    return bad("page chunk whose length and counts disagree");
  auto table = payload.subspan(kFrontBytes, front.runs * 4U);
  auto data = payload.subspan(kFrontBytes + front.runs * 4U);
  std::uint64_t pages = 0;
  std::uint64_t data_pages = 0;
  for (; !table.empty(); table = table.subspan(4)) {
    std::uint16_t words[2];
    std::memcpy(words, table.data(), 4);
    std::uint16_t count = be16toh(words[0]), kind = be16toh(words[1]);
    if (count == 0 || kind > static_cast<std::uint16_t>(RunKind::kAbsent))
      return bad("page chunk with an impossible run");
    runs.push_back({run.address + pages * kPageBytes, count, static_cast<RunKind>(kind), {}});
    pages += count;
    if (runs.back().kind == RunKind::kData) data_pages += count;
  }
  if (pages != front.count) return bad("page chunk whose runs do not fill it");
  if ((front.flags & kFlagCompressed) != 0) {
    unpacked_.resize(data_pages * kPageBytes);
    int bytes = ::LZ4_decompress_safe(
        reinterpret_cast<const char*>(data.data()), reinterpret_cast<char*>(unpacked_.data()),
        static_cast<int>(data.size()), static_cast<int>(unpacked_.size()));
    if (bytes < 0) return bad("page chunk that cannot be decompressed");
    data = std::span<const std::byte>(unpacked_).first(static_cast<std::size_t>(bytes));
  }
  if (data.size() != data_pages * kPageBytes) return bad("page chunk whose data do not fill it");
  if ((front.flags & kFlagChecksum) != 0 && checksum_of({{data}}) != front.checksum)
    return bad("page chunk with a wrong checksum");
  for (auto& each : runs) {
    if (each.kind != RunKind::kData) continue;
    each.bytes = data.first(each.count * kPageBytes);
    data = data.subspan(each.count * kPageBytes);
  }
  return run;
}

}  // namespace gestalt
