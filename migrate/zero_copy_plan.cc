#include "migrate/zero_copy_plan.h"

#include <fcntl.h>
#include <linux/fs.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <bit>
#include <span>

#include "common/fd.h"
#include "common/format.h"
#include "migrate/memory_map.h"

namespace gestalt {
namespace {

constexpr std::uint64_t kPresent = 1ULL << 63;
constexpr std::uint64_t kFile = 1ULL << 61;
constexpr std::uint64_t kWriteProtected = 1ULL << 57;
constexpr std::uint64_t kExclusive = 1ULL << 56;
constexpr std::uint64_t kWindowBytes = 16 * kBlockBytes;
constexpr std::uint64_t kWordBits = 64;

bool is_suitable(const MemoryArea& area) {
  return area.is_private_anonymous() && area.permissions[0] == 'r';
}

// Kernels that have PAGEMAP_SCAN (6.7) pin for reading without a write (6.2).
bool pins_write(int pagemap) {
  pm_scan_arg nothing{};
  nothing.size = sizeof nothing;
  return ::ioctl(pagemap, PAGEMAP_SCAN, &nothing) != 0 && errno == ENOTTY;
}

class Planner {
 public:
  Planner(const PageSet& wanted, const ZeroCopyLimits& limits, Fd pagemap)
      : wanted_(wanted),
        limits_(limits),
        pagemap_(std::move(pagemap)),
        unsafe_(pins_write(pagemap_.get()) ? kWriteProtected : 0) {}

  // In windows, those without wanted pages left out.
  Result<void> look_at(const MemoryArea& area) {
    std::uint64_t looked_until = 0;
    for (auto next = wanted_.next(area.start, kPageBytes); !next.empty() && next.start < area.end;
         next = wanted_.next(looked_until, kPageBytes)) {
      std::uint64_t end = std::min(area.end, next.start / kBlockBytes * kBlockBytes + kWindowBytes);
      if (!is_suitable(area)) {
        refuse(ZeroCopyRefusal::kMapping, wanted_.pages_in(next.start, end));
      } else {
        // What lies between two windows is not looked at, and so no bridge.
        if (next.start != looked_until) close();
        GESTALT_TRY(look_at(next.start, end));
      }
      looked_until = end;
    }
    close();
    return {};
  }

  ZeroCopyPlan finish() && {
    std::uint64_t seen = 0;
    for (auto pages : plan_.refused) seen += pages;
    for (const auto& range : plan_.ranges) seen += range.wanted_pages;
    refuse(ZeroCopyRefusal::kMapping, wanted_.pages() - seen);
    keep_the_largest();
    return std::move(plan_);
  }

 private:
  Result<void> look_at(std::uint64_t start, std::uint64_t end) {
    std::array<std::uint64_t, kWindowBytes / kPageBytes> entries;
    std::size_t count = (end - start) / kPageBytes;
    ssize_t got = ::pread(pagemap_.get(), entries.data(), count * sizeof(std::uint64_t),
                          static_cast<off_t>(start / kPageBytes * sizeof(std::uint64_t)));
    if (got < 0) return fail_errno(errno, "read a process's page map");
    std::fill(entries.begin() + got / 8, entries.begin() + static_cast<ssize_t>(count), 0);
    for (std::size_t i = 0; i < count;) {
      std::uint64_t at = start + i * kPageBytes;
      std::uint64_t block = at / kBlockBytes;
      std::size_t in_block =
          std::min<std::size_t>(count - i, (block + 1) * kPagesPerBlock - at / kPageBytes);
      look_at_block(at, std::span(entries).subspan(i, in_block));
      i += in_block;
    }
    return {};
  }

  // A word of the block's bits at a time.
  void look_at_block(std::uint64_t at, std::span<const std::uint64_t> entries) {
    auto found = wanted_.blocks().find(at / kBlockBytes);
    bool any_wanted = found != wanted_.blocks().end();
    for (std::size_t i = 0; i < entries.size();) {
      std::uint64_t bit = at / kPageBytes % kPagesPerBlock + i;
      std::size_t count = std::min<std::size_t>(entries.size() - i, kWordBits - bit % kWordBits);
      std::uint64_t wanted = any_wanted ? found->second[bit / kWordBits] >> bit % kWordBits : 0;
      look_at_word(at + i * kPageBytes, wanted, entries.subspan(i, count));
      i += count;
    }
  }

