#include "common/fd.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <poll.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include <array>
#include <cstring>
#include <filesystem>
#include <thread>

#include "common/format.h"

namespace gestalt {
namespace {

std::span<const std::byte> bytes(std::string_view text) { return std::as_bytes(std::span(text)); }

bool is_open(int fd) { return ::fcntl(fd, F_GETFD) >= 0; }

Deadline soon() { return deadline_in(milliseconds(50)); }
Deadline later() { return deadline_in(std::chrono::seconds(10)); }

TEST(Fd, OwnsAndMoves) {
  auto pipe = make_pipe();
  ASSERT_TRUE(pipe);
  int number = pipe->read.get();
  Fd moved = std::move(pipe->read);
  EXPECT_FALSE(pipe->read.valid());
  EXPECT_EQ(moved.get(), number);
  Fd& self = moved;
  moved = std::move(self);
  EXPECT_TRUE(is_open(number));
  int write_number = pipe->write.get();
  moved = std::move(pipe->write);  // closes what it had
  EXPECT_FALSE(is_open(number));
  EXPECT_EQ(moved.get(), write_number);
  Fd released(moved.release());
  EXPECT_FALSE(moved);
  released.reset();
  released.reset();
  EXPECT_FALSE(is_open(write_number));
}

TEST(Fd, CloseOnExec) {
  auto pipe = make_pipe();
  ASSERT_TRUE(pipe);
  EXPECT_EQ(::fcntl(pipe->read.get(), F_GETFD) & FD_CLOEXEC, FD_CLOEXEC);
  auto copy = duplicate(pipe->read.get());
  ASSERT_TRUE(copy);
  EXPECT_GE(copy->get(), 3);
  EXPECT_EQ(::fcntl(copy->get(), F_GETFD) & FD_CLOEXEC, FD_CLOEXEC);
  auto file = open_file("/dev/null", O_RDONLY);
  ASSERT_TRUE(file);
  EXPECT_EQ(::fcntl(file->get(), F_GETFD) & FD_CLOEXEC, FD_CLOEXEC);
  EXPECT_FALSE(duplicate(-1));
  EXPECT_EQ(open_file("/nonexistent/x", O_RDONLY).error().code, ErrorCode::kNotFound);
}

TEST(Fd, WaitsUntilTheDeadline) {
  auto pipe = make_pipe();
  ASSERT_TRUE(pipe);
  auto began = Clock::now();
  auto waited = wait_for(pipe->read.get(), POLLIN, deadline_in(milliseconds(30)));
  ASSERT_FALSE(waited);
  EXPECT_EQ(waited.error().code, ErrorCode::kTimeout);
  EXPECT_GE(Clock::now() - began, milliseconds(30));
  EXPECT_EQ(wait_for(pipe->read.get(), POLLIN, Clock::now() - std::chrono::hours(1)).error().code,
            ErrorCode::kTimeout);
  ASSERT_TRUE(write_all(pipe->write.get(), bytes("x"), soon()));
  EXPECT_TRUE(wait_for(pipe->read.get(), POLLIN, Clock::now() - std::chrono::hours(1)));
}

TEST(Fd, WaitingForNoDescriptorIsAnErrorAtOnce) {
  auto waited = wait_for(1'000'000, POLLIN, later());
  ASSERT_FALSE(waited);
  EXPECT_NE(waited.error().code, ErrorCode::kTimeout);
}

TEST(Fd, ReadExact) {
  auto pipe = make_pipe();
  ASSERT_TRUE(pipe);
  std::array<std::byte, 6> buffer{};
  std::jthread writer([&] {
    for (std::string_view part : {"ab", "c", "def"}) {
      std::this_thread::sleep_for(milliseconds(5));
      (void)write_all(pipe->write.get(), bytes(part), later());
    }
    pipe->write.reset();
  });
  ASSERT_TRUE(read_exact(pipe->read.get(), buffer, later()));
  EXPECT_EQ(std::memcmp(buffer.data(), "abcdef", 6), 0);
  auto end = read_exact(pipe->read.get(), buffer, later());
  ASSERT_FALSE(end);
  EXPECT_EQ(end.error().code, ErrorCode::kUnavailable);
  EXPECT_TRUE(read_exact(pipe->read.get(), {}, later()));
}

TEST(Fd, AShortStreamIsUnavailableAndASlowOneATimeout) {
  auto pipe = make_pipe();
  ASSERT_TRUE(pipe);
  std::array<std::byte, 4> buffer{};
  ASSERT_TRUE(write_all(pipe->write.get(), bytes("abc"), soon()));
  EXPECT_EQ(read_exact(pipe->read.get(), buffer, soon()).error().code, ErrorCode::kTimeout);
  ASSERT_TRUE(write_all(pipe->write.get(), bytes("abc"), soon()));
  pipe->write.reset();
  EXPECT_EQ(read_exact(pipe->read.get(), buffer, soon()).error().code, ErrorCode::kUnavailable);
}

TEST(Fd, WriteAllTimesOutOnAFullPipe) {
  auto pipe = make_pipe();
  ASSERT_TRUE(pipe);
  ASSERT_TRUE(set_nonblocking(pipe->write.get(), true));
  std::string much(1 << 20, 'x');
  EXPECT_EQ(write_all(pipe->write.get(), bytes(much), soon()).error().code, ErrorCode::kTimeout);
}

// A blocking descriptor is what most callers have: the deadline must hold there too.
TEST(Fd, WriteAllTimesOutOnAFullBlockingPipe) {
  auto pipe = make_pipe();
  ASSERT_TRUE(pipe);
  std::jthread rescue([&](const std::stop_token& stop) {
    for (int i = 0; i < 100 && !stop.stop_requested(); ++i)
      std::this_thread::sleep_for(milliseconds(20));
    std::array<char, 1 << 16> sink{};
    while (!stop.stop_requested() && ::read(pipe->read.get(), sink.data(), sink.size()) > 0) {
    }
  });
  auto began = Clock::now();
  std::string much(1 << 20, 'x');
  EXPECT_EQ(write_all(pipe->write.get(), bytes(much), soon()).error().code, ErrorCode::kTimeout);
  EXPECT_LT(Clock::now() - began, std::chrono::seconds(1));
  EXPECT_EQ(::fcntl(pipe->write.get(), F_GETFL) & O_NONBLOCK, 0) << "the mode is as it was";
  rescue.request_stop();
  pipe->write.reset();
}

TEST(Fd, NonBlockingFlag) {
  auto pipe = make_pipe();
  ASSERT_TRUE(pipe);
  ASSERT_TRUE(set_nonblocking(pipe->read.get(), true));
  char c = 0;
  EXPECT_EQ(::read(pipe->read.get(), &c, 1), -1);
  ASSERT_TRUE(set_nonblocking(pipe->read.get(), false));
  EXPECT_EQ(::fcntl(pipe->read.get(), F_GETFL) & O_NONBLOCK, 0);
  EXPECT_FALSE(set_nonblocking(-1, true));
}

class Files : public testing::Test {
 protected:
  void SetUp() override {
    std::string name = testing::TempDir() + "/gestalt-fd-XXXXXX";
    ASSERT_NE(::mkdtemp(name.data()), nullptr);
    directory_ = name;
  }
  void TearDown() override { std::filesystem::remove_all(directory_); }
  std::string directory_;
};

TEST_F(Files, ReplaceAndRead) {
  std::string path = directory_ + "/file";
  ASSERT_TRUE(replace_file(path, "old", 0644));
  std::string content("a\0b\n", 4);
  ASSERT_TRUE(replace_file(path, content, 0600));
  EXPECT_EQ(*read_file(path), content);
  struct stat info{};
  ASSERT_EQ(::stat(path.c_str(), &info), 0);
  EXPECT_EQ(info.st_mode & 0777, 0600U);
  ASSERT_TRUE(replace_file(path, "", 0600));
  EXPECT_EQ(*read_file(path), "");
  auto entries = std::filesystem::directory_iterator(directory_);
  EXPECT_EQ(std::distance(begin(entries), end(entries)), 1) << "no temporary file stays";
}

TEST_F(Files, ReplaceFailsCleanly) {
  ASSERT_EQ(::mkdir((directory_ + "/taken").c_str(), 0755), 0);
  EXPECT_FALSE(replace_file(directory_ + "/taken", "x", 0600));
  EXPECT_FALSE(replace_file(directory_ + "/no/such", "x", 0600));
  auto entries = std::filesystem::directory_iterator(directory_);
  EXPECT_EQ(std::distance(begin(entries), end(entries)), 1);
}

// A temporary file somebody left there with another mode must not lend its mode to a key.
TEST_F(Files, ReplaceNeverShowsTheContentMoreWidely) {
  std::string path = directory_ + "/secret";
  std::string left = formatted("{}.new-{}", path, ::getpid());
  ASSERT_EQ(::symlink((directory_ + "/elsewhere").c_str(), left.c_str()), 0);
  auto replaced = replace_file(path, "key", 0600);
  EXPECT_FALSE(std::filesystem::exists(directory_ + "/elsewhere")) << "followed a planted link";
  EXPECT_TRUE(!replaced || *read_file(path) == "key");
}

TEST_F(Files, Limits) {
  std::string path = directory_ + "/file";
  ASSERT_TRUE(replace_file(path, std::string(100, 'x'), 0600));
  EXPECT_EQ(read_file(path, 100)->size(), 100U);
  EXPECT_EQ(read_file(path, 99).error().code, ErrorCode::kInvalidArgument);
  EXPECT_FALSE(read_file("/dev/zero", 1 << 20));
  EXPECT_EQ(read_file(directory_ + "/none").error().code, ErrorCode::kNotFound);
  EXPECT_FALSE(read_file(directory_));
}

TEST_F(Files, ControlFiles) {
  std::string path = directory_ + "/control";
  EXPECT_FALSE(write_control_file(path, "1")) << "must not create it";
  ASSERT_TRUE(replace_file(path, "0", 0600));
  ASSERT_TRUE(write_control_file(path, "1"));
  EXPECT_EQ(*read_file(path), "1");
  auto full = write_control_file("/dev/full", "1");
  ASSERT_FALSE(full);
  EXPECT_EQ(full.error().code, ErrorCode::kNoSpace);
}

}  // namespace
}  // namespace gestalt
