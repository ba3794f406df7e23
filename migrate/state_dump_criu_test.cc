// State-only dumps by the installed CRIU and library: runs where a node runs
// (tests/cluster/state_dump_test.sh), elsewhere its cases skip.

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <csignal>
#include <cstring>
#include <filesystem>
#include <functional>
#include <thread>

#include "common/fd.h"
#include "common/format.h"
#include "migrate/criu_client.h"
#include "migrate/mm_image.h"
#include "migrate/pagemap_image.h"
#include "migrate/pagemap_scan.h"
#include "migrate/state_dump.h"
#include "migrate/uffd_wp_tracker.h"

namespace gestalt {
namespace {

constexpr std::uint64_t kMiB = 1U << 20;

// What the child tells of itself, in memory that both share.
struct Board {
  std::uint64_t plain, locked, file, empty, read_only;
  volatile std::uint64_t step;
};

char* map_memory(std::uint64_t bytes, int flags, int fd = -1) {
  void* memory = ::mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | flags, fd, 0);
  if (memory == MAP_FAILED) ::_exit(8);
  return static_cast<char*>(memory);
}

std::uint64_t address(const void* pointer) { return reinterpret_cast<std::uint64_t>(pointer); }

class StateDumpCriuTest : public testing::Test {
 protected:
  void SetUp() override {
    if (::access(kStateDumpLibrary, R_OK) != 0) GTEST_SKIP() << "not installed here";
    // As gestalt-init does, where there is none.
    if (probe_state_dump() != StateDump::kStateOnly) GTEST_SKIP() << "no state-only dumps here";
    directory_ = formatted("/run/state-dump-test-{}", ::getpid());
    std::filesystem::create_directories(directory_ + "/smaps");
    board_ = static_cast<Board*>(
        ::mmap(nullptr, kPageBytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0));
  }
  void TearDown() override {
    if (child_ > 0) {
      ::kill(child_, SIGKILL);
      ::waitpid(child_, nullptr, 0);
    }
    std::filesystem::remove_all(directory_);
  }

