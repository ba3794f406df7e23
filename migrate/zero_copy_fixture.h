// For tests of the zero-copy source: real processes in a control group that can be frozen, and a
// queue pair of the first RDMA device to read their pages by.
#pragma once

#include <gtest/gtest.h>
#include <sys/resource.h>

#include <filesystem>
#include <optional>
#include <sstream>

#include "common/cgroup.h"
#include "common/format.h"
#include "migrate/test_victim.h"
#include "migrate/zero_copy.h"
#include "migrate/zero_copy_loopback.h"

namespace gestalt {

inline constexpr std::size_t kBufferBytes = 64 * kMiB;
inline constexpr auto kPatience = std::chrono::seconds(30);

inline std::uint64_t word_at(std::uint64_t address) { return (address + 1) * 0x9e3779b97f4a7c15; }

// Each word tells where it is.
inline void fill(char* memory, std::uint64_t bytes) {
  for (std::uint64_t at = 0; at < bytes; at += 8) {
    auto* word = reinterpret_cast<std::uint64_t*>(memory + at);
    *word = word_at(reinterpret_cast<std::uint64_t>(word));
  }
}

// Memory apart from its neighbours, of small pages.
inline char* map_apart(std::uint64_t bytes) {
  char* memory = map_memory(bytes + 2 * kPageBytes);
  ::mprotect(memory, kPageBytes, PROT_NONE);
  ::mprotect(memory + kPageBytes + bytes, kPageBytes, PROT_NONE);
  ::madvise(memory + kPageBytes, bytes, MADV_NOHUGEPAGE);
  return memory + kPageBytes;
}

inline char* map_filled(std::uint64_t bytes) {
  char* memory = map_apart(bytes);
  fill(memory, bytes);
  return memory;
}

// What must be the same before and after.
inline std::string look_of(pid_t pid) {
  auto read = [pid](const char* file) {
    return read_file(formatted("/proc/{}/{}", pid, file)).value_or("?");
  };
  std::string out = read("maps") + read("limits") + read("cgroup");
  std::istringstream status(read("status"));
  for (std::string line; std::getline(status, line);)
    for (const char* key : {"TracerPid:", "VmPin:", "VmLck:", "VmSize:", "Threads:", "SigPnd:",
                            "ShdPnd:", "SigBlk:", "Seccomp:", "FDSize:"})
      if (line.starts_with(key)) out += line + "\n";
  // By its page tables: the status is some pages behind, before 6.2 also some of each thread's.
  std::istringstream rollup(read("smaps_rollup"));
  for (std::string line; std::getline(rollup, line);)
    if (line.starts_with("Anonymous:")) out += line + "\n";
  std::error_code ignored;
  for (const auto& entry :
       std::filesystem::directory_iterator(formatted("/proc/{}/fd", pid), ignored))
    out += entry.path().filename().string() + " " +
           std::filesystem::read_symlink(entry.path(), ignored).string() + "\n";
  return out;
}

inline std::uint64_t kilobytes(const std::string& file, const std::string& key) {
  constexpr std::size_t kLargeEnough = 64U << 10;  // all of it is allocated
  std::istringstream lines(read_file(file, kLargeEnough).value_or(""));
  for (std::string word; lines >> word;) {
    std::uint64_t value = 0;
    if (word == key + ":" && lines >> value) return value;
  }
  return 0;
}

class ZeroCopyTest : public testing::Test {
 protected:
  static void SetUpTestSuite() {
    auto opened = ZeroCopyLoopback::open("");
    if (opened) loopback_ = std::move(*opened).release();
    why_not_ = opened ? "" : opened.error().text();
  }
  void SetUp() override {
    if (loopback_ == nullptr) GTEST_SKIP() << why_not_;
    auto group = Cgroup::create("gestalt/zero-copy-test");
    auto keepers = Cgroup::create("gestalt/zero-copy-keepers");
    if (!group || !keepers) GTEST_SKIP() << "no control groups here";
    group_.emplace(std::move(*group));
    keepers_.emplace(std::move(*keepers));
    buffer_.resize(kBufferBytes);
    auto region = loopback_->register_buffer(std::as_writable_bytes(std::span(buffer_)));
    ASSERT_TRUE(region) << region.error().text();
    region_ = std::move(*region);
  }
  void TearDown() override {
    registration_.reset();
    source_.reset();
    if (group_) (void)group_->thaw(deadline_in(kPatience));
    victim_.reset();
    if (!group_) return;
    (void)group_->wait_empty(deadline_in(kPatience));
    (void)group_->remove();
    (void)keepers_->remove();
  }

