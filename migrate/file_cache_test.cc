#include "migrate/file_cache.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <filesystem>

#include "common/fd.h"

namespace gestalt {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

constexpr std::uint64_t kMiB = 1U << 20;

// On a disk, as what is in memory has no cold cache.
class OnDisk : public ::testing::Test {
 protected:
  OnDisk() {
    // Where the tests are built, mostly; /tmp may be in memory.
    path_ = std::filesystem::current_path() / "gestalt-cache-XXXXXX";
    fd_ = Fd(::mkstemp(path_.data()));
    std::string content(kSize, 'x');
    EXPECT_EQ(::write(fd_.get(), content.data(), content.size()), static_cast<ssize_t>(kSize));
    EXPECT_EQ(::fsync(fd_.get()), 0);
  }
  ~OnDisk() override { (void)::unlink(path_.c_str()); }

  // False where the file system keeps it whatever we say.
  [[nodiscard]] bool chill() const {
    (void)::posix_fadvise(fd_.get(), 0, 0, POSIX_FADV_DONTNEED);
    return cached_ranges(fd_.get(), kSize).empty();
  }
  void read_at(std::uint64_t offset, std::size_t bytes) const {
    (void)::posix_fadvise(fd_.get(), 0, 0, POSIX_FADV_RANDOM);  // no more than asked for
    std::string into(bytes, 0);
    EXPECT_EQ(::pread(fd_.get(), into.data(), bytes, static_cast<off_t>(offset)),
              static_cast<ssize_t>(bytes));
  }
  [[nodiscard]] std::vector<CachedFile> files_of_this_process() const {
    auto all = cached_files("/proc", {{::getpid()}, 1});
    std::erase_if(all, [this](const auto& file) { return file.path != path_; });
    return all;
  }

  static constexpr std::uint64_t kSize = 8 * kMiB + 1000;
  std::string path_;
  Fd fd_;
};

TEST_F(OnDisk, WhatIsCachedOfIt) {
  EXPECT_THAT(cached_ranges(fd_.get(), kSize), ElementsAre(FileRange{0, kSize}));
  if (!chill()) GTEST_SKIP() << "this file system has no cold cache";
  read_at(kMiB, 64 << 10);
  read_at(kMiB + (100 << 10), 4096);  // after a small gap
  read_at(4 * kMiB, 4096);
  read_at(kSize - 10, 10);
  EXPECT_THAT(cached_ranges(fd_.get(), kSize),
              ElementsAre(FileRange{kMiB, 104 << 10}, FileRange{4 * kMiB, 4096},
                          FileRange{8 * kMiB, 1000}));
}

TEST_F(OnDisk, ThoseOfAProcess) {
  auto files = files_of_this_process();
  ASSERT_EQ(files.size(), 1U);
  EXPECT_EQ(files[0].bytes(), kSize);
  Fd twice = duplicate(fd_.get()).value();
  EXPECT_EQ(files_of_this_process().size(), 1U);
  void* mapped = ::mmap(nullptr, kSize, PROT_READ, MAP_PRIVATE, fd_.get(), 0);
  twice.reset();
  fd_.reset();
  EXPECT_EQ(files_of_this_process(), files) << "mapped only";
  ::unlink(path_.c_str());
  EXPECT_THAT(files_of_this_process(), IsEmpty()) << "deleted";
  ::munmap(mapped, kSize);
}

TEST_F(OnDisk, IsReadAhead) {
  if (!chill()) GTEST_SKIP() << "this file system has no cold cache";
  CachedFile file{path_, kSize, {{kMiB, 3 * kMiB}}};
  CachedFile missing{path_ + "-nowhere", kSize, {{0, kSize}}};
  CachedFile other_size{path_, kSize + 1, {{0, kSize}}};
  CachedFile device{"/dev/zero", 4096, {{0, 4096}}};
  FileWarmer warmer({missing, other_size, device, file});
  warmer.wait();
  EXPECT_EQ(warmer.requested_bytes(), 3 * kMiB);
  // The reads are under way.
  std::vector<FileRange> ranges;
  for (int i = 0; i < 1000; ++i) {
    ranges = cached_ranges(fd_.get(), kSize);
    if (!ranges.empty() && ranges[0] == FileRange{kMiB, 3 * kMiB}) break;
    ::usleep(5000);
  }
  EXPECT_THAT(ranges, ElementsAre(FileRange{kMiB, 3 * kMiB}));
}

TEST(CachedFileOnTheWire, ComesBack) {
  for (const CachedFile& file :
       {CachedFile{"/a", 1, {{0, 1}}},
        CachedFile{"/x\ny \xff", 1ULL << 50, {{4096, 8192}, {1 << 20, 5}}}}) {
    auto decoded = decode_cached_file(encode_cached_file(file));
    ASSERT_TRUE(decoded) << decoded.error().text();
    EXPECT_EQ(*decoded, file);
  }
}

TEST(CachedFileOnTheWire, MakesSense) {
  CachedFile good{"/a", 100, {{0, 10}, {20, 80}}};
  ASSERT_TRUE(decode_cached_file(encode_cached_file(good)));
  auto refused = [](const CachedFile& file) {
    auto decoded = decode_cached_file(encode_cached_file(file));
    return !decoded && decoded.error().code == ErrorCode::kProtocol;
  };
  EXPECT_TRUE(refused({"a", 100, {{0, 10}}}));
  EXPECT_TRUE(refused({"", 100, {{0, 10}}}));
  EXPECT_TRUE(refused({std::string("/a\0b", 4), 100, {{0, 10}}}));
  EXPECT_TRUE(refused({"/" + std::string(5000, 'a'), 100, {{0, 10}}}));
  EXPECT_TRUE(refused({"/a", 100, {}}));
  EXPECT_TRUE(refused({"/a", 100, {{0, 0}}}));
  EXPECT_TRUE(refused({"/a", 100, {{0, 101}}}));
  EXPECT_TRUE(refused({"/a", 100, {{101, 1}}}));
  EXPECT_TRUE(refused({"/a", 100, {{50, ~0ULL}}}));
  EXPECT_TRUE(refused({"/a", 100, {{20, 10}, {10, 5}}}));
  EXPECT_TRUE(refused({"/a", 100, {{20, 10}, {30, 5}}})) << "one range, in two";
  EXPECT_TRUE(refused({"/a", 1 << 20, std::vector<FileRange>(kMaxCachedRanges + 1, {0, 1})}));
  auto bytes = encode_cached_file(good);
  for (std::size_t length = 0; length < 44; ++length)
    EXPECT_FALSE(decode_cached_file(std::span(bytes).first(length))) << length;
}

}  // namespace
}  // namespace gestalt
