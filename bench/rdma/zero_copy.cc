// What it takes to register a stopped process's pages where they are, against copying them, and
// how much of the source's CPUs it takes to have 64 MiB read. Prints lines of "name value": _ms in
// milliseconds, _us in microseconds, _cpu_ms of the source's threads, all for this machine and its
// first RDMA device; with a software device in an emulated machine only the ratios mean something.
//
//   zero_copy [MIB]      (512) is registered and copied; 0: only what serving costs
//
// Who reads is a thread of this program, whose CPU time is the destination's and not counted; nor
// is what a software device does on its own kernel threads, which a real one does itself.

#include <netinet/in.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <charconv>
#include <csignal>
#include <cstdio>
#include <cstring>
#include <functional>
#include <optional>
#include <thread>
#include <vector>

#include "common/fd.h"
#include "migrate/zero_copy.h"
#include "migrate/zero_copy_loopback.h"

namespace gestalt {
namespace {

constexpr std::uint64_t kMiB = 1U << 20;
constexpr std::uint64_t kServedBytes = 64 * kMiB;
constexpr std::size_t kPieceBytes = 256U << 10;
constexpr int kRepeats = 7;
constexpr auto kPatience = std::chrono::minutes(2);

void print(const char* name, double value) {
  std::printf("%s %.3f\n", name, value);
  (void)std::fflush(stdout);
}

[[noreturn]] void give_up(const Error& error) {
  std::fprintf(stderr, "zero_copy: %s\n", error.text().c_str());
  std::exit(1);
}

template <class T>
T must(Result<T> result) {
  if (!result) give_up(result.error());
  if constexpr (!std::is_void_v<T>) return std::move(*result);
}

double milliseconds_of(const timeval& time) {
  return static_cast<double>(time.tv_sec) * 1e3 + static_cast<double>(time.tv_usec) / 1e3;
}

// Of this thread, and of the tasks that it has waited for: those that trace.
double cpu_milliseconds() {
  double sum = 0;
  for (auto who : {RUSAGE_THREAD, RUSAGE_CHILDREN}) {
    rusage usage{};
    (void)::getrusage(who, &usage);
    sum += milliseconds_of(usage.ru_utime) + milliseconds_of(usage.ru_stime);
  }
  return sum;
}

// Memory in a child that sleeps, or is stopped.
class Program {
 public:
  Program(std::uint64_t bytes, int advice, std::uint64_t step_bytes) : bytes_(bytes) {
    auto ready = must(make_pipe());
    constexpr std::uint64_t kHuge = 2 * kMiB;
    void* memory = ::mmap(nullptr, bytes + kHuge, PROT_READ | PROT_WRITE,
                          MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (memory == MAP_FAILED) give_up({ErrorCode::kNoSpace, "no memory", {}});
    start_ = (reinterpret_cast<std::uint64_t>(memory) + kHuge - 1) / kHuge * kHuge;
    pid_ = ::fork();
    if (pid_ == 0) {
      (void)::prctl(PR_SET_PDEATHSIG, SIGKILL);
      auto* own = reinterpret_cast<char*>(start_);
      (void)::madvise(own, bytes, advice);
      for (std::uint64_t at = 0; at < bytes; at += step_bytes)
        std::memset(own + at, static_cast<int>(at / step_bytes % 255 + 1), kPageBytes);
      (void)!::write(ready.write.get(), "", 1);
      while (true) (void)::pause();
    }
    (void)::munmap(memory, bytes + kHuge);
    std::byte byte{};
    must(read_exact(ready.read.get(), {&byte, 1}, deadline_in(kPatience)));
  }
  Program(const Program&) = delete;
  Program& operator=(const Program&) = delete;
  ~Program() {
    (void)::kill(pid_, SIGKILL);
    (void)::waitpid(pid_, nullptr, 0);
  }
  void stop() const {
    (void)::kill(pid_, SIGSTOP);
    (void)::waitpid(pid_, nullptr, WUNTRACED);
  }
  void go_on() const { (void)::kill(pid_, SIGCONT); }
  [[nodiscard]] pid_t pid() const { return pid_; }
  [[nodiscard]] std::uint64_t start() const { return start_; }
  [[nodiscard]] PageSet pages() const {
    PageSet out;
    out.add(start_, start_ + bytes_);
    return out;
  }
  // A piece of it, into `into`.
  void copy(std::uint64_t offset, std::span<std::byte> into) const {
    iovec ours{into.data(), into.size()};
    iovec theirs{reinterpret_cast<void*>(start_ + offset), into.size()};
    if (::process_vm_readv(pid_, &ours, 1, &theirs, 1, 0) != static_cast<ssize_t>(into.size()))
      give_up({ErrorCode::kSystem, "cannot read the program's memory", {}});
  }

 private:
  std::uint64_t bytes_;
  std::uint64_t start_ = 0;
  pid_t pid_ = -1;
};

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
  std::vector<double> copy;
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
    copy.push_back(in_milliseconds([&] {
      for (std::uint64_t at = 0; at < bytes; at += kPieceBytes) program.copy(at, piece);
    }));
    whole.push_back(in_milliseconds([&] {
      registered.emplace(must(source->register_pages(program.pages(), {}, deadline_in(kPatience))));
    }));
    if (!registered->staged().empty())
      give_up({ErrorCode::kUnavailable, registered->stats().trouble, {}});
    plan.push_back(registered->stats().plan_seconds * 1e3);
    release.push_back(in_milliseconds([&] { registered->release(); }));
    program.go_on();
  }
  auto name = [&](const char* what) { return std::format("{}_{}", pages, what); };
  print(name("prepare_ms").c_str(), best(prepare));
  print(name("process_vm_readv_ms").c_str(), best(copy));
  print(name("plan_ms").c_str(), best(plan));
  print(name("plan_and_register_ms").c_str(), best(whole));
  print(name("release_ms").c_str(), best(release));
  print(name("register_of_copy_percent").c_str(), best(whole) / best(copy) * 100);
}

// Pieces of memory as small as they may be: what a region costs, and what the copy of a page.
void compare_fragments(const ZeroCopyLoopback& loopback) {
  constexpr std::uint64_t kRanges = 4000;
  Program program(2 * kRanges * kPageBytes, MADV_NOHUGEPAGE, 2 * kPageBytes);
  auto source = must(ZeroCopySource::prepare(program.pid(), loopback.device()));
  program.stop();
  std::vector<std::byte> page(kPageBytes);
  double copy = in_milliseconds([&] {
    for (std::uint64_t i = 0; i < kRanges; ++i) program.copy(2 * i * kPageBytes, page);
  });
  auto registered =
      must(source.register_pages(program.pages(), {.min_region_pages = 1}, deadline_in(kPatience)));
  const auto& stats = registered.stats();
  print("fragment_register_us", stats.register_seconds * 1e6 / static_cast<double>(stats.regions));
  print("fragment_release_us",
        in_milliseconds([&] { registered.release(); }) * 1e3 / static_cast<double>(stats.regions));
  print("fragment_copy_us", copy * 1e3 / static_cast<double>(kRanges));
}

// Reads what was registered, on a thread of its own, and looks whether it is right.
void read_elsewhere(ZeroCopyLoopback& loopback, const Program& program,
                    const std::vector<ZeroCopyRegion>& regions, std::uint64_t first) {
  std::thread([&] {
    std::vector<std::byte> content(kServedBytes);
    auto buffer = must(loopback.register_buffer(content));
    for (const auto& region : regions)
      must(
          loopback.read(region.remote_address, region.rkey, buffer,
                        std::span(content).subspan(region.start - first, region.end - region.start),
                        deadline_in(kPatience)));
    std::vector<std::byte> expected(kServedBytes);
    program.copy(0, expected);
    if (content != expected) give_up({ErrorCode::kSystem, "other pages than the program's", {}});
  }).join();
}

// The source's CPU time, in milliseconds, step by step.
struct ZeroCopyCost {
  double prepare = 0;
  double register_pages = 0;
  double keeper = 0;
  double release = 0;
  [[nodiscard]] double sum() const { return prepare + register_pages + keeper + release; }
};

double cpu_of(const std::function<void()>& work) {
  double before = cpu_milliseconds();
  work();
  return cpu_milliseconds() - before;
}

ZeroCopyCost serve_zero_copy(ZeroCopyLoopback& loopback, const Program& program) {
  program.go_on();
  std::optional<ZeroCopySource> source;
  std::optional<ZeroCopyRegistration> registered;
  ZeroCopyCost cost;
  cost.prepare = cpu_of(
      [&] { source.emplace(must(ZeroCopySource::prepare(program.pid(), loopback.device()))); });
  program.stop();
  cost.register_pages = cpu_of([&] {
    registered.emplace(must(source->register_pages(program.pages(), {}, deadline_in(kPatience))));
  });
  cost.keeper = registered->stats().keeper_cpu_seconds * 1e3;
  read_elsewhere(loopback, program, registered->regions(), program.start());
  cost.release = cpu_of([&] { registered->release(); });
  return cost;
}

double serve_staged(ZeroCopyLoopback& loopback, const Program& program,
                    std::span<std::byte> staging, const ZeroCopyLoopback::Region& region) {
  double before = cpu_milliseconds();
  program.copy(0, staging);
  double cpu = cpu_milliseconds() - before;
  auto at = reinterpret_cast<std::uint64_t>(staging.data());
  read_elsewhere(loopback, program, {{at, at + staging.size(), at, region->rkey, 0}}, at);
  return cpu;
}

// Loopback: the kernel does some of the receiver's work on the sender's time.
double serve_tcp(const Program& program) {
  Fd listener(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  socklen_t size = sizeof address;
  auto* name = reinterpret_cast<sockaddr*>(&address);
  if (::bind(listener.get(), name, size) != 0 || ::listen(listener.get(), 1) != 0 ||
      ::getsockname(listener.get(), name, &size) != 0)
    give_up({ErrorCode::kSystem, "cannot listen", {}});
  std::thread sink([&] {
    Fd stream(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
    std::vector<std::byte> content(kServedBytes);
    if (::connect(stream.get(), name, size) != 0)
      give_up({ErrorCode::kSystem, "no connection", {}});
    must(read_exact(stream.get(), content, deadline_in(kPatience)));
  });
  Fd stream(::accept4(listener.get(), nullptr, nullptr, SOCK_CLOEXEC));
  std::vector<std::byte> piece(kPieceBytes);
  double before = cpu_milliseconds();
  for (std::uint64_t at = 0; at < kServedBytes; at += kPieceBytes) {
    program.copy(at, piece);
    must(write_all(stream.get(), piece, deadline_in(kPatience)));
  }
  double cpu = cpu_milliseconds() - before;
  sink.join();
  return cpu;
}

void compare_serving(ZeroCopyLoopback& loopback) {
  Program program(kServedBytes, MADV_NOHUGEPAGE, kPageBytes);
  std::vector<std::byte> staging(kServedBytes);
  auto region = must(loopback.register_buffer(staging));
  std::vector<double> zero_copy;
  ZeroCopyCost least;
  std::vector<double> staged;
  std::vector<double> tcp;
  for (int i = 0; i < kRepeats; ++i) {
    auto cost = serve_zero_copy(loopback, program);
    if (i == 0 || cost.sum() < least.sum()) least = cost;
    zero_copy.push_back(cost.sum());
    staged.push_back(serve_staged(loopback, program, staging, region));
    tcp.push_back(serve_tcp(program));
  }
  print("serve_64_mib_zero_copy_cpu_ms", best(zero_copy));
  print("of_that_prepare_cpu_ms", least.prepare);
  print("of_that_register_cpu_ms", least.register_pages);
  print("of_that_keeper_cpu_ms", least.keeper);
  print("of_that_release_cpu_ms", least.release);
  print("serve_64_mib_staged_cpu_ms", best(staged));
  print("serve_64_mib_tcp_cpu_ms", best(tcp));
  print("staged_of_zero_copy", best(staged) / best(zero_copy));
  print("tcp_of_zero_copy", best(tcp) / best(zero_copy));
}

}  // namespace
}  // namespace gestalt

int main(int argc, char** argv) {
  using namespace gestalt;
  std::uint64_t mib = 512;
  if (argc > 1) (void)std::from_chars(argv[1], argv[1] + std::strlen(argv[1]), mib);
  auto loopback = must(ZeroCopyLoopback::open(""));
  if (mib > 0) {
    compare(*loopback, mib * kMiB, "small_pages", MADV_NOHUGEPAGE);
    compare(*loopback, mib * kMiB, "huge_pages", MADV_HUGEPAGE);
    compare_fragments(*loopback);
  }
  compare_serving(*loopback);
  return 0;
}
