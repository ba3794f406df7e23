#include "migrate/pagemap_image.h"

#include <google/protobuf/io/coded_stream.h>
#include <google/protobuf/wire_format_lite.h>

#include <charconv>
#include <cstring>
#include <filesystem>

#include "common/fd.h"
#include "migrate/page_wire.h"

namespace gestalt {
namespace {

using google::protobuf::internal::WireFormatLite;
using google::protobuf::io::CodedInputStream;

constexpr std::uint32_t kImageMagic = 0x54564319;    // IMG_COMMON_MAGIC
constexpr std::uint32_t kPagemapMagic = 0x56084025;  // PAGEMAP_MAGIC
constexpr std::uint64_t kFlagLazy = 2;               // PE_LAZY

struct PagemapEntry {
  std::uint64_t address = 0;
  std::uint64_t pages = 0;
  std::uint64_t flags = 0;
};

Result<PagemapEntry> parse_entry(const std::string& content, std::size_t offset,
                                 std::uint32_t length) {
  CodedInputStream input(reinterpret_cast<const std::uint8_t*>(content.data()) + offset,
                         static_cast<int>(length));
  PagemapEntry entry;
  std::uint64_t wide_pages = 0;
  while (std::uint32_t tag = input.ReadTag()) {
    std::uint64_t value = 0;
    bool is_number = WireFormatLite::GetTagWireType(tag) == WireFormatLite::WIRETYPE_VARINT;
    if (!is_number ? !WireFormatLite::SkipField(&input, tag) : !input.ReadVarint64(&value))
      return fail(ErrorCode::kProtocol, "damaged pagemap image");
    int field = is_number ? WireFormatLite::GetTagFieldNumber(tag) : 0;
    if (field == 1) entry.address = value;
    if (field == 2) entry.pages = value;
    if (field == 4) entry.flags = value;
    if (field == 5) wide_pages = value;
  }
  if (!input.ConsumedEntireMessage()) return fail(ErrorCode::kProtocol, "damaged pagemap image");
  if (wide_pages != 0) entry.pages = wide_pages;
  bool fits = entry.address % kPageBytes == 0 && entry.address < kAddressLimit &&
              entry.pages <= (kAddressLimit - entry.address) / kPageBytes;
  if (!fits) return fail(ErrorCode::kProtocol, "pagemap image with impossible addresses");
  return entry;
}

std::uint32_t word_at(const std::string& content, std::size_t offset) {
  std::uint32_t value = 0;
  std::memcpy(&value, content.data() + offset, sizeof value);
  return value;
}

}  // namespace

Result<PageRanges> parse_lazy_pages(const std::string& content) {
  if (content.size() < 12 || word_at(content, 0) != kImageMagic ||
      word_at(content, 4) != kPagemapMagic)
    return fail(ErrorCode::kProtocol, "not a pagemap image");
  PageRanges lazy;
  bool first = true;
  for (std::size_t offset = 8; offset < content.size();) {
    if (content.size() - offset < 4) return fail(ErrorCode::kProtocol, "cut pagemap image");
    std::uint32_t length = word_at(content, offset);
    offset += 4;
    if (length > content.size() - offset) return fail(ErrorCode::kProtocol, "cut pagemap image");
    if (!first) {
      GESTALT_ASSIGN(auto entry, parse_entry(content, offset, length));
      if ((entry.flags & kFlagLazy) != 0)
        lazy.add(entry.address, entry.address + entry.pages * kPageBytes);
    }
    first = false;
    offset += length;
  }
  return lazy;
}

Result<std::map<std::uint32_t, PageRanges>> read_lazy_pages(const std::string& directory) {
  constexpr std::string_view kPrefix = "pagemap-";
  std::map<std::uint32_t, PageRanges> out;
  std::error_code error;
  for (const auto& entry : std::filesystem::directory_iterator(directory, error)) {
    std::string name = entry.path().filename();
    if (!name.starts_with(kPrefix) || name.starts_with("pagemap-shmem")) continue;
    std::uint32_t pid = 0;
    auto [end, failure] =
        std::from_chars(name.data() + kPrefix.size(), name.data() + name.size(), pid);
    if (failure != std::errc() || std::string_view(end) != ".img") continue;
    GESTALT_ASSIGN(auto content, read_file(entry.path(), 1U << 30));
    auto lazy = parse_lazy_pages(content);
    if (!lazy) return std::unexpected(std::move(lazy).error().in(name));
    out[pid] = std::move(*lazy);
  }
  if (error) return fail_errno(error.value(), std::format("list {}", directory));
  return out;
}

}  // namespace gestalt
