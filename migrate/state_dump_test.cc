// The parsers. Dumps by a real CRIU are tests/cluster/state_dump_test.sh.
#include "migrate/state_dump.h"

#include <gtest/gtest.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <cstring>
#include <filesystem>

#include "common/fd.h"
#include "common/format.h"
#include "migrate/criu_image.h"
#include "migrate/mm_image.h"
#include "migrate/pagemap_image.h"
#include "migrate/test_image.h"

namespace gestalt {
namespace {

std::string area(std::uint64_t start, std::uint64_t end, std::uint64_t flags, std::uint64_t kind) {
  return field(14, field(1, start) + field(2, end) + field(3, 0) + field(4, 0) + field(5, 3) +
                       field(6, flags) + field(7, kind) + field(8, ~0ULL));
}

std::string mm_image(std::string_view areas) {
  return image_front(0x57492820) + entry(field(1, 0x400000) + std::string(areas));
}

std::string pagemap_image(std::string_view entries) {
  return image_front(0x56084025) + entry(field(1, 1)) + std::string(entries);
}

constexpr std::uint64_t kPlain = MAP_PRIVATE | MAP_ANONYMOUS;
constexpr std::uint64_t kRegular = 1U | 1U << 9;

TEST(MmImage, ChoosesTheAreasOfALazyRestore) {
  auto areas = parse_lazy_areas(mm_image(
      area(0x10000, 0x20000, kPlain, kRegular) + area(0x20000, 0x30000, MAP_PRIVATE, 1U | 1U << 6) +
      area(0x30000, 0x40000, kPlain | MAP_LOCKED, kRegular) +
      area(0x40000, 0x50000, kPlain | MAP_HUGETLB, kRegular) +
      area(0x50000, 0x60000, MAP_SHARED | MAP_ANONYMOUS, 1U | 1U << 8) +
      area(0x60000, 0x70000, kPlain, kRegular | 1U << 3) +
      area(0x70000, 0x80000, kPlain | MAP_GROWSDOWN, kRegular) +
      area(0xffffffffff600000, 0xffffffffff601000, kPlain, 1U << 2)));
  ASSERT_TRUE(areas) << areas.error().text();
  EXPECT_EQ(*areas, (std::vector<PageSet::Range>{{0x10000, 0x20000}, {0x70000, 0x80000}}));
}

TEST(MmImage, RefusesDamage) {
  std::string good = mm_image(area(0x10000, 0x20000, kPlain, kRegular));
  ASSERT_TRUE(parse_lazy_areas(good));
  for (std::size_t size = 0; size < good.size(); ++size) {
    auto cut = parse_lazy_areas(good.substr(0, size));
    ASSERT_FALSE(cut) << size;
    EXPECT_EQ(cut.error().code, ErrorCode::kProtocol);
  }
  EXPECT_FALSE(parse_lazy_areas(good + "x"));
  EXPECT_FALSE(parse_lazy_areas(good + entry("")));
  EXPECT_FALSE(parse_lazy_areas(mm_image(area(0x20000, 0x10000, kPlain, kRegular))));
  EXPECT_FALSE(parse_lazy_areas(mm_image(area(0x10001, 0x20000, kPlain, kRegular))));
  EXPECT_FALSE(parse_lazy_areas(mm_image(area(0x1000, 1ULL << 60, kPlain, kRegular))));
  EXPECT_FALSE(parse_lazy_areas(mm_image(field(14, 3))));
  EXPECT_FALSE(parse_lazy_areas(pagemap_image("")));
}

TEST(PagemapImage, KnowsWhatWasDumpedAndWhatIsEager) {
  std::string image =
      pagemap_image(entry(field(1, 0x1000) + field(2, 1) + field(4, 2 | 4)) +
                    entry(field(1, 0x3000) + field(2, 2) + field(4, 4)) +
                    entry(field(1, 0x6000) + field(2, 1) + field(3, 1)) +
                    entry(field(1, 0x8000) + field(2, 1) + field(4, 1)) +
                    entry(field(1, 0xa000) + field(2, 0) + field(4, 4) + field(5, 3)) +
                    entry(field(1, 0x10000) + field(2, 1) + field(4, 2)));
  auto eager = parse_eager_pages(image);
  ASSERT_TRUE(eager) << eager.error().text();
  EXPECT_EQ(eager->pages(), 5U);
  EXPECT_TRUE(eager->contains(0x3000, 0x5000));
  EXPECT_TRUE(eager->contains(0xa000, 0xd000));
  auto dumped = parse_dumped_pages(image);
  ASSERT_TRUE(dumped) << dumped.error().text();
  EXPECT_EQ(dumped->pages(), 6U);
  EXPECT_TRUE(dumped->contains(0x1000));
  EXPECT_FALSE(dumped->contains(0x10000));
}

TEST(CriuImage, NumbersOfNames) {
  EXPECT_EQ(image_number("mm-17.img", "mm"), 17U);
  for (const char* other : {"mm-.img", "mm-17", "mm-17.img2", "mm17.img", "pagemap-17.img",
                            "mm-x.img", "mm-99999999999.img", "mm"})
    EXPECT_EQ(image_number(other, "mm"), 0U) << other;
}

class StateDumpTest : public testing::Test {
 protected:
  StateDumpTest() {
    std::filesystem::create_directory(directory_);
    child_ = ::fork();
    if (child_ == 0)
      while (true) ::pause();
  }
  ~StateDumpTest() override {
    ::kill(child_, SIGKILL);
    ::waitpid(child_, nullptr, 0);
    ::munmap(memory_, kBytes);
    std::filesystem::remove_all(directory_);
  }
  void write(const std::string& name, const std::string& content) {
    ASSERT_TRUE(replace_file(directory_ + "/" + name, content, 0600));
  }
  static void* map_touched() {
    void* memory =
        ::mmap(nullptr, kBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    std::memset(memory, 1, kBytes);
    return memory;
  }

  static constexpr std::size_t kBytes = 80U << 20;
  std::string directory_ = formatted("/tmp/state-dump-test-{}", ::getpid());
  void* memory_ = map_touched();
  std::uint64_t start_ = reinterpret_cast<std::uint64_t>(memory_);
  pid_t child_ = -1;
};

TEST_F(StateDumpTest, MissingPagesArePresentLazyAndNotDumped) {
  auto name = [&](const char* kind) { return formatted("{}-{}.img", kind, child_); };
  write(name("mm"),
        mm_image(area(start_, start_ + 0x10000, kPlain, kRegular) +
                 area(start_ + 0x10000, start_ + 0x20000, kPlain | MAP_LOCKED, kRegular)));
  write(name("pagemap"),
        pagemap_image(entry(field(1, start_) + field(2, 3) + field(4, 4)) +
                      entry(field(1, start_ + 0x4000) + field(2, 1) + field(4, 2 | 4))));
  write("mm-x.img", "nothing");
  auto missing = read_missing_pages(directory_);
  ASSERT_TRUE(missing) << missing.error().text();
  ASSERT_EQ(missing->size(), 1U);
  const auto& pages = missing->at(static_cast<std::uint32_t>(child_));
  EXPECT_EQ(pages.pages(), 13U);
  EXPECT_TRUE(pages.contains(start_ + 0x3000, start_ + 0x10000));
  write(name("pagemap"), "damage");
  EXPECT_EQ(read_missing_pages(directory_).error().code, ErrorCode::kProtocol);
}

TEST_F(StateDumpTest, SmapsOfLargeProcessesAreStoredAndCompared) {
  auto file = formatted("{}/smaps-{}", directory_, child_);
  ASSERT_TRUE(snapshot_smaps({child_, 4194300}, directory_));
  EXPECT_TRUE(std::filesystem::exists(file));
  EXPECT_TRUE(smaps_unchanged({child_, 4194300}, directory_).value());
  auto text = *read_file(file);
  auto flags = text.find("VmFlags: rd wr");
  ASSERT_NE(flags, std::string::npos);
  write(formatted("smaps-{}", child_), std::string(text).insert(flags + 9, "uw "));
  EXPECT_TRUE(smaps_unchanged({child_}, directory_).value());
  write(formatted("smaps-{}", child_), std::string(text).insert(flags + 9, "dd "));
  EXPECT_FALSE(smaps_unchanged({child_}, directory_).value());
  std::filesystem::remove(file);
  EXPECT_TRUE(smaps_unchanged({child_}, directory_).value());
}

}  // namespace
}  // namespace gestalt
