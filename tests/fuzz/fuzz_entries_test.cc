// Runs every fuzz entry over generated inputs: its valid ones, mutations of them, and
// noise. The same ones each time, so that a failure can be repeated; under the
// sanitizers this finds most of what a short run of libFuzzer would.
#include <gtest/gtest.h>

#include <algorithm>
#include <cctype>
#include <random>

#include "tests/fuzz/entries.h"

namespace gestalt::fuzz {
namespace {

constexpr int kIterations = 10'000;
constexpr std::size_t kMaxBytes = 20'000;

class Mutator {
 public:
  explicit Mutator(std::vector<std::string> seeds) : seeds_(std::move(seeds)) {}

  std::string next() {
    if (below(8) == 0) return noise(below(300));
    std::string bytes = seeds_[below(seeds_.size())];
    for (std::size_t i = below(6); i > 0; --i) mutate(bytes);
    bytes.resize(std::min(bytes.size(), kMaxBytes));
    return bytes;
  }

 private:
  std::size_t below(std::size_t limit) { return random_() % limit; }
  char byte() { return static_cast<char>(random_()); }

  std::string noise(std::size_t size) {
    std::string bytes(size, '\0');
    std::ranges::generate(bytes, [this] { return byte(); });
    return bytes;
  }

  // Where numbers have their edges.
  std::string edge() {
    static constexpr std::uint64_t kEdges[] = {0,          1,          0x7f,   0x80,
                                               0xff,       0xffff,     0x8000, 0x7fffffff,
                                               0x80000000, 0xffffffff, ~0ULL,  1ULL << 63};
    std::uint64_t value = kEdges[below(std::size(kEdges))];
    std::string bytes(std::size_t{1} << below(4), '\0');
    bool big = below(2) == 0;
    for (std::size_t i = 0; i < bytes.size(); ++i)
      bytes[big ? bytes.size() - 1 - i : i] = static_cast<char>(value >> (8 * i));
    return bytes;
  }

  void mutate(std::string& bytes) {
    std::size_t at = below(bytes.size() + 1);
    std::size_t count = std::min(bytes.size() - at, 1 + below(16));
    switch (below(7)) {
      case 0:
        if (at < bytes.size()) bytes[at] = static_cast<char>(bytes[at] ^ 1 << below(8));
        break;
      case 1:
        bytes.insert(at, noise(1 + below(8)));
        break;
      case 2:
        bytes.erase(at, count);
        break;
      case 3:
        bytes.resize(at);
        break;
      case 4:
        bytes.replace(at, std::min(bytes.size() - at, std::size_t{4}), edge());
        break;
      case 5:
        bytes.insert(at, bytes.substr(below(bytes.size() + 1), count));
        break;
      case 6:
        bytes += seeds_[below(seeds_.size())];
        break;
    }
  }

  std::vector<std::string> seeds_;
  std::mt19937_64 random_{20'240'229};
};

class FuzzEntryTest : public testing::TestWithParam<Entry> {};

TEST_P(FuzzEntryTest, KeepsItsPromises) {
  std::vector<std::string> seeds = GetParam().seeds();
  ASSERT_FALSE(seeds.empty());
  for (const std::string& seed : seeds) GetParam().run(seed);
  GetParam().run({});
  Mutator mutator(seeds);
  for (int i = 0; i < kIterations; ++i) GetParam().run(mutator.next());
}

INSTANTIATE_TEST_SUITE_P(All, FuzzEntryTest, testing::ValuesIn(all_entries()),
                         [](const auto& entry) { return std::string(entry.param.name); });

}  // namespace
}  // namespace gestalt::fuzz
