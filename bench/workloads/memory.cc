// The process that the benchmarks move: so much memory, worked on in one of a few ways.
//
//   memory --control PREFIX [--mib N] [--work WORK] [OPTION…]
//
//   --work idle        nothing but the heartbeat (default)
//          write       --rate pages a second at random; 0: one after another, at full speed
//          fill        writes all bytes of the set's pages again and again, at full speed
//          sequential  reads all bytes of the set's pages in order, again and again
//          random      reads pages of the set at random, at full speed; with --count each
//                      page once before any comes again
//   --set-percent P    the set: the first P % of the memory (100)
//   --count N          end the work after N pages
//   --zero-half        half of the pages, picked at random, are written with zeros
//   --wait             begin the work when PREFIX.begin exists
//   --touch-all        after the work read all other pages of the process, too: then none
//                      is left that a lazy migration has to fetch
//   --cpu N            the working thread stays on that CPU, and its waits are sampled
//
// It tells by files, so that nothing but memory is attached to it: PREFIX.ready (its pid)
// when the memory is filled, PREFIX.done when the count is reached, and, asked to end by
// PREFIX.end, PREFIX.report (JSON: heartbeat.h, and what is said below).
// The memory is anonymous, in 4 KiB pages, and incompressible.
#include <sched.h>
#include <sys/mman.h>
#include <sys/utsname.h>

#include <algorithm>
#include <bit>
#include <fstream>
#include <span>
#include <vector>

#include "heartbeat.h"
#include "victim.h"

namespace {

using victim::bad;
using victim::mix;
using victim::must;

constexpr std::size_t kPageBytes = 4096;
constexpr std::size_t kPageWords = kPageBytes / sizeof(std::uint64_t);

struct Options {
  std::uint64_t mib = 1;
  std::string work = "idle";
  std::uint64_t rate = 0;
  std::uint64_t set_percent = 100;
  std::uint64_t count = 0;
  bool zero_half = false;
  bool wait = false;
  bool touch_all = false;
  int cpu = -1;
  std::string control;
};

Options parse_options(int argc, char** argv) {
  Options options;
  std::vector<std::string_view> words(argv + 1, argv + argc);
  for (std::size_t i = 0; i < words.size(); ++i) {
    std::string_view name = words[i];
    auto value = [&] {
      if (++i >= words.size()) bad("{} needs a value", name);
      return words[i];
    };
    auto number = [&] { return std::strtoull(std::string(value()).c_str(), nullptr, 10); };
    if (name == "--mib")
      options.mib = number();
    else if (name == "--work")
      options.work = value();
    else if (name == "--rate")
      options.rate = number();
    else if (name == "--set-percent")
      options.set_percent = number();
    else if (name == "--count")
      options.count = number();
    else if (name == "--zero-half")
      options.zero_half = true;
    else if (name == "--wait")
      options.wait = true;
    else if (name == "--touch-all")
      options.touch_all = true;
    else if (name == "--cpu")
      options.cpu = static_cast<int>(number());
    else if (name == "--control")
      options.control = value();
    else
      bad("unknown option {}", name);
  }
  if (options.control.empty()) bad("--control PREFIX is missing");
  if (options.mib == 0 || options.set_percent == 0 || options.set_percent > 100)
    bad("--mib is at least 1, --set-percent is 1 to 100");
  return options;
}

using Page = std::span<volatile std::uint64_t, kPageWords>;

class Memory {
 public:
  explicit Memory(std::size_t pages) : pages_(pages) {
    void* address = ::mmap(nullptr, pages * kPageBytes, PROT_READ | PROT_WRITE,
                           MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (address == MAP_FAILED) bad("mmap of {} pages: {}", pages, std::strerror(errno));
    must(::madvise(address, pages * kPageBytes, MADV_NOHUGEPAGE), "madvise");
    words_ = static_cast<volatile std::uint64_t*>(address);
  }
  std::size_t pages() const { return pages_; }
  Page page(std::size_t index) const {
    return Page(words_ + index % pages_ * kPageWords, kPageWords);
  }
  void fill(std::size_t index, std::uint64_t seed) const {
    std::uint64_t value = mix(index << 20 ^ seed);
    for (volatile std::uint64_t& word : page(index)) {
      value = value * 6364136223846793005 + 1442695040888963407;
      word = value ^ value >> 29;
    }
  }
  void zero(std::size_t index) const { std::ranges::fill(page(index), 0); }

 private:
  std::size_t pages_;
  volatile std::uint64_t* words_ = nullptr;
};

// The i-th of so many pages in a scattered order that has each page once: steps that can be
// undone, on the next power of two, again until the result is one of the pages.
std::size_t scattered(std::size_t i, std::size_t pages) {
  std::size_t mask = std::bit_ceil(pages) - 1;
  int half = std::max(1, std::bit_width(mask) / 2);
  do {
    for (int round = 0; round < 3; ++round) {
      i = (i * 0x9e3779b97f4a7c15 + 0x1234567) & mask;
      i ^= i >> half;
    }
  } while (i >= pages);
  return i;
}

void touch_all_mappings() {
  std::ifstream maps("/proc/self/maps");
  for (std::string line; std::getline(maps, line);) {
    std::uint64_t begin = 0;
    std::uint64_t end = 0;
    char access[5] = {};
    if (std::sscanf(line.c_str(), "%lx-%lx %4s", &begin, &end, access) != 3) continue;
    if (access[0] != 'r' || access[3] != 'p' || line.contains("[v")) continue;
    for (; begin < end; begin += kPageBytes) (void)*reinterpret_cast<volatile char*>(begin);
  }
}

class Work {
 public:
  Work(const Options& options, const Memory& memory, bench::Progress& progress)
      : options_(options),
        memory_(memory),
        progress_(progress),
        set_pages_(std::max<std::size_t>(1, memory.pages() * options.set_percent / 100)),
        touched_(set_pages_, false) {
    must(::uname(&home_), "uname");
    touch_ns_.reserve(options.count);
  }

