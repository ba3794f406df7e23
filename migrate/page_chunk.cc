#include "migrate/page_chunk.h"

#include <lz4.h>

#include <algorithm>
#include <cstring>

#include "migrate/chunk_front.h"

namespace gestalt {
namespace {

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

Result<void> ChunkWriter::read(const PageRun& run, std::span<std::byte> pages) {
  absent_.assign(run.count, false);
  for (std::size_t page = 0; page < run.count;) {
    auto into = pages.subspan(page * kPageBytes, (run.count - page) * kPageBytes);
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

// What read() has brought, as runs of a kind.
PageCounts ChunkWriter::sort(const PageRun& run, std::span<const std::byte> pages) {
  runs_.clear();
  data_.clear();
  PageCounts counts;
  for (std::size_t page = 0; page < run.count; ++page) {
    auto bytes = pages.subspan(page * kPageBytes, kPageBytes);
    RunKind kind = absent_[page]         ? RunKind::kAbsent
                   : is_zero_page(bytes) ? RunKind::kZero
                                         : RunKind::kData;
    if (runs_.empty() || runs_.back().kind != kind) runs_.push_back({page, 0, kind});
    ++runs_.back().count;
    ++(kind == RunKind::kData ? counts.sent : kind == RunKind::kZero ? counts.zero : counts.absent);
  }
  for (const auto& each : runs_)
    if (each.kind == RunKind::kData)
      data_.push_back(pages.subspan(each.page * kPageBytes, each.count * kPageBytes));
  return counts;
}

Result<PageCounts> ChunkWriter::send(PageConnection& connection, const PageRun& run,
                                     Deadline deadline) {
  pages_.resize(kMaxPagesPerChunk * kPageBytes);
  GESTALT_TRY(read(run, pages_));
  auto counts = sort(run, pages_);
  GESTALT_TRY(send_data(connection, run, deadline));
  return counts;
}

Result<PageCounts> ChunkWriter::stage(PageConnection& connection, const StagedRequest& request,
                                      std::span<std::byte> slot, Deadline deadline) {
  const PageRun& run = request.run;
  if (slot.size() < run.count * kPageBytes)
    return fail(ErrorCode::kProtocol, "request for more pages than the slot takes");
  GESTALT_TRY(read(run, slot));
  auto counts = sort(run, slot);
  ChunkFront front = front_of(run);
  front.data_bytes = static_cast<std::uint32_t>(size_of(data_));
  GESTALT_TRY(connection.send(FrameType::kStaged, run.address,
                              encode_staged(request.slot, encode_front(front, runs_)), deadline));
  return counts;
}

ChunkFront ChunkWriter::front_of(const PageRun& run) const {
  ChunkFront front{.pid = run.pid, .count = run.count};
  front.runs = static_cast<std::uint16_t>(runs_.size());
  if (!options_.checksum) return front;
  front.flags |= kFlagChecksum;
  front.checksum = checksum_of(data_);
  return front;
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
  ChunkFront front = front_of(run);
  if (options_.compress && compress_data()) front.flags |= kFlagCompressed;
  front.data_bytes = static_cast<std::uint32_t>(size_of(data_));
  auto head = encode_front(front, runs_);
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
  auto data = payload;
  GESTALT_ASSIGN(auto front,
                 decode_front(header.argument, kFlagCompressed | kFlagChecksum, data, runs));
  if (data.size() != front.data_bytes) return bad("page chunk whose length and counts disagree");
  std::uint64_t data_bytes = data_bytes_of(runs);
  if (front.has(kFlagCompressed)) {
    unpacked_.resize(data_bytes);
    int bytes = ::LZ4_decompress_safe(
        reinterpret_cast<const char*>(data.data()), reinterpret_cast<char*>(unpacked_.data()),
        static_cast<int>(data.size()), static_cast<int>(unpacked_.size()));
    if (bytes < 0) return bad("page chunk that cannot be decompressed");
    data = std::span<const std::byte>(unpacked_).first(static_cast<std::size_t>(bytes));
  }
  if (data.size() != data_bytes) return bad("page chunk whose data do not fill it");
  if (front.has(kFlagChecksum) && checksum_of({{data}}) != front.checksum)
    return bad("page chunk with a wrong checksum");
  for (auto& each : runs) {
    if (each.kind != RunKind::kData) continue;
    each.bytes = data.first(each.count * kPageBytes);
    data = data.subspan(each.count * kPageBytes);
  }
  return PageRun{front.pid, header.argument, front.count};
}

Result<StagedPages> ChunkReader::decode_staged(const FrameHeader& header,
                                               std::span<const std::byte> payload,
                                               std::vector<ChunkRun>& runs) {
  StagedPages out;
  GESTALT_ASSIGN(out.slot, take_slot(payload));
  GESTALT_ASSIGN(auto front, decode_front(header.argument, kFlagChecksum, payload, runs));
  if (!payload.empty() || front.data_bytes != data_bytes_of(runs))
    return fail(ErrorCode::kProtocol, "staged pages whose length and counts disagree");
  out.run = {front.pid, header.argument, front.count};
  if (front.has(kFlagChecksum)) out.checksum = front.checksum;
  return out;
}

Result<void> check_staged(const StagedPages& staged, std::span<const ChunkRun> runs) {
  if (!staged.checksum) return {};
  std::vector<std::span<const std::byte>> parts;
  for (const auto& run : runs)
    if (run.kind == RunKind::kData) parts.push_back(run.bytes);
  if (checksum_of(parts) != *staged.checksum)
    return fail(ErrorCode::kProtocol, "staged pages with a wrong checksum");
  return {};
}

}  // namespace gestalt
