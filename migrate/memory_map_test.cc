#include "migrate/memory_map.h"

#include <gtest/gtest.h>

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

}  // namespace
}  // namespace gestalt
