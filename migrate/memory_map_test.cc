#include "migrate/memory_map.h"

#include <gtest/gtest.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

namespace gestalt {
namespace {

TEST(MemoryMap, IsParsed) {
  auto areas = parse_memory_map(
      "55d0c0000000-55d0c0002000 r-xp 00001000 fe:01 1234                       /bin/a b\n"
      "55d0c0a00000-55d0c0a21000 rw-p 00000000 00:00 0                          [heap]\n"
      "7f0000000000-7f0000200000 rw-p 00000000 00:0f 77                         "
      "/anon_hugepage (deleted)\n"
      "7f0001000000-7f0001001000 rw-s 00000000 00:01 9                          /dev/zero\n"
      "7f0002000000-7f0002001000 rw-p 00000000 00:00 0 \n"
      "7fffa0000000-7fffa0002000 r-xp 00000000 00:00 0                          [vdso]\n");
  ASSERT_TRUE(areas) << areas.error().text();
  ASSERT_EQ(areas->size(), 6U);
  EXPECT_EQ((*areas)[0].name, "/bin/a b");
  EXPECT_EQ((*areas)[0].offset, 0x1000U);
  EXPECT_EQ((*areas)[0].inode, 1234U);
  EXPECT_TRUE((*areas)[0].is_executable());
  std::vector<bool> anonymous;
  for (const auto& area : *areas) anonymous.push_back(area.is_private_anonymous());
  EXPECT_EQ(anonymous, (std::vector<bool>{false, true, false, false, true, false}));
  for (const char* odd : {"x", "1000-2000", "2000-1000 rw-p 0 00:00 0", "1-2 rw-p 0 00:00 0",
                          "1000-2000 rwp 0 00:00 0", "1000-2000 rw-p 0 00:00 x"})
    EXPECT_FALSE(parse_memory_map(odd)) << odd;
}

auto fields_of(const MemoryArea& area) {
  return std::tuple(area.start, area.end, area.permissions, area.offset, area.device, area.inode,
                    area.name);
}

// A process with this one's memory, which stays as it is.
class Paused {
 public:
  Paused() : pid_(::fork()) {
    if (pid_ != 0) return;
    ::prctl(PR_SET_PDEATHSIG, SIGKILL);
    while (true) ::pause();
  }
  Paused(const Paused&) = delete;
  Paused& operator=(const Paused&) = delete;
  ~Paused() {
    end();
    ::waitpid(pid_, nullptr, 0);
  }
  void end() const {
    ::kill(pid_, SIGKILL);
    siginfo_t info{};
    ::waitid(P_PID, static_cast<id_t>(pid_), &info, WEXITED | WNOWAIT);
  }
  [[nodiscard]] pid_t pid() const { return pid_; }

 private:
  pid_t pid_;
};

// Each way once.
TEST(MemoryMap, FindsEachAreaAsItIsListed) {
  void* pages = ::mmap(nullptr, 8192, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  ASSERT_NE(pages, MAP_FAILED);
  ASSERT_EQ(::mprotect(pages, 4096, PROT_NONE), 0);
  Paused process;
  auto map = MemoryMap::open(process.pid());
  auto areas = read_memory_map(process.pid());
  ASSERT_TRUE(map && areas);
  std::vector<MemoryArea> found;
  for (std::uint64_t at = 0;;) {
    auto area = map->find(at);
    ASSERT_TRUE(area) << area.error().text();
    if (!*area) break;
    at = (*area)->end;
    found.push_back(std::move(**area));
  }
  // Only the list has the vsyscall page, which is the kernel's.
  if (areas->back().name == "[vsyscall]") areas->pop_back();
  if (found.back().name == "[vsyscall]") found.pop_back();
  ASSERT_EQ(found.size(), areas->size());
  for (std::size_t i = 0; i < found.size(); ++i) {
    EXPECT_EQ(fields_of(found[i]), fields_of((*areas)[i]));
    auto inside = map->find(found[i].end - 1);
    ASSERT_TRUE(inside && *inside);
    EXPECT_EQ((*inside)->start, found[i].start);
  }
  ::munmap(pages, 8192);
}

TEST(MemoryMap, OfAProcessThatHasEnded) {
  pid_t pid = 0;
  {
    Paused process;
    pid = process.pid();
    auto map = MemoryMap::open(pid);
    process.end();
    ASSERT_TRUE(map);
    auto found = map->find(0);
    ASSERT_FALSE(found);
    EXPECT_EQ(found.error().code, ErrorCode::kGone);
  }
  auto none = MemoryMap::open(pid);
  ASSERT_FALSE(none);
  EXPECT_EQ(none.error().code, ErrorCode::kGone);
}

}  // namespace
}  // namespace gestalt
