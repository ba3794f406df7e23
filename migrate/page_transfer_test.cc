// Page source and page sink joined: pages of one address range of this process end up
// in another, through real userfaultfds, over a fake connection that may fail.

#include <fcntl.h>
#include <gtest/gtest.h>
#include <linux/userfaultfd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <atomic>
#include <cstring>
#include <filesystem>
#include <thread>

#include "common/unix_socket.h"
#include "migrate/fake_transport.h"
#include "migrate/page_sink.h"
#include "migrate/page_source.h"

namespace gestalt {
namespace {

constexpr std::uint32_t kPid = 4242;  // what the pages are called on the wire
constexpr std::int32_t kRestoreFinished = 0x52535446;

Deadline soon() { return deadline_in(std::chrono::seconds(10)); }

class Region {
 public:
  explicit Region(std::size_t pages)
      : bytes_(pages * kPageBytes),
        base_(static_cast<std::byte*>(::mmap(nullptr, bytes_, PROT_READ | PROT_WRITE,
                                             MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0))) {
  }
  ~Region() { ::munmap(base_, bytes_); }
  Region(const Region&) = delete;
  Region& operator=(const Region&) = delete;
  [[nodiscard]] std::byte* page(std::size_t index) { return base_ + index * kPageBytes; }
  [[nodiscard]] std::uint64_t address() const { return reinterpret_cast<std::uint64_t>(base_); }
  [[nodiscard]] std::uint64_t end() const { return address() + bytes_; }
  [[nodiscard]] std::size_t bytes() const { return bytes_; }

 private:
  std::size_t bytes_;
  std::byte* base_;
};

// Reads from one region what the wire says of another: the sink's addresses are the
// destination region's.
class ShiftingKernel final : public Kernel {
 public:
  ShiftingKernel(std::uint64_t from, std::uint64_t to) : offset_(from - to) {}
  Result<void> read_memory(pid_t, std::uint64_t address, std::span<std::byte> into) override {
    return linux_kernel().read_memory(::getpid(), address + offset_, into);
  }
  Result<PlaceOutcome> place_pages(int uffd, std::uint64_t address,
                                   std::span<const std::byte> pages,
                                   std::uint64_t& placed_bytes) override {
    if (refuse_ > 0 && refuse_-- > 0) return PlaceOutcome::kRetry;
    return linux_kernel().place_pages(uffd, address, pages, placed_bytes);
  }
  Result<PlaceOutcome> place_zero(int uffd, std::uint64_t address, std::uint64_t bytes,
                                  std::uint64_t& placed_bytes) override {
    return linux_kernel().place_zero(uffd, address, bytes, placed_bytes);
  }
  void wake(int uffd, std::uint64_t address, std::uint64_t bytes) override {
    linux_kernel().wake(uffd, address, bytes);
  }
  Result<UserfaultEvent> read_event(int uffd) override { return linux_kernel().read_event(uffd); }
  void refuse(int times) { refuse_ = times; }

 private:
  std::uint64_t offset_;
  std::atomic<int> refuse_ = 0;
};

Result<Fd> make_uffd() {
  Fd fd(static_cast<int>(::syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK)));
  if (!fd) return fail_errno(errno, "userfaultfd");
  uffdio_api api{};
  api.api = UFFD_API;
  if (::ioctl(fd.get(), UFFDIO_API, &api) != 0) return fail_errno(errno, "UFFDIO_API");
  return fd;
}

Result<void> register_region(int uffd, const Region& region) {
  uffdio_register request{};
  request.range = {region.address(), region.bytes()};
  request.mode = UFFDIO_REGISTER_MODE_MISSING;
  if (::ioctl(uffd, UFFDIO_REGISTER, &request) != 0) return fail_errno(errno, "UFFDIO_REGISTER");
  return {};
}

class PageTransfer : public ::testing::Test {
 protected:
  void SetUp() override {
    auto probe = make_uffd();
    if (!probe) GTEST_SKIP() << "no userfaultfd here: " << probe.error().text();
    directory_ = std::filesystem::temp_directory_path() / std::format("transfer-{}", ::getpid());
    std::filesystem::create_directories(directory_);
    for (std::size_t i = 0; i < kPages; ++i)
      if (i % 3 != 0) std::memset(source_.page(i), static_cast<int>(i % 251) + 1, kPageBytes);
  }
  void TearDown() override { std::filesystem::remove_all(directory_); }

