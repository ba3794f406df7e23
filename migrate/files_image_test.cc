#include "migrate/files_image.h"

#include <gtest/gtest.h>

#include <cstdint>

#include "migrate/test_image.h"

namespace gestalt {
namespace {

std::string regular(const std::string& name, const std::string& checks) {
  return field(1, 7) + field(2, 02) + field(5, "") + field(6, name) + field(7, ~0ULL) + checks;
}

std::string file(const std::string& kind) { return field(1, 1) + field(2, 300) + field(3, kind); }

std::string image(const std::vector<std::string>& messages) {
  auto out = image_front(0x56303138);
  for (const auto& message : messages) out += entry(message);
  return out;
}

const std::string kChecks = field(8, 4096) + field(10, 020620);

TEST(FilesImage, TheTerminalHasAnotherName) {
  auto content = image({file(regular("/dev/pts/11", kChecks)), file(regular("/dev/pts/1", kChecks)),
                        file(regular("/etc/passwd", kChecks))});
  ASSERT_TRUE(adapt_files(content, "/dev/pts/1", "/dev/pts/23"));
  EXPECT_EQ(content, image({file(regular("/dev/pts/11", kChecks)), file(regular("/dev/pts/23", "")),
                            file(regular("/etc/passwd", kChecks))}));
}

TEST(FilesImage, SizesOfProcAreNotCompared) {
  auto content = image({file(regular("/proc/stat", kChecks)), file(regular("/sys/a", kChecks)),
                        file(regular("/process", kChecks))});
  ASSERT_TRUE(adapt_files(content, "", ""));
  EXPECT_EQ(content, image({file(regular("/proc/stat", "")), file(regular("/sys/a", "")),
                            file(regular("/process", kChecks))}));
}

TEST(FilesImage, FilesOfTheSingleViewAreProcs) {
  auto content = image({file(regular("/run/gestalt/machine/stat", kChecks)),
                        file(regular("/run/gestalt/proc/7/stat", kChecks)),
                        file(regular("/run/gestalt/other", kChecks))});
  ASSERT_TRUE(adapt_files(content, "", ""));
  EXPECT_EQ(content, image({file(regular("/proc/stat", "")), file(regular("/proc/7/stat", "")),
                            file(regular("/run/gestalt/other", kChecks))}));
}

TEST(FilesImage, OtherKindsOfFilesStay) {
  std::string pipe = field(1, 7) + field(2, 5) + field(9, "x");
  auto content = image({pipe});
  ASSERT_TRUE(adapt_files(content, "/dev/pts/1", "/dev/pts/2"));
  EXPECT_EQ(content, image({pipe}));
}

TEST(FilesImage, DamagedOnesAreRefused) {
  auto good = image({file(regular("/proc/stat", kChecks))});
  for (std::size_t length = 0; length < good.size(); ++length) {
    auto cut = good.substr(0, length);
    if (length == 8) continue;  // an image without files
    EXPECT_FALSE(adapt_files(cut, "", "")) << length;
  }
}

}  // namespace
}  // namespace gestalt