  // Bit i of `wanted` is for entries[i].
  void look_at_word(std::uint64_t at, std::uint64_t wanted,
                    std::span<const std::uint64_t> entries) {
    std::uint64_t safe = 0;
    for (std::size_t i = 0; i < entries.size(); ++i)
      safe |= std::uint64_t{is_safe(entries[i])} << i;
    for (std::size_t i = 0; i < entries.size();) {
      auto good = static_cast<std::size_t>(std::countr_one((safe & wanted) >> i));
      if (good > 0) take(at + i * kPageBytes, good);
      i += good;
      if (i == entries.size()) break;
      if ((safe >> i & 1) == 0) {
        close();
        if ((wanted >> i & 1) != 0) refuse(reason_of(entries[i]), 1);
      }
      ++i;
    }
  }

  [[nodiscard]] bool is_safe(std::uint64_t entry) const {
    constexpr std::uint64_t kMustBe = kPresent | kExclusive;
    return (entry & (kMustBe | kFile | unsafe_)) == kMustBe;
  }

  // Pages in a row that are wanted and safe: behind those of the open range if it may be so.
  void take(std::uint64_t at, std::uint64_t pages) {
    while (pages > 0) {
      bool continues = open_.wanted_pages > 0 &&
                       at - open_.end <= limits_.max_bridged_pages * kPageBytes &&
                       at + kPageBytes - open_.start <= limits_.max_region_bytes;
      if (!continues) {
        close();
        open_.start = at;
      }
      std::uint64_t room = std::max(limits_.max_region_bytes, kPageBytes) - (at - open_.start);
      std::uint64_t count = std::min(pages, room / kPageBytes);
      open_.end = at + count * kPageBytes;
      open_.wanted_pages += count;
      at += count * kPageBytes;
      pages -= count;
    }
  }

  [[nodiscard]] static ZeroCopyRefusal reason_of(std::uint64_t entry) {
    if ((entry & kPresent) == 0) return ZeroCopyRefusal::kNotPresent;
    if ((entry & kFile) != 0) return ZeroCopyRefusal::kMapping;
    if ((entry & kExclusive) == 0) return ZeroCopyRefusal::kShared;
    return ZeroCopyRefusal::kProtected;
  }

  void close() {
    if (open_.wanted_pages >= std::max<std::uint64_t>(limits_.min_region_pages, 1)) {
      plan_.ranges.push_back(open_);
    } else {
      refuse(ZeroCopyRefusal::kFew, open_.wanted_pages);
    }
    open_ = {};
  }

  void keep_the_largest() {
    auto& ranges = plan_.ranges;
    if (ranges.size() <= limits_.max_regions) return;
    auto first_refused = ranges.begin() + static_cast<std::ptrdiff_t>(limits_.max_regions);
    std::ranges::nth_element(ranges, first_refused, std::greater(), &ZeroCopyRange::wanted_pages);
    for (auto it = first_refused; it != ranges.end(); ++it)
      refuse(ZeroCopyRefusal::kRegions, it->wanted_pages);
    ranges.erase(first_refused, ranges.end());
    std::ranges::sort(ranges, {}, &ZeroCopyRange::start);
  }

  void refuse(ZeroCopyRefusal why, std::uint64_t pages) {
    plan_.refused[static_cast<std::size_t>(why)] += pages;
  }

  const PageSet& wanted_;
  const ZeroCopyLimits& limits_;
  Fd pagemap_;
  std::uint64_t unsafe_;
  ZeroCopyPlan plan_;
  ZeroCopyRange open_;  // no wanted pages: none
};

}  // namespace

std::string_view name_of(ZeroCopyRefusal refusal) {
  switch (refusal) {
    case ZeroCopyRefusal::kMapping:
      return "mapping";
    case ZeroCopyRefusal::kNotPresent:
      return "not-present";
    case ZeroCopyRefusal::kShared:
      return "shared";
    case ZeroCopyRefusal::kProtected:
      return "protected";
    case ZeroCopyRefusal::kFew:
      return "few";
    case ZeroCopyRefusal::kRegions:
      return "regions";
    case ZeroCopyRefusal::kKernel:
      return "kernel";
    case ZeroCopyRefusal::kCount:
      break;
  }
  return "unknown";
}

Result<ZeroCopyPlan> plan_zero_copy(pid_t pid, const PageSet& wanted,
                                    const ZeroCopyLimits& limits) {
  GESTALT_ASSIGN(auto map, MemoryMap::open(pid));
  auto pagemap = open_file(formatted("/proc/{}/pagemap", pid), O_RDONLY);
  if (!pagemap) return fail(ErrorCode::kGone, formatted("process {} has ended", pid));
  Planner planner(wanted, limits, std::move(*pagemap));
  for (auto next = wanted.next(0, kPageBytes); !next.empty();) {
    GESTALT_ASSIGN(auto area, map.find(next.start));
    if (!area) break;
    GESTALT_TRY(planner.look_at(*area));
    next = wanted.next(area->end, kPageBytes);
  }
  return std::move(planner).finish();
}

}  // namespace gestalt
