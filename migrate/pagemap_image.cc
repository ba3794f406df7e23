#include "migrate/pagemap_image.h"

#include <filesystem>

#include "common/fd.h"
#include "migrate/criu_image.h"
#include "migrate/page_wire.h"

namespace gestalt {
namespace {

// In one entry: 1 TiB.
constexpr std::uint64_t kMaxPages = 1ULL << 28;
constexpr std::uint32_t kPagemapMagic = 0x56084025;  // PAGEMAP_MAGIC
constexpr std::uint64_t kFlagParent = 1;             // PE_PARENT
constexpr std::uint64_t kFlagLazy = 2;               // PE_LAZY
constexpr std::uint64_t kFlagPresent = 4;            // PE_PRESENT

struct PagemapEntry {
  std::uint64_t address = 0;
  std::uint64_t pages = 0;
  bool in_parent = false;
  std::uint64_t flags = 0;
};

Result<PagemapEntry> parse_entry(std::string_view message) {
  GESTALT_ASSIGN(auto fields, split_message(message));
  PagemapEntry entry;
  std::uint64_t wide_pages = 0;
  for (const auto& field : fields) {
    if (!field.is_number) continue;
    if (field.number == 1) entry.address = field.value;
    if (field.number == 2) entry.pages = field.value;
    if (field.number == 3) entry.in_parent = field.value != 0;
    if (field.number == 4) entry.flags = field.value;
    if (field.number == 5) wide_pages = field.value;
  }
  if (wide_pages != 0) entry.pages = wide_pages;
  bool fits = entry.address % kPageBytes == 0 && entry.address < kAddressLimit &&
              entry.pages <= kMaxPages &&
              entry.pages <= (kAddressLimit - entry.address) / kPageBytes;
  if (!fits) return fail(ErrorCode::kProtocol, "pagemap image with impossible addresses");
  return entry;
}

Result<std::vector<PagemapEntry>> parse_entries(const std::string& content) {
  GESTALT_ASSIGN(auto messages, split_criu_image(content, kPagemapMagic));
  std::vector<PagemapEntry> entries;
  for (std::size_t i = 1; i < messages.size(); ++i) {
    GESTALT_ASSIGN(auto entry, parse_entry(messages[i]));
    entries.push_back(entry);
  }
  return entries;
}

}  // namespace

Result<PageSet> parse_dumped_pages(const std::string& content) {
  GESTALT_ASSIGN(auto entries, parse_entries(content));
  PageSet dumped;
  for (const auto& entry : entries)
    if ((entry.flags & kFlagPresent) != 0)
      dumped.add(entry.address, entry.address + entry.pages * kPageBytes);
  return dumped;
}

Result<PageSet> parse_eager_pages(const std::string& content) {
  GESTALT_ASSIGN(auto entries, parse_entries(content));
  PageSet eager;
  for (const auto& entry : entries)
    if ((entry.flags & (kFlagLazy | kFlagParent)) == 0 && !entry.in_parent)
      eager.add(entry.address, entry.address + entry.pages * kPageBytes);
  return eager;
}

}  // namespace gestalt