  void run() {
    if (options_.wait) wait_for(".begin");
    work_until_end();
    if (options_.touch_all) touch_all_mappings();
    done();
    wait_for(".end");
  }

  std::string json() {
    std::ranges::sort(touch_ns_);
    auto quantile = [&](double share) {
      return touch_ns_.empty() ? 0
                               : touch_ns_[static_cast<std::size_t>(
                                     share * static_cast<double>(touch_ns_.size() - 1))];
    };
    return std::format(
        "\"units\":{},\"distinct_pages\":{},\"set_pages\":{},\"work_seconds\":{:.6f},"
        "\"touch_p50_ns\":{},\"touch_p99_ns\":{}",
        units_, distinct_, set_pages_, static_cast<double>(work_ended_ns_ - work_began_ns_) / 1e9,
        quantile(0.5), quantile(0.99));
  }

 private:
  bool exists(const char* suffix) const {
    return ::access((options_.control + suffix).c_str(), F_OK) == 0;
  }
  void wait_for(const char* suffix) const {
    while (!exists(suffix)) victim::sleep_ms(2);
  }
  bool enough() const { return options_.count > 0 && units_ >= options_.count; }

  void work_until_end() {
    work_began_ns_ = bench::realtime_ns();
    std::int64_t looked_ns = work_began_ns_;
    while (!enough()) {
      step();
      std::int64_t now_ns = bench::realtime_ns();
      if (now_ns - looked_ns < 10'000'000) continue;
      looked_ns = now_ns;
      if (exists(".end")) break;
    }
    work_ended_ns_ = bench::realtime_ns();
  }

  void done() const { std::ofstream(options_.control + ".done"); }

  void step() {
    if (options_.work == "write")
      write();
    else if (options_.work == "fill")
      memory_.fill(units_ % set_pages_, units_);
    else if (options_.work == "sequential")
      read_page(units_ % set_pages_);
    else if (options_.work == "random")
      touch(options_.count > 0 ? scattered(units_ % set_pages_, set_pages_)
                               : mix(units_) % set_pages_);
    else
      victim::sleep_ms(2);
    count(options_.work == "write" ? 0 : 1);
  }

  void count(std::uint64_t pages) {
    units_ += pages;
    progress_.units.store(units_, std::memory_order_relaxed);
  }

  void write() {
    if (options_.rate == 0) {
      for (int i = 0; i < 1024; ++i, ++units_) memory_.page(units_ % set_pages_)[7] = units_;
      return;
    }
    constexpr std::uint64_t kStepMs = 5;
    victim::sleep_ms(kStepMs);
    owed_ += static_cast<double>(options_.rate * kStepMs) / 1000;
    for (; owed_ >= 1; owed_ -= 1, ++units_) memory_.page(mix(units_) % set_pages_)[7] = units_;
  }

  void read_page(std::size_t index) {
    std::uint64_t sum = 0;
    for (volatile std::uint64_t& word : memory_.page(index)) sum += word;
    sum_ += sum;
  }

  // After a move the node's name is another: from then on different pages are counted.
  void touch(std::size_t index) {
    std::int64_t began_ns = options_.count > 0 ? bench::realtime_ns() : 0;
    sum_ += memory_.page(index)[3];
    if (options_.count > 0) touch_ns_.push_back(bench::realtime_ns() - began_ns);
    if (touched_[index] || !moved()) return;
    touched_[index] = true;
    progress_.distinct_pages.store(++distinct_, std::memory_order_relaxed);
  }

  bool moved() {
    if (moved_) return true;
    utsname now{};
    must(::uname(&now), "uname");
    moved_ = std::strcmp(now.nodename, home_.nodename) != 0;
    return moved_;
  }

  const Options& options_;
  const Memory& memory_;
  bench::Progress& progress_;
  std::size_t set_pages_;
  std::vector<bool> touched_;
  std::vector<std::int64_t> touch_ns_;
  utsname home_{};
  bool moved_ = false;
  std::uint64_t units_ = 0;
  std::uint64_t distinct_ = 0;
  std::uint64_t sum_ = 0;
  double owed_ = 0;
  std::int64_t work_began_ns_ = 0;
  std::int64_t work_ended_ns_ = 0;
};

void write_file(const std::string& path, std::string_view text) {
  std::string unfinished = path + ".new";
  {
    std::ofstream file(unfinished);
    file << text << '\n';
    if (!file.flush()) bad("cannot write {}", unfinished);
  }
  must(::rename(unfinished.c_str(), path.c_str()), "rename");
}

void stay_on(int cpu) {
  cpu_set_t set;
  CPU_ZERO(&set);
  CPU_SET(static_cast<std::size_t>(cpu), &set);
  must(::sched_setaffinity(0, sizeof(set), &set), "sched_setaffinity");
}

}  // namespace

int main(int argc, char** argv) {
  Options options = parse_options(argc, argv);
  Memory memory(options.mib * 256);
  for (std::size_t i = 0; i < memory.pages(); ++i) {
    if (options.zero_half && mix(i) % 2 == 0)
      memory.zero(i);
    else
      memory.fill(i, 1);
  }
  bench::Progress progress;
  Work work(options, memory, progress);
  bench::Heartbeat heartbeat(progress, options.cpu >= 0);
  if (options.cpu >= 0) stay_on(options.cpu);
  write_file(options.control + ".ready", std::to_string(::getpid()));
  work.run();
  heartbeat.stop();
  write_file(options.control + ".report", "{" + work.json() + "," + heartbeat.json() + "}");
  return 0;
}