  // A victim that says where its memory is, then runs `more` for each step.
  void start(
      const std::function<char*()>& make, std::uint64_t bytes,
      const std::function<std::uint64_t(char*)>& more = [](char*) { return 1; }) {
    victim_ = std::make_unique<Victim>([&](const Victim::Side& side) {
      char* memory = make();
      side.tell(memory);
      while (true) {
        side.wait();
        side.tell(more(memory));
      }
    });
    start_ = victim_->next();
    wanted_.clear();
    wanted_.add(start_, start_ + bytes);
    ASSERT_TRUE(group_->add(victim_->pid()));
    reaches_state(victim_->pid(), 'S');
    look_ = look_of(victim_->pid());
  }
  void prepare() {
    auto source =
        ZeroCopySource::prepare(victim_->pid(), loopback_->device(), keepers_->directory_fd());
    ASSERT_TRUE(source) << source.error().text();
    source_.emplace(std::move(*source));
  }
  void freeze() { ASSERT_TRUE(group_->freeze(deadline_in(kPatience))); }
  void register_pages(Deadline deadline = deadline_in(kPatience)) {
    auto registration = source_->register_pages(wanted_, limits_, deadline);
    ASSERT_TRUE(registration) << registration.error().text();
    registration_.emplace(std::move(*registration));
    source_.reset();
  }
  void freeze_and_register() {
    ASSERT_NO_FATAL_FAILURE(prepare());
    ASSERT_NO_FATAL_FAILURE(freeze());
    ASSERT_NO_FATAL_FAILURE(register_pages());
  }
  std::uint64_t refused(ZeroCopyRefusal why) {
    return registration_->stats().refused[static_cast<std::size_t>(why)];
  }

  Result<void> read(const ZeroCopyRegion& region) {
    auto into = std::as_writable_bytes(std::span(buffer_)).first(region.end - region.start);
    std::ranges::fill(into, std::byte{0xee});
    return loopback_->read(region.remote_address, region.rkey, region_, into,
                           deadline_in(kPatience));
  }
  // Every word of all regions is what fill() made it.
  void expect_content() {
    std::uint64_t pages = 0;
    for (const auto& region : registration_->regions()) {
      auto done = read(region);
      ASSERT_TRUE(done) << done.error().text();
      const auto* words = reinterpret_cast<const std::uint64_t*>(buffer_.data());
      for (std::uint64_t at = region.start; at < region.end; at += 8)
        ASSERT_EQ(words[(at - region.start) / 8], word_at(at)) << std::hex << at;
      pages += (region.end - region.start) / kPageBytes;
    }
    EXPECT_EQ(pages, registration_->stats().pages + registration_->stats().bridged_pages);
  }
  void expect_all_registered() {
    EXPECT_TRUE(registration_->staged().empty()) << registration_->stats().trouble;
    EXPECT_EQ(registration_->stats().pages, wanted_.pages());
  }
  // The keys are worth nothing, and the process is what it was; then it goes on.
  void release_and_thaw() {
    auto regions = registration_->regions();
    registration_->release();
    if (!regions.empty()) {
      EXPECT_EQ(read(regions[0]).error().code, ErrorCode::kPermission);
    }
    EXPECT_FALSE(registration_->needs_clean_up());
    registration_.reset();
    thaw();
  }
  void thaw() {
    ASSERT_TRUE(group_->thaw(deadline_in(kPatience)));
    reaches_state(victim_->pid(), 'S');
    expect_same_look();
    EXPECT_EQ(victim_->step(), 1U);
    EXPECT_TRUE(keepers_->processes()->empty());
  }
  void expect_same_look() {
    std::istringstream before(look_);
    std::istringstream after(look_of(victim_->pid()));
    std::string was;
    std::string is;
    while (bool{std::getline(before, was)} | bool{std::getline(after, is)}) EXPECT_EQ(is, was);
  }
  // All of it, for a victim of which all can be registered.
  void expect_it_works() {
    ASSERT_NO_FATAL_FAILURE(freeze_and_register());
    expect_all_registered();
    EXPECT_EQ(kilobytes(formatted("/proc/{}/status", victim_->pid()), "VmPin"),
              wanted_.pages() * 4);
    expect_content();
    release_and_thaw();
  }

  static inline ZeroCopyLoopback* loopback_ = nullptr;
  static inline std::string why_not_;
  std::optional<Cgroup> group_;
  std::optional<Cgroup> keepers_;
  std::vector<char> buffer_;
  ZeroCopyLoopback::Region region_;
  std::unique_ptr<Victim> victim_;
  std::uint64_t start_ = 0;
  PageSet wanted_;
  ZeroCopyLimits limits_;
  std::string look_;
  std::optional<ZeroCopySource> source_;
  std::optional<ZeroCopyRegistration> registration_;
};

}  // namespace gestalt
