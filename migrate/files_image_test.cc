#include "migrate/files_image.h"

#include <gtest/gtest.h>

#include <cstdint>

namespace gestalt {
namespace {

// Fields as protobuf has them: a varint, a string.
std::string number(int field, std::uint64_t value) {
  std::string out(1, static_cast<char>(field << 3));
  for (; value >= 0x80; value >>= 7) out += static_cast<char>(value | 0x80);
  return out + static_cast<char>(value);
}

std::string text(int field, const std::string& bytes) {
  return std::string(1, static_cast<char>(field << 3 | 2)) + static_cast<char>(bytes.size()) +
         bytes;
}

std::string regular(const std::string& name, const std::string& checks) {
  return number(1, 7) + number(2, 02) + text(5, "") + text(6, name) + number(7, ~0ULL) + checks;
}

std::string file(const std::string& entry) {
  return number(1, 1) + number(2, 300) + text(3, entry);
}

std::string image(const std::vector<std::string>& messages) {
  std::string out("\x19\x43\x56\x54\x38\x31\x30\x56", 8);
  for (const auto& message : messages) {
    auto length = static_cast<std::uint32_t>(message.size());
    out.append(reinterpret_cast<const char*>(&length), 4);
    out += message;
  }
  return out;
}

const std::string kChecks = number(8, 4096) + number(10, 020620);

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
  std::string pipe = number(1, 7) + number(2, 5) + text(9, "x");
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
