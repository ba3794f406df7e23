#include "migrate/pagemap_image.h"

#include <gtest/gtest.h>

#include "migrate/test_image.h"

namespace gestalt {
namespace {

const std::string kFront = image_front(0x56084025) + entry(field(1, 1));

// Flags: 1 in a parent, 2 lazy, 4 present.
TEST(PagemapImage, TellsWhatIsThereFromWhatIsLeftToUs) {
  std::string image = kFront + entry(field(1, 0x1000) + field(2, 2) + field(4, 2)) +
                      entry(field(1, 0x8000) + field(2, 5) + field(4, 4)) +
                      entry(field(1, 0x20000) + field(2, 1) + field(3, 0) + field(4, 6)) +
                      entry(field(1, 0x30000) + field(2, 1) + field(3, 1) + field(4, 1));
  auto dumped = parse_dumped_pages(image);
  ASSERT_TRUE(dumped) << dumped.error().text();
  EXPECT_EQ(dumped->pages(), 6U);
  EXPECT_TRUE(dumped->contains(0x20000));
  auto eager = parse_eager_pages(image);
  ASSERT_TRUE(eager) << eager.error().text();
  EXPECT_EQ(eager->pages(), 5U);
  EXPECT_TRUE(eager->contains(0x8000, 0xd000));
}

TEST(PagemapImage, PrefersTheWideCountOfCriu42) {
  auto pages =
      parse_eager_pages(kFront + entry(field(1, 0x1000) + field(2, 0) + field(4, 4) + field(5, 3)));
  ASSERT_TRUE(pages);
  EXPECT_EQ(pages->pages(), 3U);
}

TEST(PagemapImage, NoPagesAtAll) {
  auto pages = parse_eager_pages(kFront);
  ASSERT_TRUE(pages);
  EXPECT_TRUE(pages->empty());
}

TEST(PagemapImage, RefusesDamage) {
  std::string good = kFront + entry(field(1, 0x1000) + field(2, 2) + field(4, 2));
  EXPECT_FALSE(parse_eager_pages(""));
  EXPECT_FALSE(parse_eager_pages(good.substr(0, good.size() - 1)));
  EXPECT_FALSE(parse_eager_pages(good + "x"));
  std::string foreign = good;
  foreign[0] = 'x';
  EXPECT_FALSE(parse_eager_pages(foreign));
  EXPECT_FALSE(parse_eager_pages(kFront + entry(field(1, 0x1001) + field(2, 1) + field(4, 2))));
  EXPECT_FALSE(parse_eager_pages(kFront + entry(field(1, 0x1000) + field(2, ~0ULL) + field(4, 2))));
  EXPECT_FALSE(parse_eager_pages(kFront + entry(field(1, 1ULL << 47) + field(2, 1) + field(4, 2))));
  EXPECT_FALSE(parse_eager_pages(kFront + word(0xffffffff)));
  EXPECT_FALSE(parse_eager_pages(kFront + entry("\xff\xff\xff")));
}

}  // namespace
}  // namespace gestalt
