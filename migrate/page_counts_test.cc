// How many pages went, counted at the end that knows: the destination those that it reads in place,
// the source all others.
#include <gtest/gtest.h>

#include "migrate/paging_links.h"

namespace gestalt {
namespace {

using namespace testing_rig;

void await(const std::function<bool()>& condition) {
  for (Deadline deadline = soon(); !condition() && Clock::now() < deadline;)
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
}

class PageCountsTest : public OverLinks {};

INSTANTIATE_TEST_SUITE_P(Over, PageCountsTest,
                         testing::Values(Links{"chunks", RigLinks::kFake, 0},
                                         Links{"staged", RigLinks::kFakeOneSided, 0},
                                         Links{"half_remote", RigLinks::kFakeOneSided, 8},
                                         Links{"remote", RigLinks::kFakeOneSided, 16},
                                         Links{"rdma_half_remote", RigLinks::kRdma, 8},
                                         Links{"rdma_remote", RigLinks::kRdma, 16}),
                         name_of);

// As the source adds them up in its report.
TEST_P(PageCountsTest, EachPageOnceAtOneOfTheEnds) {
  Rig rig({.pages = 2048}, [](const Task& task) { return task.verify(0, task.pages); });
  rig.start();
  rig.restore();
  ASSERT_TRUE(rig.sink().fetch_all(soon()));
  auto stats = rig.stats();
  auto asked_for = [&rig] { return rig.server().pages_sent() + rig.server().pages_zero(); };
  // The source counts what it has sent, by when it may be here.
  await([&] { return stats.pages_sent() + asked_for() >= rig.present().pages(); });
  EXPECT_EQ(stats.pages_duplicate(), 0U);
  EXPECT_EQ(stats.pages_sent() + asked_for(), rig.present().pages());
  EXPECT_EQ(stats.pages_sent() == 0, GetParam().remote_sixteenths == 0);
  EXPECT_EQ(asked_for() == 0, GetParam().remote_sixteenths == 16);
  rig.resume(false);
  EXPECT_EQ(rig.await_exit(), 0);
}

// For its progress, which need not be exact.
TEST_P(PageCountsTest, TheSourceHearsOfThoseReadInPlace) {
  if (GetParam().remote_sixteenths != 16) GTEST_SKIP() << "only where all pages are read in place";
  constexpr std::uint64_t kLinks = 3;
  constexpr std::uint64_t kTold = 1024;
  Rig rig({.pages = 12 * kTold, .told_pages = kTold},
          [](const Task& task) { return task.verify(0, task.pages); });
  rig.start();
  rig.restore();
  ASSERT_TRUE(rig.sink().fetch_all(soon()));
  std::uint64_t pages = rig.present().pages();
  EXPECT_EQ(rig.stats().pages_sent(), pages);
  await([&] { return rig.server().pages_in_place() + kLinks * kTold > pages; });
  EXPECT_GT(rig.server().pages_in_place() + kLinks * kTold, pages);
  EXPECT_LE(rig.server().pages_in_place(), pages);
  rig.resume(false);
  EXPECT_EQ(rig.await_exit(), 0);
}

TEST(PageCounts, TheSourceRefusesImpossibleNumbers) {
  struct Case {
    std::uint64_t pages;
    bool one_sided;
    bool good;
  };
  constexpr std::uint64_t kMost = kToldPages + kMaxPagesPerChunk;
  for (auto [pages, one_sided, good] :
       {Case{kMost, true, true}, {1, false, false}, {0, true, false}, {kMost + 1, true, false}}) {
    FakeFaults faults;
    faults.one_sided = one_sided;
    auto [near, far] = make_fake_streams(faults);
    auto connection = std::make_unique<PageConnection>(std::move(near));
    PageServer server(linux_kernel(), {}, 0,
                      [&](std::uint64_t, Deadline) -> Result<std::unique_ptr<PageConnection>> {
                        return std::move(connection);
                      });
    ASSERT_TRUE(server.connect(0, soon()));
    server.serve({});
    PageConnection peer(std::move(far));
    ASSERT_TRUE(peer.send(FrameType::kReadInPlace, pages, std::string_view(), soon()));
    // Ends the link in any case.
    (void)peer.send(FrameType::kReady, 0, std::string_view(), soon());
    EXPECT_FALSE(peer.receive_header(soon()));
    EXPECT_EQ(server.pages_in_place(), good ? pages : 0U) << pages;
  }
}

}  // namespace
}  // namespace gestalt
