// Reads what it wrote in the beginning, and hardly writes. --kind says how:
//   sequential (default)  from the first page to the last, again and again
//   random                at random in a quarter of the memory; in the end all of it
//   zero                  sequentially; every second run of 16 pages was written with zeroes
// A tick says that it has read as much again as there is.
#include <vector>

#include "pages.h"

namespace {

constexpr std::uint64_t kZeroRun = 16;

struct Reader {
  bool random;
  bool half_zero;
  std::span<victim::Page> pages;

  bool is_zero(std::uint64_t i) const { return half_zero && i / kZeroRun % 2 == 1; }
  void write_all() const {
    for (std::uint64_t i = 0; i < pages.size(); ++i) {
      if (is_zero(i))
        std::memset(static_cast<void*>(&pages[i]), 0, victim::kPageBytes);
      else
        victim::fill(pages[i], i, 1);
    }
  }
  void verify(std::uint64_t i) const {
    if (is_zero(i))
      victim::verify_zero(pages[i], i, "zero");
    else
      victim::verify(pages[i], i, 1, "read");
  }
  // So much is read again and again.
  std::uint64_t working_set() const { return random ? pages.size() / 4 : pages.size(); }
  std::uint64_t nth(std::uint64_t n) const { return (random ? victim::mix(n) : n) % working_set(); }
};

}  // namespace

int main(int argc, char** argv) {
  victim::Options defaults;
  defaults.rate = 20'000;
  victim::Options options = victim::parse_options(argc, argv, defaults);
  victim::Run run(options);
  Reader reader{options.kind == "random", options.kind == "zero",
                victim::map_pages(std::max<std::uint64_t>(options.mib, 1) * 256)};
  // Small pages: what is counted is what was written.
  (void)::madvise(reader.pages.data(), reader.pages.size_bytes(), MADV_NOHUGEPAGE);
  reader.write_all();
  victim::Pace pace(options.rate);
  std::uint64_t read = 0;
  run.ready();
  while (run.keep_going(read / reader.working_set())) {
    std::uint64_t step = pace.step();
    for (std::uint64_t i = 0; i < step; ++i) reader.verify(reader.nth(read++));
  }
  for (std::uint64_t i = 0; i < reader.pages.size(); ++i) reader.verify(i);
  run.ok("mib={} read={}", options.mib, read);
}
