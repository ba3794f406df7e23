// The paging path with real processes and a real userfaultfd; CRIU alone is played.
#include "migrate/page_sink.h"

#include <gtest/gtest.h>
#include <sys/uio.h>

#include <random>

#include "migrate/paging_links.h"

namespace gestalt {
namespace {

using namespace testing_rig;

// All of it over each kind of links: requests answered by chunks; pages read of staging memory; and
// half of them read where they are.
class PageSinkTest : public OverLinks {
 protected:
  // What goes past the source's processor passes no gate and is not counted there.
  static bool source_sees_all() { return GetParam().remote_sixteenths == 0; }
  // Where it matters that they are real ones.
  static RigLinks real_links() {
    return GetParam().links == RigLinks::kFake ? RigLinks::kTcp : GetParam().links;
  }
};

INSTANTIATE_TEST_SUITE_P(Over, PageSinkTest,
                         testing::Values(Links{"chunks", RigLinks::kFake, 0},
                                         Links{"staged", RigLinks::kFakeOneSided, 0},
                                         Links{"remote", RigLinks::kFakeOneSided, 8},
                                         Links{"rdma_staged", RigLinks::kRdma, 0},
                                         Links{"rdma_remote", RigLinks::kRdma, 8}),
                         name_of);

int verify_all(const Task& task) { return task.verify(0, task.pages); }

int meet_and_verify_all(const Task& task) {
  task.meet();
  return verify_all(task);
}

// Each thread reads all pages in an order of its own.
int verify_with_threads(const Task& task, unsigned count) {
  std::atomic<int> wrong = 0;
  std::vector<std::thread> threads;
  for (unsigned seed = 0; seed < count; ++seed)
    threads.emplace_back([&task, &wrong, seed] {
      std::mt19937_64 random(seed);
      for (std::size_t i = 0; i < 2 * task.pages; ++i) {
        std::size_t page = random() % task.pages;
        wrong += task.verify(page, page + 1);
      }
    });
  for (auto& thread : threads) thread.join();
  return wrong != 0 ? 1 : verify_all(task);
}

int expect_zero(const Task& task, std::size_t first, std::size_t last) {
  for (std::size_t i = first; i < last; ++i) {
    if (is_zero(task.page(i))) continue;
    std::fprintf(stderr, "page %zu has old content\n", i);
    return 2;
  }
  return 0;
}

void expect_clean_end(Rig& rig, bool sent_once = true) {
  EXPECT_EQ(rig.await_exit(), 0);
  EXPECT_TRUE(rig.await_complete());
  EXPECT_EQ(rig.sink().missing_bytes(), 0U);
  EXPECT_TRUE(rig.sink().complete());
  if (sent_once) {
    EXPECT_LE(rig.kernel().most_reads(), 1U) << "a page was sent twice";
  }
}

// ------------------------------------------------------------- the modes

TEST_P(PageSinkTest, EagerPagesWaitInTheStoreForTheirMappings) {
  Rig rig({}, verify_all);
  rig.start();
  ASSERT_TRUE(rig.sink().fetch_all(soon()));
  EXPECT_EQ(rig.sink().missing_bytes(), 0U);
  if (source_sees_all()) {
    EXPECT_EQ(rig.kernel().reads(), rig.present().pages());
  }
  rig.restore();
  rig.resume(false);
  expect_clean_end(rig);
  EXPECT_EQ(rig.stats().faults_demand(), 0U);
}

TEST_P(PageSinkTest, EagerPagesMayComeBeforeAndAfterTheRegistration) {
  Rig rig({}, verify_all);
  rig.start();
  rig.gate().close();
  std::jthread fetcher([&] { EXPECT_TRUE(rig.sink().fetch_all(soon())); });
  rig.await_reads(1);
  rig.hand_over();
  rig.gate().open();
  std::this_thread::sleep_for(milliseconds(3));
  rig.register_memory();
  rig.finish_restore();
  fetcher.join();
  rig.resume(false);
  expect_clean_end(rig);
  EXPECT_EQ(rig.stats().faults_demand(), 0U);
}

TEST_P(PageSinkTest, EagerPagesAfterTheRegistrationArePlacedAtOnce) {
  Rig rig({}, verify_all);
  rig.start();
  rig.restore();
  ASSERT_TRUE(rig.sink().fetch_all(soon()));
  rig.resume(false);
  EXPECT_TRUE(rig.await_complete());
  expect_clean_end(rig);
  EXPECT_EQ(rig.stats().faults_demand() + rig.stats().faults_local(), 0U);
}

TEST_P(PageSinkTest, LazyPagesComeWhenTheyAreTouched) {
  Rig rig({}, meet_and_verify_all);
  rig.run(false);
  rig.await_task();
  std::this_thread::sleep_for(milliseconds(30));
  EXPECT_EQ(rig.kernel().reads(), 0U) << "nobody asked";
  EXPECT_FALSE(rig.sink().complete());
  rig.release_task();
  expect_clean_end(rig);
}

TEST_P(PageSinkTest, PushedPagesNeedNoFaults) {
  Rig rig({}, meet_and_verify_all);
  rig.run(true);
  rig.await_task();
  EXPECT_TRUE(rig.await_complete());
  EXPECT_EQ(rig.stats().faults_avoided(), rig.present().pages());
  rig.release_task();
  expect_clean_end(rig);
  EXPECT_EQ(rig.stats().faults_demand(), 0U);
}

TEST_P(PageSinkTest, ThreadsMayTouchPagesWhileTheyArePushed) {
  for (bool tcp : {false, true})
    for (std::uint32_t prefetch : {0U, 512U}) {
      if (tcp && GetParam().links == RigLinks::kRdma) continue;  // what is read has no such options
      Rig rig({.prefetch = prefetch,
               .bulk_links = 3,
               .chunks = {.compress = tcp, .checksum = tcp},
               .links = tcp ? real_links() : GetParam().links},
              [](const Task& task) { return verify_with_threads(task, 8); });
      rig.run(true);
      expect_clean_end(rig);
    }
}

TEST_P(PageSinkTest, ThreadsMayTouchLazyPages) {
  for (std::uint32_t prefetch : {0U, 64U}) {
    Rig rig({.pages = 2048, .prefetch = prefetch, .links = real_links()},
            [](const Task& task) { return verify_with_threads(task, 8); });
    rig.run(false);
    expect_clean_end(rig);
  }
}

TEST_P(PageSinkTest, WhatTheSourceDoesNotHaveIsZeroWithoutAsking) {
  Rig rig({}, [](const Task& task) {
    for (std::size_t i = 0; i < task.pages; ++i)
      if (content_of(i) == Content::kHole && !is_zero(task.page(i))) return 1;
    task.meet();
    return verify_all(task);
  });
  rig.run(false);
  rig.await_task();
  EXPECT_EQ(rig.kernel().reads(), 0U);
  EXPECT_GT(rig.stats().faults_zero(), 0U);
  rig.release_task();
  expect_clean_end(rig);
}

// ------------------------------------------------------------- tasks that change their memory

// Holds pages back that are on their way when the task starts to change things.
void run_with_pages_in_flight(Rig& rig) {
  rig.start();
  rig.restore();
  rig.gate().close();
  rig.resume(true);
  rig.await_reads(100);
  rig.await_task();
  rig.release_task();
}

TEST_P(PageSinkTest, DiscardedPagesNeverComeBack) {
  Rig rig({}, [](const Task& task) {
    std::size_t half = task.pages / 2;
    task.meet();
    if (::madvise(task.base, half * kPageBytes, MADV_DONTNEED) != 0) return 3;
    task.meet();
    int stale = expect_zero(task, 0, half);
    return stale != 0 ? stale : task.verify(half, task.pages);
  });
  run_with_pages_in_flight(rig);
  rig.await_task();
  rig.gate().open();
  rig.release_task();
  expect_clean_end(rig);
  EXPECT_GT(rig.stats().pages_duplicate(), 200U) << "what arrived in vain is counted";
}

TEST_P(PageSinkTest, PagesAreDiscardedWhileTheyArrive) {
  Rig rig({.bulk_links = 3}, [](const Task& task) {
    std::mt19937 random(1);
    std::vector<bool> discarded(task.pages, false);
    for (int i = 0; i < 300; ++i) {
      std::size_t first = random() % task.pages;
      std::size_t count = std::min<std::size_t>(1 + random() % 8, task.pages - first);
      if (::madvise(task.page(first), count * kPageBytes, MADV_DONTNEED) != 0) return 3;
      std::fill_n(discarded.begin() + static_cast<std::ptrdiff_t>(first), count, true);
      std::size_t other = random() % task.pages;
      int wrong =
          discarded[other] ? expect_zero(task, other, other + 1) : task.verify(other, other + 1);
      if (wrong != 0) return wrong;
    }
    for (std::size_t i = 0; i < task.pages; ++i) {
      int wrong = discarded[i] ? expect_zero(task, i, i + 1) : task.verify(i, i + 1);
      if (wrong != 0) return wrong;
    }
    return 0;
  });
  rig.run(true);
  expect_clean_end(rig);
}

// One thread waits for a page that another one discards.
TEST_P(PageSinkTest, ADiscardedPageIsNotWaitedForForEver) {
  if (!source_sees_all()) GTEST_SKIP() << "what is read at the source cannot be held back";
  Rig rig({.prefetch = 0}, [](const Task& task) {
    std::atomic<int> seen = -1;
    std::thread reader([&] { seen = static_cast<int>(*task.page(7)); });
    task.meet();
    if (::madvise(task.page(7), kPageBytes, MADV_DONTNEED) != 0) return 3;
    reader.join();
    if (seen != 0) return 4;
    task.meet();
    return expect_zero(task, 7, 8);
  });
  rig.start();
  rig.restore();
  rig.demand_gate().close();
  rig.resume(false);
  rig.await_task();
  rig.await_reads(1);
  rig.release_task();
  rig.await_task();
  rig.demand_gate().open();
  rig.release_task();
  EXPECT_EQ(rig.await_exit(), 0);
}

TEST_P(PageSinkTest, UnmappedPagesNeverComeBack) {
  Rig rig({}, [](const Task& task) {
    std::size_t half = task.pages / 2;
    task.meet();
    if (::munmap(task.base, half * kPageBytes) != 0) return 3;
    void* again = ::mmap(task.base, half * kPageBytes, PROT_READ | PROT_WRITE,
                         MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0);
    if (again != task.base) return 4;
    task.meet();
    int stale = expect_zero(task, 0, half);
    return stale != 0 ? stale : task.verify(half, task.pages);
  });
  run_with_pages_in_flight(rig);
  rig.await_task();
  rig.gate().open();
  rig.release_task();
  expect_clean_end(rig);
}

std::byte* reserve(std::size_t pages) {
  return static_cast<std::byte*>(::mmap(nullptr, pages * kPageBytes, PROT_NONE,
                                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0));
}

bool move_pages_to(std::byte* from, std::size_t pages, std::byte* to) {
  return ::mremap(from, pages * kPageBytes, pages * kPageBytes, MREMAP_MAYMOVE | MREMAP_FIXED,
                  to) == to;
}

// Pages [first, last) of the source, now at `at`.
int verify_at(const std::byte* at, std::size_t first, std::size_t last) {
  for (std::size_t i = first; i < last; ++i) {
    if (is_page(at + (i - first) * kPageBytes, i)) continue;
    std::fprintf(stderr, "moved page %zu is wrong\n", i);
    return 5;
  }
  return 0;
}

TEST_P(PageSinkTest, MovedMappingsKeepTheirContent) {
  Rig rig({}, [](const Task& task) {
    std::byte* to = reserve(task.pages);
    task.meet();
    if (!move_pages_to(task.base, task.pages, to)) return 3;
    task.meet();
    return verify_at(to, 0, task.pages);
  });
  run_with_pages_in_flight(rig);
  rig.await_task();
  rig.gate().open();
  rig.release_task();
  expect_clean_end(rig, false);
}

TEST_P(PageSinkTest, PartsOfMappingsMayMoveAgainAndAgain) {
  Rig rig({}, [](const Task& task) {
    std::byte* first = reserve(1000);
    std::byte* second = reserve(1000);
    task.meet();
    if (!move_pages_to(task.page(100), 1000, first)) return 3;
    if (!move_pages_to(first + 300 * kPageBytes, 400, second)) return 3;
    if (!move_pages_to(second + 50 * kPageBytes, 10, task.page(150))) return 3;
    task.meet();
    int wrong = task.verify(0, 100) + task.verify(1100, task.pages);
    wrong += verify_at(first, 100, 400) + verify_at(first + 700 * kPageBytes, 800, 1100);
    wrong += verify_at(second, 400, 450) + verify_at(second + 60 * kPageBytes, 460, 800);
    return wrong + verify_at(task.page(150), 450, 460);
  });
  run_with_pages_in_flight(rig);
  rig.await_task();
  rig.gate().open();
  rig.release_task();
  expect_clean_end(rig, false);
}

// An answer to a request for what was at an address before must not be taken for one
// that is there now, though that is being waited for too.
TEST_P(PageSinkTest, AnOldAnswerIsNotTakenForWhatMovedThere) {
  if (!source_sees_all()) GTEST_SKIP() << "what is read at the source cannot be held back";
  Rig rig({.prefetch = 0}, [](const Task& task) {
    std::size_t half = task.pages / 2;
    std::byte* aside = reserve(half);
    task.meet();
    if (!move_pages_to(task.base, half, aside)) return 3;
    if (!move_pages_to(task.page(half), half, task.base)) return 3;
    std::thread reader([&] { (void)*const_cast<volatile std::byte*>(task.base); });
    task.meet();
    reader.join();
    return verify_at(task.base, half, 2 * half) + verify_at(aside, 0, half);
  });
  rig.start();
  rig.restore();
  rig.gate().close();
  rig.demand_gate().close();
  rig.resume(true);
  rig.await_reads(120);  // the first of each bulk link; page 0 is among them
  rig.await_task();
  rig.release_task();
  rig.await_task();
  rig.await_reads(121);  // the demand, for the same address
  rig.gate().open();
  std::this_thread::sleep_for(milliseconds(50));
  rig.demand_gate().open();
  rig.release_task();
  expect_clean_end(rig, false);
}

TEST_P(PageSinkTest, StoredPagesMoveWithTheirMappings) {
  Rig rig({}, [](const Task& task) {
    std::byte* to = reserve(task.pages);
    if (!move_pages_to(task.base, task.pages, to)) return 3;
    return verify_at(to, 0, task.pages);
  });
  rig.start();
  ASSERT_TRUE(rig.sink().fetch_all(soon()));
  rig.restore();
  rig.resume(false);
  expect_clean_end(rig);
}

int verify_in_children(const Task& task) {
  int wrong = task.verify(0, 20);
  pid_t child = ::fork();
  if (child == 0) {
    pid_t grandchild = ::fork();
    int own = verify_all(task);
    int status = 0;
    if (grandchild == 0) ::_exit(own);
    if (::waitpid(grandchild, &status, 0) != grandchild || status != 0) own = 7;
    ::_exit(own);
  }
  wrong += verify_all(task);
  int status = 0;
  if (::waitpid(child, &status, 0) != child || status != 0) return 6;
  return wrong;
}

TEST_P(PageSinkTest, ForkedChildrenGetTheirPagesToo) {
  for (bool push : {false, true}) {
    Rig rig({.pages = 2048}, verify_in_children);
    rig.run(push);
    expect_clean_end(rig, false);
  }
}

TEST_P(PageSinkTest, ForkedChildrenShareWhatIsStored) {
  Rig rig({.pages = 2048}, verify_in_children);
  rig.start();
  ASSERT_TRUE(rig.sink().fetch_all(soon()));
  rig.restore();
  rig.resume(false);
  expect_clean_end(rig);
}

TEST_P(PageSinkTest, AProcessThatEndsMissesNothing) {
  Rig rig({}, [](const Task& task) {
    (void)*const_cast<volatile std::byte*>(task.page(1));
    return 0;
  });
  rig.run(false);
  EXPECT_EQ(rig.await_exit(), 0);
  EXPECT_TRUE(rig.await_complete(std::chrono::seconds(2)));
}

// Whether a process has ended is found out by asking for a page where none can be; a
// mapping that lies low in memory must not notice.
TEST_P(PageSinkTest, AskingWhetherAProcessLivesPlacesNothing) {
  if (::access("/proc/sys/vm/mmap_min_addr", R_OK) != 0) GTEST_SKIP() << "no procfs";
  Rig rig({.pages = 64, .address = 0x10000}, meet_and_verify_all);
  rig.run(false);
  rig.await_task();
  std::this_thread::sleep_for(milliseconds(1300));
  rig.release_task();
  expect_clean_end(rig);
}

// ------------------------------------------------------------- links that break

TEST_P(PageSinkTest, LostLinksDelayButLoseNothing) {
  Rig rig({.bulk_links = 2}, [](const Task& task) {
    int wrong = verify_with_threads(task, 4);
    task.meet();
    return wrong;
  });
  rig.run(true);
  rig.cut(kFirstBulkLink);
  rig.cut(kDemandLink);
  std::this_thread::sleep_for(milliseconds(2));
  rig.cut(kFirstBulkLink + 1);
  rig.await_task();
  rig.release_task();
  expect_clean_end(rig, false);
}

TEST_P(PageSinkTest, LinksThatBreakAgainAndAgainLoseNothing) {
  Rig rig({.pages = 2048, .prefetch = 32, .bulk_links = 2, .links = real_links()},
          [](const Task& task) { return verify_with_threads(task, 4); });
  rig.start();
  rig.restore();
  std::jthread cutter([&](std::stop_token stop) {
    std::mt19937 random(3);
    while (!stop.stop_requested()) {
      std::this_thread::sleep_for(milliseconds(20 + random() % 60));
      rig.cut(kDemandLink + random() % 3);
    }
  });
  rig.resume(false);
  EXPECT_EQ(rig.await_exit(std::chrono::seconds(60)), 0);
  cutter.request_stop();
  cutter.join();
  EXPECT_TRUE(rig.await_complete());
}

TEST_P(PageSinkTest, LinksThatBreakWhileNothingIsToDoComeBack) {
  Rig rig({}, meet_and_verify_all);
  rig.run(false);
  rig.await_task();
  rig.cut(kFirstBulkLink);
  rig.cut(kFirstBulkLink + 1);
  std::this_thread::sleep_for(milliseconds(400));  // those are back first
  rig.cut(kDemandLink);
  Deadline deadline = deadline_in(std::chrono::seconds(5));
  for (std::uint64_t link : {kFirstBulkLink, kFirstBulkLink + 1, kDemandLink})
    while (rig.connections(link) < 2 && Clock::now() < deadline)
      std::this_thread::sleep_for(milliseconds(5));
  EXPECT_LT(Clock::now(), deadline);
  rig.release_task();
  expect_clean_end(rig);
}

TEST_P(PageSinkTest, ALinkThatCarriesNonsenseIsReplaced) {
  if (GetParam().links == RigLinks::kRdma) GTEST_SKIP() << "only the fake link corrupts bytes";
  std::uint64_t late = GetParam().links == RigLinks::kFake ? 20'000 : 200;  // an answer is short
  for (std::uint64_t position : {std::uint64_t{2}, std::uint64_t{20}, late}) {
    Rig rig({.prefetch = 0, .chunks = {.checksum = true}, .corrupt_demand_byte_at = position},
            [](const Task& task) { return task.verify(0, 400); });
    rig.run(false);
    EXPECT_EQ(rig.await_exit(), 0);
    EXPECT_EQ(rig.connections(kDemandLink), 2U);
  }
}

// A page that a task waits for was on its way on a bulk link.
TEST_P(PageSinkTest, APageOnALostBulkLinkIsDemandedAgain) {
  if (!source_sees_all()) GTEST_SKIP() << "what is read at the source cannot be held back";
  Rig rig({.prefetch = 256}, [](const Task& task) {
    int wrong = task.verify(0, 30);
    task.meet();
    return wrong;
  });
  rig.start();
  rig.restore();
  rig.gate().close();
  rig.resume(false);
  // The demand brings eight; the task waits for what is read ahead. How much of that is read before
  // the gate holds it depends on how it is divided among the links.
  rig.await_reads(9);
  std::this_thread::sleep_for(milliseconds(50));
  rig.refuse_links(true);
  rig.cut(kFirstBulkLink);
  rig.cut(kFirstBulkLink + 1);
  rig.gate().open();
  rig.await_task();
  rig.release_task();
  EXPECT_EQ(rig.await_exit(), 0);
}

TEST_P(PageSinkTest, BeforeTheResumeALostLinkIsAFailure) {
  Rig rig({}, verify_all);
  rig.start();
  EXPECT_FALSE(rig.sink().failure());
  rig.gate().close();
  std::jthread cutter([&] {
    rig.await_reads(1);
    rig.cut(kFirstBulkLink);
  });
  auto fetched = rig.sink().fetch_all(soon());
  ASSERT_FALSE(fetched);
  EXPECT_EQ(fetched.error().code, ErrorCode::kUnavailable);
  EXPECT_TRUE(rig.sink().failure());
}

TEST_P(PageSinkTest, BeforeTheResumeALostDemandLinkIsAFailureToo) {
  Rig rig({}, verify_all);
  rig.start();
  rig.restore();
  rig.cut(kDemandLink);
  Deadline deadline = deadline_in(std::chrono::seconds(5));
  while (!rig.sink().failure() && Clock::now() < deadline)
    std::this_thread::sleep_for(milliseconds(2));
  EXPECT_TRUE(rig.sink().failure());
  auto restored = rig.sink().await_restored(soon());
  EXPECT_FALSE(restored);
}

// ------------------------------------------------------------- orders from above

// ------------------------------------------------------------- reading the source's memory

TEST_P(PageSinkTest, ADemandedPageIsReadOnceAndWithoutTheSource) {
  if (source_sees_all()) GTEST_SKIP() << "there is nothing that could be read";
  Rig rig({.pages = 1024, .prefetch = 0, .remote_sixteenths = 16}, meet_and_verify_all);
  rig.run(false);
  rig.await_task();
  rig.release_task();
  EXPECT_EQ(rig.await_exit(), 0);
  EXPECT_TRUE(rig.await_complete());
  auto stats = rig.stats();
  EXPECT_EQ(stats.faults_demand(), rig.present().pages());
  EXPECT_EQ(stats.rdma_demand_reads(), stats.faults_demand());
  EXPECT_EQ(stats.rdma_reads(), stats.rdma_demand_reads());
  EXPECT_EQ(stats.rdma_read_bytes(), stats.faults_demand() * kPageBytes);
  EXPECT_EQ(stats.pages_sent(), rig.present().pages());
  EXPECT_EQ(rig.kernel().reads(), 0U) << "by nobody there";
}

TEST_P(PageSinkTest, AStagedPageIsReadOnceUnlessItIsZero) {
  if (GetParam().links == RigLinks::kFake) GTEST_SKIP() << "these links cannot read";
  Rig rig({.pages = 1024, .prefetch = 0, .remote_sixteenths = 0}, verify_all);
  rig.run(false);
  EXPECT_EQ(rig.await_exit(), 0);
  std::uint64_t with_data = 0;
  for (std::size_t page = 0; page < 1024; ++page)
    if (content_of(page) == Content::kData) ++with_data;
  EXPECT_EQ(rig.stats().rdma_demand_reads(), with_data);
  EXPECT_EQ(rig.kernel().reads(), rig.present().pages());
}

TEST_P(PageSinkTest, AWrongKeyEndsTheLinkAndPagesComeByAnother) {
  if (source_sees_all()) GTEST_SKIP() << "there is nothing that could be read";
  Rig rig({.pages = 1024, .wrong_key = true}, verify_all);
  rig.run(true);
  expect_clean_end(rig, false);
  EXPECT_GE(rig.connections(kDemandLink), 2U);
}

TEST_P(PageSinkTest, BeforeTheResumeAWrongKeyIsAFailure) {
  if (source_sees_all()) GTEST_SKIP() << "there is nothing that could be read";
  Rig rig({.pages = 1024, .wrong_key = true}, verify_all);
  rig.start();
  auto fetched = rig.sink().fetch_all(soon());
  ASSERT_FALSE(fetched);
  EXPECT_EQ(fetched.error().code, ErrorCode::kUnavailable);
}

TEST_P(PageSinkTest, HurryFetchesWhatNobodyTouched) {
  Rig rig({}, meet_and_verify_all);
  rig.run(false);
  rig.await_task();
  rig.sink().hurry();
  EXPECT_TRUE(rig.await_complete());
  rig.release_task();
  expect_clean_end(rig);
}

TEST_P(PageSinkTest, NothingIsMissingOnceAllIsForgotten) {
  Rig rig({}, meet_and_verify_all);
  rig.start();
  rig.restore();
  rig.gate().close();
  rig.resume(true);
  rig.await_reads(1);
  rig.kill_target();
  rig.sink().forget_all();
  EXPECT_TRUE(rig.await_complete(milliseconds(500)));
  EXPECT_EQ(rig.sink().missing_bytes(), 0U);
  rig.gate().open();
}

TEST_P(PageSinkTest, StopsAtAnyMoment) {
  std::mt19937 random(9);
  // Connections of RDMA are dear.
  const int times = GetParam().links == RigLinks::kRdma ? 20 : 40;
  for (int i = 0; i < times; ++i) {
    Rig rig({.pages = 1024, .bulk_links = 1 + random() % 3},
            [](const Task& task) { return verify_with_threads(task, 4); });
    rig.run(i % 2 == 0);
    std::this_thread::sleep_for(std::chrono::microseconds(random() % 20'000));
    auto began = Clock::now();
    rig.kill_target();
    if (i % 3 == 0) rig.server().stop();
    rig.sink().stop();
    EXPECT_LT(seconds_between(began, Clock::now()), 20);
  }
}

TEST_P(PageSinkTest, StoppingEndsTheWaiting) {
  Rig rig({}, verify_all);
  rig.start();
  rig.gate().close();
  std::jthread fetcher([&] {
    auto began = Clock::now();
    EXPECT_FALSE(rig.sink().fetch_all(soon()));
    EXPECT_LT(seconds_between(began, Clock::now()), 20);
  });
  std::jthread waiter([&] {
    auto began = Clock::now();
    EXPECT_FALSE(rig.sink().await_restored(soon()));
    EXPECT_LT(seconds_between(began, Clock::now()), 20);
  });
  rig.await_reads(1);
  rig.sink().stop();
}

// ------------------------------------------------------------- what it costs

TEST_P(PageSinkTest, ASequentialReaderFaultsSeldom) {
  Rig rig({.pages = 8'192}, verify_all);
  rig.run(false);
  expect_clean_end(rig);
  auto stats = rig.stats();
  EXPECT_GT(stats.faults_demand(), 0U);
  EXPECT_LE(static_cast<double>(stats.faults_demand()),
            0.05 * static_cast<double>(rig.present().pages()));
  EXPECT_GT(stats.fault_latency_seconds().p50(), 0);
  EXPECT_GE(stats.fault_latency_seconds().max(), stats.fault_latency_seconds().p50() * 0.9);
}

TEST_P(PageSinkTest, MostPagesArePushedBeforeARandomReaderTouchesThem) {
  Rig rig({.pages = 8'192}, [](const Task& task) {
    std::mt19937_64 random(11);
    for (std::size_t i = 0; i < 4 * task.pages; ++i) {
      std::size_t page = random() % task.pages;
      if (task.verify(page, page + 1) != 0) return 1;
    }
    return 0;
  });
  rig.run(true);
  expect_clean_end(rig);
  auto stats = rig.stats();
  auto demand = static_cast<double>(stats.faults_demand());
  auto avoided = static_cast<double>(stats.faults_avoided());
  EXPECT_GT(avoided / (avoided + demand), 0.5);
}

// ------------------------------------------------------------- pages from rounds

void send_round(Rig& rig, std::size_t first, std::uint32_t pages, std::uint64_t round) {
  auto& link = rig.server().bulk_link(0);
  ChunkWriter writer(rig.kernel(), {});
  ASSERT_TRUE(writer.send(link, {rig.wire_pid(), rig.address(first), pages}, soon()));
  ASSERT_TRUE(link.send(FrameType::kRoundEnd, round, "", soon()));
  std::vector<std::byte> nothing;
  auto acknowledged = link.expect(FrameType::kRoundAck, nothing, soon());
  ASSERT_TRUE(acknowledged);
  EXPECT_EQ(acknowledged->argument, round);
}

void end_rounds(Rig& rig) {
  for (std::uint64_t i = 0; i < rig.server().bulk_links(); ++i)
    ASSERT_TRUE(rig.server().bulk_link(i).send(FrameType::kPushEnd, 1, "", soon()));
}

TEST_P(PageSinkTest, FreshPagesAreUsedAndStaleOnesFetchedAgain) {
  Rig rig({}, verify_all);
  ASSERT_TRUE(rig.server().connect(2, soon()));
  // Pages 0 to 9 as they are; 10 to 19 and then the source changes them.
  send_round(rig, 0, 10, 1);
  std::vector<std::byte> other(10 * kPageBytes, std::byte{0x55});
  std::vector<std::byte> right(other.size());
  iovec there{reinterpret_cast<void*>(rig.address(20)), right.size()};
  iovec new_bytes{right.data(), right.size()};
  iovec old_bytes{other.data(), other.size()};
  auto size = static_cast<ssize_t>(right.size());
  ASSERT_EQ(::process_vm_readv(rig.source(), &new_bytes, 1, &there, 1, 0), size);
  ASSERT_EQ(::process_vm_writev(rig.source(), &old_bytes, 1, &there, 1, 0), size);
  send_round(rig, 20, 10, 2);
  ASSERT_EQ(::process_vm_writev(rig.source(), &new_bytes, 1, &there, 1, 0), size);
  end_rounds(rig);
  EXPECT_EQ(rig.kernel().reads(), 20U);
  PageSet fresh;
  fresh.add(rig.address(0), rig.address(10));
  rig.announce({{rig.wire_pid(), fresh}});
  EXPECT_EQ(rig.sink().missing_bytes(), (rig.present().pages() - 10) * kPageBytes);
  rig.restore();
  rig.resume(true);
  expect_clean_end(rig, false);
  if (source_sees_all()) {
    EXPECT_EQ(rig.kernel().reads(), rig.present().pages() + 10) << "the fresh ones came once";
  }
}

TEST_P(PageSinkTest, FreshPagesThatNeverCameAreAnError) {
  Rig rig({}, verify_all);
  ASSERT_TRUE(rig.server().connect(1, soon()));
  send_round(rig, 0, 10, 1);
  end_rounds(rig);
  PageSet fresh;
  fresh.add(rig.address(0), rig.address(11));
  auto done = rig.sink().set_pages({{rig.wire_pid(), rig.present()}}, {{rig.wire_pid(), fresh}});
  ASSERT_FALSE(done);
  EXPECT_EQ(done.error().code, ErrorCode::kProtocol);
}

}  // namespace
}  // namespace gestalt
