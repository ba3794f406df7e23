// pin_cost [MIB]: on a real CPU, and without an RDMA device, what a source does for 64 MiB when
// they are read in place, against copying them by process_vm_readv, with which all other ways
// begin. Pages are pinned as registered buffers of io_uring, by the same pin_user_pages() as a
// region's: what a device's driver adds is missing. Prints `name value` lines; _ms are milliseconds
// of CPU, the least of seven.
//
// Beside serve_cost on an emulated machine, where each instruction takes as long.
#include <linux/io_uring.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/uio.h>

#include <algorithm>
#include <functional>
#include <memory>
#include <string_view>
#include <vector>

#include "bench/rdma/program.h"
#include "migrate/zero_copy_keeper.h"
#include "migrate/zero_copy_plan.h"

namespace gestalt {
namespace {

constexpr std::size_t kPieceBytes = 256U << 10;
constexpr std::size_t kHugePageBytes = 2U << 20;
constexpr int kRepeats = 7;

class Costs {
 public:
  static double of(const std::function<void()>& work) {
    double before = cpu_milliseconds();
    work();
    return cpu_milliseconds() - before;
  }
  void add(const char* name, double value) {
    auto found = std::ranges::find(values_, name, &Value::name);
    if (found == values_.end())
      values_.push_back({name, value});
    else
      found->least = std::min(found->least, value);
  }
  [[nodiscard]] double least(std::string_view name) const {
    return std::ranges::find(values_, name, &Value::name)->least;
  }
  void print() const {
    for (const auto& value : values_) std::println("{} {:.2f}", value.name, value.least);
  }

 private:
  struct Value {
    std::string_view name;
    double least;
  };
  std::vector<Value> values_;
};

void uring_register(int ring, unsigned what, const iovec* buffer, unsigned count) {
  if (::syscall(SYS_io_uring_register, ring, what, buffer, count) < 0)
    must(Result<void>(fail_errno(errno, "register a buffer")));
}

// Memory of our own that is like the program's.
void pin(Costs& costs, std::uint64_t bytes, int advice) {
  std::unique_ptr<char, decltype(&std::free)> memory(
      static_cast<char*>(std::aligned_alloc(kHugePageBytes, bytes)), &std::free);
  (void)::madvise(memory.get(), bytes, advice);
  for (std::uint64_t at = 0; at < bytes; at += kPageBytes) memory.get()[at] = 1;
  io_uring_params parameters{};
  for (int i = 0; i < kRepeats; ++i) {
    Fd ring(static_cast<int>(::syscall(SYS_io_uring_setup, 4, &parameters)));
    if (!ring) must(Result<void>(fail_errno(errno, "make an io_uring")));
    iovec buffer{memory.get(), bytes};
    costs.add("pin_ms",
              costs.of([&] { uring_register(ring.get(), IORING_REGISTER_BUFFERS, &buffer, 1); }));
    costs.add("unpin_ms",
              costs.of([&] { uring_register(ring.get(), IORING_UNREGISTER_BUFFERS, nullptr, 0); }));
  }
}

void measure(const char* name, std::uint64_t bytes, int advice) {
  Costs costs;
  Program program(bytes, advice, kPageBytes);
  std::vector<std::byte> piece(kPieceBytes);
  for (int i = 0; i < kRepeats; ++i) {
    costs.add("keeper_ms", costs.of([&] {
      auto keeper = must(ZeroCopyKeeper::start(program.pid(), -1));
      keeper->end();
    }));
    program.stop();
    costs.add("plan_ms",
              costs.of([&] { (void)must(plan_zero_copy(program.pid(), program.pages(), {})); }));
    costs.add("copy_ms", costs.of([&] {
      for (std::uint64_t at = 0; at < bytes; at += kPieceBytes)
        must(read_memory_of(program.pid(), program.start() + at, piece));
    }));
    program.go_on();
  }
  pin(costs, bytes, advice);
  std::println("pages {}", name);
  costs.print();
  double registered = costs.least("plan_ms") + costs.least("pin_ms");
  std::println("plan_and_pin_of_copy {:.4f}", registered / costs.least("copy_ms"));
  std::println("zero_copy_ms {:.2f}",
               registered + costs.least("keeper_ms") + costs.least("unpin_ms"));
}

}  // namespace
}  // namespace gestalt

int main(int argc, char** argv) {
  using namespace gestalt;
  std::size_t mib = argc == 2 ? std::strtoul(argv[1], nullptr, 10) : 64;
  if (argc > 2 || mib == 0) {
    std::println(stderr, "usage: pin_cost [MIB]");
    return 2;
  }
  if (::prctl(PR_SET_CHILD_SUBREAPER, 1) != 0) return 1;
  rlimit all{RLIM_INFINITY, RLIM_INFINITY};
  (void)::setrlimit(RLIMIT_MEMLOCK, &all);
  measure("small", mib << 20, MADV_NOHUGEPAGE);
  measure("huge", mib << 20, MADV_HUGEPAGE);
  return 0;
}
