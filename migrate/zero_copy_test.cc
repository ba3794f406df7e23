// Pages of real processes, registered in place and read through a queue pair.
#include "migrate/zero_copy.h"

#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <pthread.h>
#include <sched.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>

#include <sys/uio.h>

#include <cstring>

#include "common/child.h"
#include "common/format.h"
#include "migrate/criu_client.h"
#include "migrate/memory_map.h"
#include "migrate/rdma_rig.h"
#include "migrate/zero_copy_fixture.h"
#include "migrate/zero_copy_probe.h"
#include "migrate/zero_copy_unit.h"

namespace gestalt {
namespace {

constexpr std::uint64_t kBytes = 8 * kMiB;

TEST_F(ZeroCopyTest, EveryPage) {
  start([] { return map_filled(kBufferBytes); }, kBufferBytes);
  expect_it_works();
}

TEST_F(ZeroCopyTest, OfAnotherUser) {
  start(
      [] {
        char* memory = map_filled(kBytes);
        rlimit little{4096, 4096};
        ::setrlimit(RLIMIT_MEMLOCK, &little);
        if (::setresgid(65534, 65534, 65534) != 0 || ::setresuid(65534, 65534, 65534) != 0)
          ::_exit(7);
        return memory;
      },
      kBytes);
  expect_it_works();
}

TEST_F(ZeroCopyTest, OfOneThatMayLockNothing) {
  start(
      [] {
        char* memory = map_filled(kBytes);
        rlimit none{0, 0};
        for (auto resource : {RLIMIT_MEMLOCK, RLIMIT_NOFILE, RLIMIT_AS, RLIMIT_DATA})
          ::setrlimit(resource, &none);
        if (::setresuid(65534, 65534, 65534) != 0) ::_exit(7);
        return memory;
      },
      kBytes);
  expect_it_works();
}

TEST_F(ZeroCopyTest, UnderSeccomp) {
  start(
      [] {
        char* memory = map_filled(kBytes);
        allow_nothing();
        return memory;
      },
      kBytes);
  expect_it_works();
}

TEST_F(ZeroCopyTest, InNamespacesOfItsOwn) {
  start(
      [] {
        char* memory = map_filled(kBytes);
        if (::unshare(CLONE_NEWUSER | CLONE_NEWNET | CLONE_NEWNS | CLONE_NEWIPC) != 0) ::_exit(7);
        return memory;
      },
      kBytes);
  expect_it_works();
}

TEST_F(ZeroCopyTest, WithThreads) {
  start(
      [] {
        char* memory = map_filled(kBytes);
        for (int i = 0; i < 4; ++i) {
          pthread_t thread;
          pthread_create(
              &thread, nullptr,
              [](void*) -> void* {
                while (true) ::pause();
              },
              nullptr);
        }
        ::usleep(100'000);
        return memory;
      },
      kBytes);
  expect_it_works();
}

TEST_F(ZeroCopyTest, ThatMayNotMakeCode) {
  constexpr int kSetMdwe = 65;  // PR_SET_MDWE, since 6.3
  if (::prctl(66, 0, 0, 0, 0) < 0) GTEST_SKIP() << "this kernel has no PR_SET_MDWE";
  start(
      [] {
        char* memory = map_filled(kBytes);
        if (::prctl(kSetMdwe, 1, 0, 0, 0) != 0) ::_exit(7);
        return memory;
      },
      kBytes);
  limits_.max_region_bytes = 16 * kPageBytes;
  expect_it_works();
}

TEST_F(ZeroCopyTest, ThatLocksWhatItMaps) {
  start(
      [] {
        char* memory = map_filled(kBytes);
        if (::mlockall(MCL_CURRENT | MCL_FUTURE) != 0) ::_exit(7);
        return memory;
      },
      kBytes);
  expect_it_works();
}

TEST_F(ZeroCopyTest, OfHugePages) {
  start(
      [] {
        auto address = reinterpret_cast<std::uint64_t>(map_memory(kBytes + 2 * kMiB));
        char* memory = reinterpret_cast<char*>((address + 2 * kMiB - 1) / (2 * kMiB) * (2 * kMiB));
        ::madvise(memory, kBytes, MADV_HUGEPAGE);
        fill(memory, kBytes);
        return memory;
      },
      kBytes);
  EXPECT_GT(kilobytes(formatted("/proc/{}/smaps_rollup", victim_->pid()), "AnonHugePages"), 0U);
  expect_it_works();
}

TEST_F(ZeroCopyTest, Fragmented) {
  constexpr std::uint64_t kRanges = 4500;  // more than are made at once
  start(
      [] {
        char* memory = map_apart(2 * kRanges * kPageBytes);
        for (std::uint64_t i = 0; i < kRanges; ++i) fill(memory + 2 * i * kPageBytes, kPageBytes);
        return memory;
      },
      2 * kRanges * kPageBytes);
  limits_.min_region_pages = 1;
  ASSERT_NO_FATAL_FAILURE(freeze_and_register());
  EXPECT_EQ(registration_->stats().regions, kRanges);
  EXPECT_EQ(registration_->staged().pages(), kRanges);
  std::printf("microseconds_a_region %.1f\n",
              registration_->stats().register_seconds * 1e6 / kRanges);
  expect_content();
  auto began = Clock::now();
  release_and_thaw();  // and no hole has become a page
  std::printf("microseconds_a_release %.1f\n",
              seconds_between(began, Clock::now()) * 1e6 / kRanges);
}

TEST_F(ZeroCopyTest, Bridges) {
  start([] { return map_filled(kBytes); }, kBytes);
  wanted_.clear();
  for (std::uint64_t at = 0; at < kBytes; at += 4 * kPageBytes)
    wanted_.add(start_ + at, start_ + at + kPageBytes);
  ASSERT_NO_FATAL_FAILURE(freeze_and_register());
  EXPECT_EQ(registration_->stats().regions, 1U);
  EXPECT_EQ(registration_->stats().bridged_pages, wanted_.pages() * 3 - 3);
  expect_all_registered();
  expect_content();
  release_and_thaw();
}

TEST_F(ZeroCopyTest, WhatAForkSharesIsNotCopied) {
  start(
      [] {
        char* memory = map_filled(kBytes);
        pid_t self = ::getpid();
        if (::fork() == 0) {
          ::prctl(PR_SET_PDEATHSIG, SIGKILL);
          if (::getppid() != self) ::_exit(0);
          while (true) ::pause();
        }
        fill(memory, kBytes / 4);  // its own again
        return memory;
      },
      kBytes);
  auto before = kilobytes("/proc/meminfo", "AnonPages");
  ASSERT_NO_FATAL_FAILURE(freeze_and_register());
  auto after = kilobytes("/proc/meminfo", "AnonPages");
  EXPECT_EQ(registration_->stats().pages * kPageBytes, kBytes / 4);
  EXPECT_EQ(refused(ZeroCopyRefusal::kShared) * kPageBytes, kBytes / 4 * 3);
  EXPECT_LT(after, before + kBytes / 1024 / 4);
  expect_content();
  release_and_thaw();
}

// Pages that a fork has shared, and nobody shares any more, are still write-protected.
TEST_F(ZeroCopyTest, WhatAForkHasShared) {
  start(
      [] {
        char* memory = map_filled(kBytes);
        pid_t child = ::fork();
        if (child == 0) ::_exit(0);
        ::waitpid(child, nullptr, 0);
        return memory;
      },
      kBytes);
  expect_it_works();
}

TEST_F(ZeroCopyTest, KindsThatAreStaged) {
  (void)write_control_file("/proc/sys/vm/nr_hugepages", "4");
  struct Kind {
    const char* name;
    char* (*make)();
  };
  for (auto [name, make] : {
           Kind{"shared",
                [] {
                  void* memory = ::mmap(nullptr, kBytes, PROT_READ | PROT_WRITE,
                                        MAP_SHARED | MAP_ANONYMOUS, -1, 0);
                  fill(static_cast<char*>(memory), kBytes);
                  return static_cast<char*>(memory);
                }},
           Kind{"hugetlb",
                [] {
                  char* memory =
                      static_cast<char*>(::mmap(nullptr, kBytes, PROT_READ | PROT_WRITE,
                                                MAP_PRIVATE | MAP_ANONYMOUS | MAP_HUGETLB, -1, 0));
                  if (memory == MAP_FAILED) return map_apart(kBytes);
                  fill(memory, kBytes);
                  return memory;
                }},
           Kind{"not readable",
                [] {
                  char* memory = map_filled(kBytes);
                  ::mprotect(memory, kBytes, PROT_NONE);
                  return memory;
                }},
           Kind{"write-only",
                [] {
                  char* memory = map_filled(kBytes);
                  ::mprotect(memory, kBytes, PROT_WRITE);
                  return memory;
                }},
           Kind{"never touched", [] { return map_apart(kBytes); }},
       }) {
    SCOPED_TRACE(name);
    start(make, kBytes);
    ASSERT_NO_FATAL_FAILURE(freeze_and_register());
    EXPECT_TRUE(registration_->regions().empty());
    EXPECT_EQ(registration_->staged().pages(), wanted_.pages());
    release_and_thaw();
    victim_.reset();
  }
  (void)write_control_file("/proc/sys/vm/nr_hugepages", "0");
}

TEST_F(ZeroCopyTest, WhatIsSwappedOutStaysSo) {
  if (read_file("/proc/swaps").value_or("").find("zram") == std::string::npos)
    GTEST_SKIP() << "there is no swap space here";
  start(
      [] {
        char* memory = map_filled(kBytes);
        ::madvise(memory, kBytes / 2, MADV_PAGEOUT);
        return memory;
      },
      kBytes);
  auto status = formatted("/proc/{}/status", victim_->pid());
  auto swapped = kilobytes(status, "VmSwap");
  ASSERT_GT(swapped, 0U);
  ASSERT_NO_FATAL_FAILURE(freeze_and_register());
  EXPECT_EQ(kilobytes(status, "VmSwap"), swapped);
  EXPECT_EQ(refused(ZeroCopyRefusal::kNotPresent) * 4, swapped);
  expect_content();
  release_and_thaw();
}

// A hole must not be asked of whoever handles the program's faults: nobody would answer.
TEST_F(ZeroCopyTest, UnderAUserfaultfd) {
  start(
      [] {
        char* memory = map_apart(kBytes);
        for (std::uint64_t at = 0; at < kBytes; at += 64 * kPageBytes)
          fill(memory + at, 32 * kPageBytes);
        auto fd = static_cast<int>(::syscall(SYS_userfaultfd, O_CLOEXEC));
        uffdio_api api{UFFD_API, 0, 0};
        uffdio_register area{};
        area.range = {reinterpret_cast<std::uint64_t>(memory), kBytes};
        area.mode = UFFDIO_REGISTER_MODE_MISSING;
        if (::ioctl(fd, UFFDIO_API, &api) != 0 || ::ioctl(fd, UFFDIO_REGISTER, &area) != 0)
          ::_exit(7);
        return memory;
      },
      kBytes);
  ASSERT_NO_FATAL_FAILURE(freeze_and_register());
  EXPECT_EQ(registration_->stats().pages * kPageBytes, kBytes / 2);
  expect_content();
  release_and_thaw();
}

// To pin is not to write.
TEST_F(ZeroCopyTest, TheDirtyTrackerSeesNothing) {
  if (probe_tracker() != TrackerKind::kUserfaultWriteProtect)
    GTEST_SKIP() << "this kernel has no asynchronous write-protection by userfaultfd";
  start([] { return map_filled(kBytes); }, kBytes,
        [](char* memory) -> std::uint64_t {
          fill(memory, 16 * kPageBytes);
          return 1;
        });
  UffdWpTracker tracker;
  auto first = tracker.harvest(victim_->pid());
  ASSERT_TRUE(first) << first.error().text();
  look_ = look_of(victim_->pid());
  victim_->step();
  ASSERT_NO_FATAL_FAILURE(freeze_and_register());
  expect_all_registered();
  auto written = tracker.harvest_frozen(victim_->pid());
  ASSERT_TRUE(written) << written.error().text();
  EXPECT_EQ(written->pages_in(start_, start_ + kBytes), 16U);
  expect_content();
  release_and_thaw();
}

TEST_F(ZeroCopyTest, WhatIsWrittenAfterARollBackIsNotSeen) {
  start([] { return map_filled(kBytes); }, kBytes,
        [](char* memory) -> std::uint64_t {
          std::fill(memory, memory + kBytes, 'x');
          return std::count(memory, memory + kBytes, 'x') == kBytes ? 1 : 2;
        });
  ASSERT_NO_FATAL_FAILURE(freeze_and_register());
  auto regions = registration_->regions();
  release_and_thaw();
  for (const auto& region : regions) EXPECT_EQ(read(region).error().code, ErrorCode::kPermission);
}

TEST_F(ZeroCopyTest, AForkAfterwards) {
  start([] { return map_filled(kBytes); }, kBytes,
        [](char* memory) -> std::uint64_t {
          auto pipe = make_pipe();
          pid_t child = ::fork();
          if (child == 0) {
            char byte = 0;
            (void)!::read(pipe->read.get(), &byte, 1);
            std::uint64_t word = 0;
            for (std::uint64_t at = 0; at < kBytes; at += kPageBytes) {
              std::memcpy(&word, memory + at, sizeof word);
              if (word != word_at(reinterpret_cast<std::uint64_t>(memory + at))) ::_exit(1);
            }
            ::_exit(0);
          }
          std::fill(memory, memory + kBytes, 'x');
          (void)!::write(pipe->write.get(), "", 1);
          int status = -1;
          ::waitpid(child, &status, 0);
          return status == 0 ? 1 : 2;
        });
  expect_it_works();
}

// Also those in the CPUs' own lists, which MemFree does not count.
std::uint64_t free_pages() {
  std::istringstream lines(read_file("/proc/zoneinfo").value_or(""));
  std::uint64_t pages = 0;
  std::uint64_t value = 0;
  for (std::string key; lines >> key; lines.ignore(1 << 20, '\n'))
    if ((key == "nr_free_pages" || key == "count:") && lines >> value) pages += value;
  return pages;
}

TEST_F(ZeroCopyTest, TheProcessIsKilled) {
  start([] { return map_filled(kBufferBytes); }, kBufferBytes);
  ASSERT_NO_FATAL_FAILURE(freeze_and_register());
  ASSERT_TRUE(group_->kill());
  victim_->join();
  ASSERT_TRUE(group_->wait_empty(deadline_in(kPatience)));
  expect_all_registered();
  expect_content();
  auto before = free_pages();
  auto pages = wanted_.pages();
  registration_.reset();
  for (int i = 0; i < 100 && free_pages() < before + pages * 3 / 4; ++i) ::usleep(100'000);
  EXPECT_GT(free_pages(), before + pages * 3 / 4);
}

TEST_F(ZeroCopyTest, TheProcessIsKilledBefore) {
  start([] { return map_filled(kBytes); }, kBytes);
  ASSERT_NO_FATAL_FAILURE(prepare());
  ASSERT_NO_FATAL_FAILURE(freeze());
  ASSERT_TRUE(group_->kill());
  victim_->join();
  auto registration = source_->register_pages(wanted_, limits_, deadline_in(kPatience));
  ASSERT_FALSE(registration);
  EXPECT_EQ(registration.error().code, ErrorCode::kGone);
}

TEST_F(ZeroCopyTest, TheKeeperIsKilled) {
  start([] { return map_filled(kBytes); }, kBytes);
  ASSERT_NO_FATAL_FAILURE(prepare());
  ASSERT_NO_FATAL_FAILURE(freeze());
  ::kill(source_->keeper(), SIGKILL);
  ASSERT_NO_FATAL_FAILURE(register_pages());
  EXPECT_EQ(registration_->staged().pages(), wanted_.pages());
  EXPECT_FALSE(registration_->stats().trouble.empty());
  release_and_thaw();
}

// Kills a keeper that has descriptors: only after its first mapping is it given any.
std::jthread kill_at_work(pid_t keeper) {
  return std::jthread([keeper](const std::stop_token& stop) {
    std::error_code ignored;
    std::filesystem::path files = formatted("/proc/{}/fd", keeper);
    while (std::filesystem::directory_iterator(files, ignored) ==
           std::filesystem::directory_iterator())
      if (stop.stop_requested()) return;
    ::kill(keeper, SIGKILL);
  });
}

// The task besides it that has this process's memory.
pid_t keeper_of(pid_t pid) {
  auto maps_of = [](pid_t each) { return read_file(formatted("/proc/{}/maps", each)); };
  auto maps = maps_of(pid).value_or("?");
  for (pid_t each : list_pids("/proc").value_or(std::vector<pid_t>()))
    if (each != pid && maps_of(each).value_or("") == maps) return each;
  return -1;
}

TEST_F(ZeroCopyTest, TheKeeperIsKilledAtWork) {
  start([] { return map_filled(kBufferBytes); }, kBufferBytes);
  auto status = formatted("/proc/{}/status", victim_->pid());
  auto size = kilobytes(status, "VmSize");
  while (true) {  // it may be ready before it is hit
    ASSERT_NO_FATAL_FAILURE(prepare());
    ASSERT_NO_FATAL_FAILURE(freeze());
    {
      auto killer = kill_at_work(source_->keeper());
      ASSERT_NO_FATAL_FAILURE(register_pages());
    }
    if (registration_->needs_clean_up()) break;
    ASSERT_NO_FATAL_FAILURE(release_and_thaw());
  }
  registration_->release();
  ASSERT_TRUE(group_->thaw(deadline_in(kPatience)));
  EXPECT_GT(kilobytes(status, "VmSize"), size);
  auto cleaned = registration_->clean_up();
  ASSERT_TRUE(cleaned) << cleaned.error().text();
  EXPECT_FALSE(registration_->needs_clean_up());
  thaw();  // it is what it was
}

TEST_F(ZeroCopyTest, AKeeperOfAUnitIsKilledAtWork) {
  GESTALT_NEED_RDMA(rdma);
  auto domain = RdmaDomain::at(rdma.address);
  ASSERT_TRUE(domain) << domain.error().text();
  start([] { return map_filled(kBufferBytes); }, kBufferBytes);
  auto status = formatted("/proc/{}/status", victim_->pid());
  auto size = kilobytes(status, "VmSize");
  std::optional<ZeroCopyUnit> unit;
  while (kilobytes(status, "VmSize") == size) {
    unit.emplace();
    unit->prepare({victim_->pid()}, *domain);
    pid_t keeper = keeper_of(victim_->pid());
    ASSERT_GT(keeper, 0);
    ASSERT_NO_FATAL_FAILURE(freeze());
    {
      auto killer = kill_at_work(keeper);
      (void)unit->register_pages({{static_cast<std::uint32_t>(victim_->pid()), wanted_}}, 16,
                                 deadline_in(kPatience));
    }
    unit->release();
    ASSERT_TRUE(group_->thaw(deadline_in(kPatience)));
  }
  unit->clean_up();
  thaw();
}

TEST_F(ZeroCopyTest, NoTimeIsLeft) {
  start([] { return map_filled(kBytes); }, kBytes);
  ASSERT_NO_FATAL_FAILURE(prepare());
  ASSERT_NO_FATAL_FAILURE(freeze());
  ASSERT_NO_FATAL_FAILURE(register_pages(Clock::now()));
  EXPECT_EQ(refused(ZeroCopyRefusal::kKernel), wanted_.pages());
  EXPECT_EQ(registration_->staged().pages(), wanted_.pages());
  release_and_thaw();
}

TEST_F(ZeroCopyTest, TimeIsUpOnTheWay) {
  constexpr std::uint64_t kPages = 3000;
  start([] { return map_filled(kPages * kPageBytes); }, kPages * kPageBytes);
  limits_ = {.min_region_pages = 1, .max_region_bytes = kPageBytes};
  // How long it takes depends on the machine: less and less time, until it is too little.
  for (milliseconds time{400};; time = time * 3 / 4) {
    ASSERT_NO_FATAL_FAILURE(prepare());
    ASSERT_NO_FATAL_FAILURE(freeze());
    ASSERT_NO_FATAL_FAILURE(register_pages(deadline_in(time)));
    if (registration_->regions().size() < kPages) break;
    registration_.reset();
    ASSERT_NO_FATAL_FAILURE(thaw());
  }
  EXPECT_EQ(registration_->regions().size() + registration_->staged().pages(), kPages);
  expect_content();
  release_and_thaw();
}

// As of a driver that wants more than the rest.
TEST_F(ZeroCopyTest, TheDeviceRefuses) {
  start([] { return map_filled(kBytes); }, kBytes);
  auto device = loopback_->device();
  device.protection_domain = ~0U;
  auto source = ZeroCopySource::prepare(victim_->pid(), device, keepers_->directory_fd());
  ASSERT_TRUE(source) << source.error().text();
  source_.emplace(std::move(*source));
  ASSERT_NO_FATAL_FAILURE(freeze());
  ASSERT_NO_FATAL_FAILURE(register_pages());
  EXPECT_EQ(registration_->staged().pages(), wanted_.pages());
  EXPECT_EQ(refused(ZeroCopyRefusal::kKernel), wanted_.pages());
  release_and_thaw();
}

// What the keeper registers is charged to its own control group.
TEST_F(ZeroCopyTest, AGroupHasALimit) {
  auto mount = cgroup2_mount();
  auto limit = [&](const char* group, const char* text) {
    return mount && write_control_file(formatted("{}/gestalt/{}/rdma.max", *mount, group),
                                       loopback_->name() + " " + text);
  };
  if (mount) (void)write_control_file(*mount + "/gestalt/cgroup.subtree_control", "+rdma");
  if (!limit("zero-copy-test", "hca_object=0") || !limit("zero-copy-keepers", "hca_object=5"))
    GTEST_SKIP() << "there is no control group for RDMA here";
  start([] { return map_filled(kBytes); }, kBytes);
  limits_.max_region_bytes = kBytes / 16;
  ASSERT_NO_FATAL_FAILURE(freeze_and_register());
  EXPECT_EQ(registration_->stats().regions, 5U);
  EXPECT_EQ(refused(ZeroCopyRefusal::kKernel), wanted_.pages() / 16 * 11);
  EXPECT_EQ(registration_->staged().pages(), wanted_.pages() / 16 * 11);
  expect_content();
  release_and_thaw();
}

// CRIU leaves a page of the program's code that is its own.
std::string without_resident(std::string look) {
  auto start = look.find("Anonymous:");
  return look.erase(start, look.find('\n', start) - start);
}

// The order of a migration: the keeper first, the pages from CRIU's hook on, while CRIU still has
// the process.
TEST_F(ZeroCopyTest, WithCriu) {
  if (::access("/usr/sbin/criu", X_OK) != 0) GTEST_SKIP() << "there is no CRIU here";
  auto pid = spawn({.argv = {"/bin/sleep", "1000"},
                    .programs = {},
                    .environment = {},
                    .descriptors = {},
                    .new_session = true});
  ASSERT_TRUE(pid) << pid.error().text();
  ASSERT_TRUE(group_->add(*pid));
  ASSERT_TRUE(reaches_state(*pid, 'S'));
  look_ = look_of(*pid);
  auto directory = std::filesystem::path("/tmp/zero-copy-criu");
  std::filesystem::create_directories(directory);
  auto images = open_file(directory, O_RDONLY | O_DIRECTORY);
  auto criu = CriuClient::start({});
  ASSERT_TRUE(images && criu);
  auto source = ZeroCopySource::prepare(*pid, loopback_->device(), keepers_->directory_fd());
  ASSERT_TRUE(source) << source.error().text();
  criu_req request;
  request.set_type(DUMP);
  auto& options = *request.mutable_opts();
  options.set_images_dir_fd(images->get());
  options.set_pid(*pid);
  options.set_log_file("dump.log");
  options.set_notify_scripts(true);
  options.set_leave_running(true);
  options.set_manage_cgroups_mode(IGNORE);
  options.set_manage_cgroups(true);
  auto status = formatted("/proc/{}/status", *pid);
  std::uint64_t resident = 0;
  auto on_notify = [&](std::string_view script) -> Result<void> {
    if (script != "post-dump") return {};
    GESTALT_TRY(group_->freeze(deadline_in(kPatience)));
    resident = kilobytes(status, "RssAnon");
    auto areas = read_memory_map(*pid);
    if (!areas) return std::unexpected(areas.error());
    for (const auto& area : *areas)
      if (area.name == "[heap]" || area.name == "[stack]") wanted_.add(area.start, area.end);
    limits_.min_region_pages = 1;
    GESTALT_ASSIGN(auto registration,
                   source->register_pages(wanted_, limits_, deadline_in(kPatience)));
    registration_.emplace(std::move(registration));
    return {};
  };
  auto dumped = criu->request(request, on_notify, directory / "dump.log", deadline_in(kPatience));
  ASSERT_TRUE(dumped) << dumped.error().text();
  ASSERT_TRUE(registration_);
  EXPECT_GT(registration_->regions().size(), 0U) << registration_->stats().trouble;
  EXPECT_EQ(refused(ZeroCopyRefusal::kKernel), 0U) << registration_->stats().trouble;
  for (const auto& region : registration_->regions()) {
    ASSERT_TRUE(read(region));
    std::vector<char> content(region.end - region.start);
    iovec ours{content.data(), content.size()};
    iovec theirs{reinterpret_cast<void*>(region.start), content.size()};
    ASSERT_GT(::process_vm_readv(*pid, &ours, 1, &theirs, 1, 0), 0);
    EXPECT_TRUE(std::equal(content.begin(), content.end(), buffer_.begin()));
  }
  registration_.reset();
  ASSERT_TRUE(group_->thaw(deadline_in(kPatience)));
  EXPECT_TRUE(reaches_state(*pid, 'S'));
  EXPECT_EQ(kilobytes(status, "RssAnon"), resident);
  EXPECT_EQ(without_resident(look_of(*pid)), without_resident(look_));
  ::kill(*pid, SIGKILL);
  (void)wait_child(*pid, deadline_in(kPatience));
  std::filesystem::remove_all(directory);
}

// Whatever fails, the process goes on, and nothing is left.
class ZeroCopyFaultTest : public ZeroCopyTest, public testing::WithParamInterface<int> {
 protected:
  void TearDown() override {
    ::unsetenv("GESTALT_FAULT");
    ZeroCopyTest::TearDown();
  }
  // As a migration's source would.
  void try_all() {
    auto source =
        ZeroCopySource::prepare(victim_->pid(), loopback_->device(), keepers_->directory_fd());
    if (!group_->freeze(deadline_in(kPatience)) || !source) return;
    auto registration = source->register_pages(wanted_, limits_, deadline_in(kPatience));
  }
};

TEST_P(ZeroCopyFaultTest, Fails) {
  start([] { return map_filled(kBytes); }, kBytes);
  limits_.max_region_bytes = 64 * kPageBytes;
  ::setenv("GESTALT_FAULT", std::to_string(GetParam()).c_str(), 1);
  try_all();
  ::unsetenv("GESTALT_FAULT");
  thaw();
  EXPECT_EQ(kilobytes(formatted("/proc/{}/status", victim_->pid()), "VmPin"), 0U);
}

TEST_P(ZeroCopyFaultTest, Crashes) {
  start([] { return map_filled(kBytes); }, kBytes);
  limits_.max_region_bytes = 64 * kPageBytes;
  pid_t engine = ::fork();
  if (engine == 0) {
    auto own = ZeroCopyLoopback::open("");
    if (!own) ::_exit(1);
    loopback_ = own->get();
    ::setenv("GESTALT_FAULT", formatted("{}:exit", GetParam()).c_str(), 1);
    try_all();
    ::_exit(2);
  }
  int status = -1;
  ::waitpid(engine, &status, 0);
  EXPECT_EQ(WEXITSTATUS(status), 70);
  ASSERT_TRUE(keepers_->wait_empty(deadline_in(kPatience)));
  for (int i = 0; i < 2000 && look_of(victim_->pid()) != look_; ++i) ::usleep(1000);
  thaw();
}

INSTANTIATE_TEST_SUITE_P(EachStep, ZeroCopyFaultTest, testing::Range(50, 58));

TEST_F(ZeroCopyTest, Probe) {
  std::filesystem::create_directories("/run/gestalt");
  std::filesystem::remove(kZeroCopyFile);
  EXPECT_TRUE(known_zero_copy().empty());
  auto support = probe_zero_copy();
  ASSERT_TRUE(support.contains(loopback_->name()));
  EXPECT_EQ(support[loopback_->name()], "");
  EXPECT_EQ(known_zero_copy(), support);
  for (const auto& device : rdma_devices()) EXPECT_TRUE(support.contains(device)) << device;
  EXPECT_EQ(rdma_devices().size(), support.size());
  // What did not work is tried again, and what is gone is forgotten.
  auto stale = formatted("gone0 \n{} not now\n", loopback_->name());
  ASSERT_TRUE(replace_file(kZeroCopyFile, stale, 0644));
  EXPECT_EQ(probe_zero_copy(), support);
  EXPECT_EQ(known_zero_copy(), support);
  std::filesystem::remove(kZeroCopyFile);
  auto none = try_zero_copy("no-such-device");
  ASSERT_FALSE(none);
  EXPECT_EQ(none.error().code, ErrorCode::kNotFound);
}

}  // namespace
}  // namespace gestalt