  void start_child(std::uint64_t plain_bytes, uid_t uid, bool with_locked) {
    auto stdio = directory_ + "/stdio";
    child_ = ::fork();
    if (child_ == 0) run_child(stdio, plain_bytes, uid, with_locked);
    wait_step(1);
  }
  void wait_step(std::uint64_t step) {
    for (int i = 0; i < 20'000 && board_->step < step; ++i)
      std::this_thread::sleep_for(milliseconds(1));
    ASSERT_GE(board_->step, step);
  }

  [[noreturn]] void run_child(const std::string& stdio, std::uint64_t plain_bytes, uid_t uid,
                              bool with_locked) {
    int file = ::open(stdio.c_str(), O_RDWR | O_CREAT, 0666);
    if (::ftruncate(file, 64 * kPageBytes) != 0) ::_exit(7);
    for (int fd = 0; fd < 3; ++fd) ::dup2(file, fd);
    char* mapped = map_memory(64 * kPageBytes, 0, 0);
    ::close_range(3, ~0U, 0);
    ::setsid();
    if (uid != 0 && (::setgid(uid) != 0 || ::setuid(uid) != 0)) ::_exit(6);
    char* plain = map_memory(plain_bytes, MAP_ANONYMOUS | MAP_NORESERVE);
    ::madvise(plain, plain_bytes, MADV_NOHUGEPAGE);
    for (std::uint64_t at = 0; at < plain_bytes; at += kPageBytes) plain[at] = 5;
    char* locked = map_memory(16 * kPageBytes, MAP_ANONYMOUS);
    if (with_locked && ::mlock(locked, 16 * kPageBytes) != 0) ::_exit(5);
    std::memset(locked, 6, 16 * kPageBytes);
    mapped[3 * kPageBytes] = 7;
    char* read_only = map_memory(16 * kPageBytes, MAP_ANONYMOUS);
    std::memset(read_only, 8, 16 * kPageBytes);
    ::mprotect(read_only, 16 * kPageBytes, PROT_READ);
    char* empty = map_memory(1ULL << 32, MAP_ANONYMOUS | MAP_NORESERVE);
    auto* board = board_;
    board->plain = address(plain);
    board->locked = address(locked);
    board->file = address(mapped);
    board->empty = address(empty);
    board->read_only = address(read_only);
    // Blocked: it may come before the child waits for it.
    sigset_t signals;
    ::sigemptyset(&signals);
    ::sigaddset(&signals, SIGUSR1);
    ::sigprocmask(SIG_BLOCK, &signals, nullptr);
    board->step = 1;
    while (true) {
      while (::sigwaitinfo(&signals, nullptr) < 0) {
      }
      (void)::mmap(nullptr, 32 * kPageBytes, PROT_READ, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
      board->step = board->step + 1;
    }
  }

  Result<double> dump(bool state_only, bool with_smaps) {
    std::filesystem::remove_all(directory_ + "/images");
    std::filesystem::create_directories(directory_ + "/images");
    GESTALT_ASSIGN(auto images, open_file(directory_ + "/images", O_RDONLY | O_DIRECTORY));
    CriuStart start;
    start.target = child_;
    start.state_only = state_only;
    if (with_smaps) start.smaps_directory = directory_ + "/smaps";
    GESTALT_ASSIGN(auto criu, CriuClient::start(start));
    if (with_smaps) GESTALT_TRY(snapshot_smaps({child_}, directory_ + "/smaps"));
    criu_req request;
    request.set_type(DUMP);
    auto& options = *request.mutable_opts();
    options.set_images_dir_fd(images.get());
    options.set_pid(child_);
    options.set_log_level(2);
    options.set_log_file("dump.log");
    options.set_leave_running(true);
    options.set_manage_cgroups_mode(IGNORE);
    options.set_manage_cgroups(true);
    options.set_ghost_limit(64U << 20);
    if (tamper_) tamper_();
    auto began = Clock::now();
    GESTALT_ASSIGN([[maybe_unused]] auto response,
                   criu.request(request, nullptr, directory_ + "/images/dump.log",
                                deadline_in(std::chrono::seconds(60))));
    return seconds_between(began, Clock::now()) * 1e3;
  }

  PageSet dumped() {
    auto content = read_file(formatted("{}/images/pagemap-{}.img", directory_, child_));
    return content ? parse_dumped_pages(*content).value() : PageSet();
  }
  PageSet missing() {
    auto pages = read_missing_pages(directory_ + "/images");
    EXPECT_TRUE(pages) << pages.error().text();
    return pages ? pages->at(static_cast<std::uint32_t>(child_)) : PageSet();
  }
  bool is_lazy(std::uint64_t at) {
    auto content = read_file(formatted("{}/images/mm-{}.img", directory_, child_));
    auto areas = parse_lazy_areas(*content);
    EXPECT_TRUE(areas) << areas.error().text();
    return std::ranges::any_of(*areas,
                               [at](auto area) { return area.start <= at && at < area.end; });
  }
  std::string smaps_file() { return formatted("{}/smaps/smaps-{}", directory_, child_); }

  void expect_complete_dump(std::uint64_t plain_bytes, bool with_locked) {
    auto in_images = dumped();
    auto to_be_sent = missing();
    auto plain = board_->plain;
    EXPECT_EQ(in_images.pages_in(plain, plain + plain_bytes), 0U);
    EXPECT_TRUE(to_be_sent.contains(plain, plain + plain_bytes));
    EXPECT_TRUE(to_be_sent.contains(board_->read_only, board_->read_only + 16 * kPageBytes));
    const auto& locked = with_locked ? in_images : to_be_sent;
    EXPECT_TRUE(locked.contains(board_->locked, board_->locked + 16 * kPageBytes));
    EXPECT_EQ(is_lazy(board_->locked), !with_locked);
    EXPECT_TRUE(in_images.contains(board_->file + 3 * kPageBytes));
    EXPECT_EQ(to_be_sent.pages_in(board_->empty, board_->empty + (1ULL << 32)), 0U);
    expect_unharmed(plain_bytes);
  }
  void expect_unharmed(std::uint64_t plain_bytes) {
    char byte = 0;
    iovec local{&byte, 1};
    iovec remote{reinterpret_cast<void*>(board_->plain + plain_bytes - kPageBytes), 1};
    EXPECT_EQ(::process_vm_readv(child_, &local, 1, &remote, 1, 0), 1);
    EXPECT_EQ(byte, 5);
    auto step = board_->step;
    ::kill(child_, SIGUSR1);
    wait_step(step + 1);
  }

  std::string directory_;
  Board* board_ = nullptr;
  pid_t child_ = -1;
  std::function<void()> tamper_;
};

TEST_F(StateDumpCriuTest, LeavesOutWhatALazyRestoreGivesUs) {
  start_child(32 * kMiB, 0, false);
  auto done = dump(true, false);
  ASSERT_TRUE(done) << done.error().text();
  expect_complete_dump(32 * kMiB, false);
}

TEST_F(StateDumpCriuTest, LockedMemoryIsDumped) {
  start_child(32 * kMiB, 0, true);
  auto done = dump(true, false);
  ASSERT_TRUE(done) << done.error().text();
  expect_complete_dump(32 * kMiB, true);
}

TEST_F(StateDumpCriuTest, AProcessOfAUser) {
  start_child(32 * kMiB, 1000, false);
  auto done = dump(true, false);
  ASSERT_TRUE(done) << done.error().text();
  expect_complete_dump(32 * kMiB, false);
}

TEST_F(StateDumpCriuTest, WithoutItAllIsDumpedAndStillOurs) {
  start_child(32 * kMiB, 0, false);
  auto done = dump(false, false);
  ASSERT_TRUE(done) << done.error().text();
  EXPECT_TRUE(dumped().contains(board_->plain, board_->plain + 32 * kMiB));
  EXPECT_TRUE(missing().contains(board_->plain, board_->plain + 32 * kMiB));
}

TEST_F(StateDumpCriuTest, StoredSmapsAreUsed) {
  start_child(80 * kMiB, 1000, false);
  auto done = dump(true, true);
  ASSERT_TRUE(done) << done.error().text();
  EXPECT_TRUE(std::filesystem::exists(smaps_file()));
  EXPECT_TRUE(smaps_unchanged({child_}, directory_ + "/smaps").value());
  expect_complete_dump(80 * kMiB, false);
  // A lie in them shows: CRIU takes all areas for huge pages.
  tamper_ = [this] {
    auto text = *read_file(smaps_file());
    for (std::size_t at = 0; (at = text.find("VmFlags:", at)) != std::string::npos; at += 8)
      text.insert(at + 8, " ht");
    ASSERT_TRUE(replace_file(smaps_file(), text, 0600));
  };
  (void)dump(true, true);
  EXPECT_FALSE(is_lazy(board_->plain));
  EXPECT_FALSE(smaps_unchanged({child_}, directory_ + "/smaps").value());
}

TEST_F(StateDumpCriuTest, StoredSmapsOfOtherAreasAreNot) {
  start_child(80 * kMiB, 0, false);
  tamper_ = [this] {
    auto step = board_->step;
    ::kill(child_, SIGUSR1);
    wait_step(step + 1);
  };
  auto done = dump(true, true);
  ASSERT_TRUE(done) << done.error().text();
  EXPECT_FALSE(std::filesystem::exists(smaps_file()));
  EXPECT_TRUE(smaps_unchanged({child_}, directory_ + "/smaps").value());
  expect_complete_dump(80 * kMiB, false);
}

TEST_F(StateDumpCriuTest, AProcessThatIsTracked) {
  start_child(80 * kMiB, 1000, false);
  UffdWpTracker tracker;
  auto all = tracker.harvest(child_);
  ASSERT_TRUE(all) << all.error().text();
  EXPECT_TRUE(all->contains(board_->plain, board_->plain + 80 * kMiB));
  auto done = dump(true, true);
  ASSERT_TRUE(done) << done.error().text();
  EXPECT_TRUE(std::filesystem::exists(smaps_file()));
  EXPECT_TRUE(smaps_unchanged({child_}, directory_ + "/smaps").value());
  // CRIU's own code ran in the process, but wrote little.
  auto dirty = tracker.harvest_frozen(child_);
  ASSERT_TRUE(dirty) << dirty.error().text();
  EXPECT_LT(dirty->pages(), 64U);
  expect_complete_dump(80 * kMiB, false);
}

// Figures for people: --gtest_also_run_disabled_tests --gtest_filter='*Measure*'.
TEST_F(StateDumpCriuTest, DISABLED_Measure) {
  for (std::uint64_t gib : {1, 4}) {
    start_child(gib << 30, 0, false);
    auto show = [&](const char* what, bool state_only, bool with_smaps) {
      for (int i = 0; i < 3; ++i) {
        auto took = dump(state_only, with_smaps);
        ASSERT_TRUE(took) << took.error().text();
        std::printf("%lu GiB %s: %.1f ms\n", gib, what, *took);
      }
    };
    if (gib == 1) show("plain dump", false, false);
    show("state-only", true, false);
    show("state-only, smaps stored", true, true);
    auto began = Clock::now();
    EXPECT_TRUE(smaps_unchanged({child_}, directory_ + "/smaps").value());
    std::printf("%lu GiB smaps_unchanged: %.1f ms\n", gib,
                seconds_between(began, Clock::now()) * 1e3);
    began = Clock::now();
    EXPECT_GE(missing().pages(), gib << 18);
    std::printf("%lu GiB read_missing_pages: %.1f ms\n", gib,
                seconds_between(began, Clock::now()) * 1e3);
    ::kill(child_, SIGKILL);
    ::waitpid(child_, nullptr, 0);
    board_->step = 0;
  }
}

}  // namespace
}  // namespace gestalt
