#include "migrate/mm_image.h"

#include <sys/mman.h>

#include "migrate/criu_image.h"
#include "migrate/page_wire.h"

namespace gestalt {
namespace {

constexpr std::uint32_t kMmMagic = 0x57492820;  // MM_MAGIC
constexpr int kAreasField = 14;
// VMA_AREA_VSYSCALL, _VDSO, _SYSVIPC, _SOCKET, _VVAR, _AIORING of CRIU's image.h.
constexpr std::uint64_t kSpecialKinds =
    1U << 2 | 1U << 3 | 1U << 10 | 1U << 11 | 1U << 12 | 1U << 13;

bool is_lazy(std::uint64_t flags, std::uint64_t kind) {
  constexpr std::uint64_t kWanted = MAP_PRIVATE | MAP_ANONYMOUS;
  return (flags & kWanted) == kWanted && (flags & (MAP_LOCKED | MAP_HUGETLB)) == 0 &&
         (kind & kSpecialKinds) == 0;
}

}  // namespace

Result<std::vector<PageSet::Range>> parse_lazy_areas(std::string_view content) {
  GESTALT_ASSIGN(auto messages, split_criu_image(content, kMmMagic));
  if (messages.size() != 1) return fail(ErrorCode::kProtocol, "a damaged mm image");
  GESTALT_ASSIGN(auto fields, split_message(messages[0]));
  std::vector<PageSet::Range> areas;
  for (const auto& field : fields) {
    if (field.number != kAreasField) continue;
    if (field.is_number) return fail(ErrorCode::kProtocol, "a damaged mm image");
    GESTALT_ASSIGN(auto parts, split_message(field.bytes));
    PageSet::Range area;
    std::uint64_t flags = 0;
    std::uint64_t kind = 0;
    for (const auto& part : parts) {
      if (part.number == 1) area.start = part.value;
      if (part.number == 2) area.end = part.value;
      if (part.number == 6) flags = part.value;
      if (part.number == 7) kind = part.value;
    }
    if (!is_lazy(flags, kind)) continue;
    if (area.start % kPageBytes != 0 || area.end % kPageBytes != 0 || area.empty() ||
        area.end > kAddressLimit)
      return fail(ErrorCode::kProtocol, "mm image with impossible addresses");
    areas.push_back(area);
  }
  return areas;
}

}  // namespace gestalt
