// What it takes to register a stopped process's pages where they are, against copying them. Prints
// lines of "name value": _ms in milliseconds, _us in microseconds, all for this machine and its
// first RDMA device; with a software device in an emulated machine only the ratios mean something.
//
//   zero_copy [MIB]      (512) is registered and copied
//
// What serving costs the source's CPUs is serve_cost's to tell.

#include <sys/mman.h>

#include <algorithm>
#include <charconv>
#include <cstdio>
#include <cstring>
#include <functional>
#include <optional>
#include <vector>

#include "bench/rdma/program.h"
#include "migrate/zero_copy.h"
#include "migrate/zero_copy_keeper.h"
#include "migrate/zero_copy_loopback.h"

namespace gestalt {
namespace {

constexpr std::uint64_t kMiB = 1U << 20;
constexpr std::size_t kPieceBytes = 256U << 10;
constexpr int kRepeats = 7;

void print(const char* name, double value) {
  std::printf("%s %.3f\n", name, value);
  (void)std::fflush(stdout);
}

// A piece of the program's memory, into `into`.
void copy(const Program& program, std::uint64_t offset, std::span<std::byte> into) {
  must(read_memory_of(program.pid(), program.start() + offset, into));
}

double in_milliseconds(const std::function<void()>& work) {
  auto began = Clock::now();
  work();
  return seconds_between(began, Clock::now()) * 1e3;
}

// Of several, that which others have disturbed least.
double best(const std::vector<double>& values) { return std::ranges::min(values); }

// Registration against a copy of the same, page size by page size.
void compare(const ZeroCopyLoopback& loopback, std::uint64_t bytes, const char* pages, int advice) {
  Program program(bytes, advice, kPageBytes);
  std::vector<std::byte> piece(kPieceBytes);
  std::vector<double> copies;
  std::vector<double> prepare;
  std::vector<double> plan;
  std::vector<double> whole;
  std::vector<double> release;
  for (int i = 0; i < kRepeats; ++i) {
    std::optional<ZeroCopySource> source;
    std::optional<ZeroCopyRegistration> registered;
    prepare.push_back(in_milliseconds(
        [&] { source.emplace(must(ZeroCopySource::prepare(program.pid(), loopback.device()))); }));
    program.stop();
    copies.push_back(in_milliseconds([&] {
      for (std::uint64_t at = 0; at < bytes; at += kPieceBytes) copy(program, at, piece);
    }));
    whole.push_back(in_milliseconds([&] {
      registered.emplace(must(source->register_pages(program.pages(), {}, deadline_in(kPatience))));
    }));
    if (!registered->staged().empty())
      must(Result<void>(fail(ErrorCode::kUnavailable, registered->stats().trouble)));
    plan.push_back(registered->stats().plan_seconds * 1e3);
    release.push_back(in_milliseconds([&] { registered->release(); }));
    program.go_on();
  }
  auto name = [&](const char* what) { return std::format("{}_{}", pages, what); };
  print(name("prepare_ms").c_str(), best(prepare));
  print(name("process_vm_readv_ms").c_str(), best(copies));
  print(name("plan_ms").c_str(), best(plan));
  print(name("plan_and_register_ms").c_str(), best(whole));
  print(name("release_ms").c_str(), best(release));
  print(name("register_of_copy_percent").c_str(), best(whole) / best(copies) * 100);
}

// Pieces of memory as small as they may be: what a region costs, and what the copy of a page.
void compare_fragments(const ZeroCopyLoopback& loopback) {
  constexpr std::uint64_t kRanges = 4000;
  Program program(2 * kRanges * kPageBytes, MADV_NOHUGEPAGE, 2 * kPageBytes);
  auto source = must(ZeroCopySource::prepare(program.pid(), loopback.device()));
  program.stop();
  std::vector<std::byte> page(kPageBytes);
  double copying = in_milliseconds([&] {
    for (std::uint64_t i = 0; i < kRanges; ++i) copy(program, 2 * i * kPageBytes, page);
  });
  auto registered =
      must(source.register_pages(program.pages(), {.min_region_pages = 1}, deadline_in(kPatience)));
  const auto& stats = registered.stats();
  print("fragment_register_us", stats.register_seconds * 1e6 / static_cast<double>(stats.regions));
  print("fragment_release_us",
        in_milliseconds([&] { registered.release(); }) * 1e3 / static_cast<double>(stats.regions));
  print("fragment_copy_us", copying * 1e3 / static_cast<double>(kRanges));
}

}  // namespace
}  // namespace gestalt

int main(int argc, char** argv) {
  using namespace gestalt;
  std::uint64_t mib = 512;
  if (argc > 1) (void)std::from_chars(argv[1], argv[1] + std::strlen(argv[1]), mib);
  auto loopback = must(ZeroCopyLoopback::open(""));
  compare(*loopback, mib * kMiB, "small_pages", MADV_NOHUGEPAGE);
  compare(*loopback, mib * kMiB, "huge_pages", MADV_HUGEPAGE);
  compare_fragments(*loopback);
  return 0;
}