  std::map<std::uint32_t, PageRanges> ranges() const {
    std::map<std::uint32_t, PageRanges> out;
    out[kPid].add(target_.address(), target_.end());
    return out;
  }

  // What CRIU does: connects, hands the descriptor over, registers later, and says so.
  void play_criu(const Fd& uffd, bool register_late) {
    auto socket = connect_unix(directory_ + "/lazy-pages.socket");
    ASSERT_TRUE(socket) << socket.error().text();
    auto pid = static_cast<std::int32_t>(kPid);
    ASSERT_TRUE(write_all(socket->get(), std::as_bytes(std::span(&pid, 1)), soon()));
    int fd = uffd.get();
    ASSERT_TRUE(send_fds(socket->get(), std::span(&fd, 1)));
    if (register_late) std::this_thread::sleep_for(milliseconds(30));
    ASSERT_TRUE(register_region(uffd.get(), target_));
    ASSERT_TRUE(write_all(socket->get(), std::as_bytes(std::span(&kRestoreFinished, 1)), soon()));
  }

  bool same() { return std::memcmp(source_.page(0), target_.page(0), source_.bytes()) == 0; }

  static constexpr std::size_t kPages = 1000;
  Region source_{kPages};
  Region target_{kPages};
  std::string directory_;
  ShiftingKernel kernel_{source_.address(), target_.address()};
};

TEST_F(PageTransfer, MovesEveryPageAndCountsZeroOnes) {
  auto [a, b] = make_fake_streams();
  PageConnection out(std::move(a));
  PageConnection in(std::move(b));
  auto uffd = make_uffd();
  ASSERT_TRUE(uffd);
  PageSink sink(kernel_, ranges());
  ASSERT_TRUE(sink.start(directory_));
  kernel_.refuse(3);
  std::thread criu([&] { play_criu(*uffd, true); });
  std::thread sender([&] {
    auto counts = PageSource(kernel_, out).send_all(ranges(), [](std::uint64_t) {}, soon());
    ASSERT_TRUE(counts) << counts.error().text();
    EXPECT_EQ(counts->zero, (kPages + 2) / 3);
    EXPECT_EQ(counts->sent, kPages - (kPages + 2) / 3);
  });
  auto done = sink.receive_all(in, soon());
  EXPECT_TRUE(done) << done.error().text();
  sender.join();
  criu.join();
  sink.finish();
  uffd->reset();
  EXPECT_TRUE(same());
  EXPECT_FALSE(sink.failure());
}

TEST_F(PageTransfer, AFaultOnAPendingPageWaitsForIt) {
  auto [a, b] = make_fake_streams();
  PageConnection out(std::move(a));
  PageConnection in(std::move(b));
  auto uffd = make_uffd();
  ASSERT_TRUE(uffd);
  PageSink sink(kernel_, ranges());
  ASSERT_TRUE(sink.start(directory_));
  play_criu(*uffd, false);
  std::atomic<int> seen = -1;
  std::thread reader([&] { seen = static_cast<int>(*target_.page(kPages - 1)); });
  std::thread sender([&] {
    EXPECT_TRUE(PageSource(kernel_, out).send_all(ranges(), [](std::uint64_t) {}, soon()));
  });
  EXPECT_TRUE(sink.receive_all(in, soon()));
  reader.join();
  sender.join();
  sink.finish();
  EXPECT_EQ(seen, static_cast<int>(*source_.page(kPages - 1)));
}

// Threads touch their stacks and TLS while other mappings are not registered yet: such a
// page must not wait for the rest of its run, nor the restore for it.
TEST_F(PageTransfer, AFaultBeforeTheRestoreIsCompleteIsServedFromTheStage) {
  auto [a, b] = make_fake_streams();
  PageConnection out(std::move(a));
  PageConnection in(std::move(b));
  auto uffd = make_uffd();
  ASSERT_TRUE(uffd);
  PageSink sink(kernel_, ranges());
  ASSERT_TRUE(sink.start(directory_));
  // Different protection, so that the region is two mappings.
  std::size_t half = kPages / 2;
  ASSERT_EQ(::mprotect(target_.page(0), half * kPageBytes, PROT_READ), 0);
  auto socket = connect_unix(directory_ + "/lazy-pages.socket");
  ASSERT_TRUE(socket);
  auto pid = static_cast<std::int32_t>(kPid);
  ASSERT_TRUE(write_all(socket->get(), std::as_bytes(std::span(&pid, 1)), soon()));
  int fd = uffd->get();
  ASSERT_TRUE(send_fds(socket->get(), std::span(&fd, 1)));
  std::thread sender([&] {
    EXPECT_TRUE(PageSource(kernel_, out).send_all(ranges(), [](std::uint64_t) {}, soon()));
  });
  std::thread receiver([&] {
    auto done = sink.receive_all(in, soon());
    EXPECT_TRUE(done) << done.error().text();
  });
  sender.join();  // everything is staged: nothing is registered
  auto register_half = [&](std::size_t first) {
    uffdio_register request{};
    request.range = {target_.address() + first * kPageBytes, half * kPageBytes};
    request.mode = UFFDIO_REGISTER_MODE_MISSING;
    return ::ioctl(uffd->get(), UFFDIO_REGISTER, &request);
  };
  ASSERT_EQ(register_half(half), 0);
  for (std::size_t page : {half + 1, half + 12, half, kPages - 1})
    EXPECT_EQ(*target_.page(page), *source_.page(page)) << page;
  ASSERT_EQ(register_half(0), 0);
  ASSERT_TRUE(write_all(socket->get(), std::as_bytes(std::span(&kRestoreFinished, 1)), soon()));
  receiver.join();
  sink.finish();
  uffd->reset();
  EXPECT_TRUE(same());
}

TEST_F(PageTransfer, AFaultOnAPageThatNobodyHasGetsZero) {
  Region other(1);
  auto uffd = make_uffd();
  ASSERT_TRUE(uffd);
  PageSink sink(kernel_, ranges());
  ASSERT_TRUE(sink.start(directory_));
  ASSERT_TRUE(register_region(uffd->get(), other));
  play_criu(*uffd, false);
  EXPECT_EQ(*other.page(0), std::byte{0});  // would wait for ever without the sink
  sink.finish();
}

TEST_F(PageTransfer, ACutConnectionIsAnErrorOnBothEnds) {
  for (std::uint64_t cut : {0ULL, 20ULL, 5000ULL, 1'500'000ULL}) {
    auto [a, b] = make_fake_streams({.cut_after_bytes = cut});
    PageConnection out(std::move(a));
    PageConnection in(std::move(b));
    PageSink sink(kernel_, ranges());
    ASSERT_TRUE(sink.start(directory_));
    std::thread sender([&] {
      EXPECT_FALSE(PageSource(kernel_, out).send_all(ranges(), [](std::uint64_t) {}, soon()));
    });
    EXPECT_FALSE(sink.receive_all(in, soon())) << "cut after " << cut;
    sender.join();
  }
}

TEST_F(PageTransfer, RefusesPagesThatWereNotAnnouncedAndMissesThoseThatWere) {
  auto [a, b] = make_fake_streams();
  PageConnection out(std::move(a));
  PageConnection in(std::move(b));
  PageSink sink(kernel_, ranges());
  std::vector<std::byte> page(kPageBytes);
  ASSERT_TRUE(out.send_pages({kPid, target_.end(), 1}, page, soon()));
  auto strange = sink.receive_all(in, soon());
  ASSERT_FALSE(strange);
  EXPECT_EQ(strange.error().code, ErrorCode::kProtocol);
  ASSERT_TRUE(out.send(FrameType::kPagesEnd, 0, "", soon()));
  auto missing = sink.receive_all(in, soon());
  ASSERT_FALSE(missing);
  EXPECT_EQ(missing.error().code, ErrorCode::kProtocol);
}

TEST_F(PageTransfer, WithoutCriuReceivingEndsByItsDeadline) {
  auto [a, b] = make_fake_streams();
  PageConnection out(std::move(a));
  PageConnection in(std::move(b));
  PageSink sink(kernel_, ranges());
  ASSERT_TRUE(sink.start(directory_));
  std::thread sender(
      [&] { (void)PageSource(kernel_, out).send_all(ranges(), [](std::uint64_t) {}, soon()); });
  auto done = sink.receive_all(in, deadline_in(milliseconds(300)));
  ASSERT_FALSE(done);
  EXPECT_EQ(done.error().code, ErrorCode::kTimeout);
  in.stream().shut_down();
  sender.join();
}

TEST(ZeroPage, IsFoundExactly) {
  std::vector<std::byte> page(kPageBytes);
  EXPECT_TRUE(is_zero_page(page));
  for (std::size_t i : {std::size_t{0}, std::size_t{7}, std::size_t{8}, std::size_t{4095}}) {
    auto other = page;
    other[i] = std::byte{1};
    EXPECT_FALSE(is_zero_page(other)) << i;
  }
}

}  // namespace
}  // namespace gestalt
