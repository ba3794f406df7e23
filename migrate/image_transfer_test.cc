#include "migrate/image_transfer.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <thread>

#include "common/fd.h"
#include "common/format.h"
#include "migrate/criu_client.h"
#include "migrate/fake_transport.h"

namespace gestalt {
namespace {

Deadline soon() { return deadline_in(std::chrono::seconds(5)); }

class ImageTransfer : public ::testing::Test {
 protected:
  void SetUp() override {
    root_ = std::filesystem::temp_directory_path() / formatted("images-{}", ::getpid());
    from_ = root_ + "/from";
    to_ = root_ + "/to";
    std::filesystem::create_directories(from_);
    std::filesystem::create_directories(to_);
  }
  void TearDown() override { std::filesystem::remove_all(root_); }
  void put(const std::string& name, std::size_t bytes) {
    std::ofstream(from_ + "/" + name) << std::string(bytes, 'x');
  }
  Result<std::uint64_t> receive(PageConnection& in, std::uint64_t limit = 1U << 30) {
    return receive_images(in, to_, limit, soon());
  }

  std::string root_;
  std::string from_;
  std::string to_;
};

TEST_F(ImageTransfer, SendsImagesAndNothingElse) {
  put("core-7.img", 3'000'000);
  put("empty.img", 0);
  put("dump.log", 10);
  auto [a, b] = make_fake_streams();
  PageConnection out(std::move(a));
  PageConnection in(std::move(b));
  std::thread sender([&] { EXPECT_EQ(send_images(out, from_, soon()), 3'000'000U); });
  EXPECT_EQ(receive(in), 3'000'000U);
  sender.join();
  EXPECT_EQ(std::filesystem::file_size(to_ + "/core-7.img"), 3'000'000U);
  EXPECT_TRUE(std::filesystem::exists(to_ + "/empty.img"));
  EXPECT_FALSE(std::filesystem::exists(to_ + "/dump.log"));
}

TEST_F(ImageTransfer, RefusesNamesThatLeadElsewhere) {
  for (const char* name : {"../x.img", "/etc/passwd", ".hidden", "", "a b", "x/y.img"}) {
    EXPECT_FALSE(is_image_name(name)) << name;
    auto [a, b] = make_fake_streams();
    PageConnection out(std::move(a));
    PageConnection in(std::move(b));
    ASSERT_TRUE(out.send(FrameType::kStateFile, 1, name, soon()));
    EXPECT_EQ(receive(in).error().code, ErrorCode::kProtocol) << name;
  }
  EXPECT_TRUE(is_image_name("pagemap-123.img"));
  EXPECT_FALSE(is_image_name(std::string(256, 'a')));
}

TEST_F(ImageTransfer, RefusesMoreThanThereIsRoomFor) {
  auto [a, b] = make_fake_streams();
  PageConnection out(std::move(a));
  PageConnection in(std::move(b));
  ASSERT_TRUE(out.send(FrameType::kStateFile, 1001, "big.img", soon()));
  EXPECT_EQ(receive(in, 1000).error().code, ErrorCode::kNoSpace);
}

TEST_F(ImageTransfer, RefusesDataBeyondTheAnnouncedSizeAndMissingFiles) {
  auto [a, b] = make_fake_streams();
  PageConnection out(std::move(a));
  PageConnection in(std::move(b));
  ASSERT_TRUE(out.send(FrameType::kStateFile, 2, "a.img", soon()));
  ASSERT_TRUE(out.send(FrameType::kStateData, 0, "abc", soon()));
  EXPECT_EQ(receive(in).error().code, ErrorCode::kProtocol);
  ASSERT_TRUE(out.send(FrameType::kStateEnd, 5, "", soon()));
  EXPECT_EQ(receive(in).error().code, ErrorCode::kProtocol);
}

TEST_F(ImageTransfer, TheDirectoryGoesWithItsOwner) {
  std::string path;
  {
    auto directory = ImageDirectory::create(root_ + "/deep/er", "m-1-source");
    ASSERT_TRUE(directory) << directory.error().text();
    path = directory->path();
    std::ofstream(path + "/x.img") << "x";
    auto again = ImageDirectory::create(root_ + "/deep/er", "m-1-source");
    ASSERT_TRUE(again);
    EXPECT_FALSE(std::filesystem::exists(path + "/x.img"));
  }
  EXPECT_FALSE(std::filesystem::exists(path));
}

TEST_F(ImageTransfer, OrphanedDirectoriesGoAndOthersStay) {
  std::string orphan = root_ + "/m-1-source.4194303";
  std::string other = root_ + "/something.4194303";
  std::string living = formatted("{}/m-2-source.{}", root_, ::getpid());
  for (const auto& path : {orphan, other, living}) std::filesystem::create_directories(path);
  remove_orphaned_images(root_);
  EXPECT_FALSE(std::filesystem::exists(orphan));
  EXPECT_TRUE(std::filesystem::exists(other));
  EXPECT_TRUE(std::filesystem::exists(living));
}

TEST(CriuLog, QuotesTheFirstErrorsOnly) {
  std::string log =
      "Error (criu/util.c:1): rlimit: Can't setup RLIMIT_NOFILE for self\n"
      "(00.1) Dumping\n(00.2) Error (criu/a.c:5): first\n(00.3) Warn  (criu/a.c:5): no\n"
      "(00.4) Error (criu/b.c:6): second\n";
  EXPECT_EQ(first_criu_errors(log), "Error (criu/a.c:5): first; Error (criu/b.c:6): second");
  EXPECT_EQ(first_criu_errors("all is well\n"), "");
}

}  // namespace
}  // namespace gestalt
