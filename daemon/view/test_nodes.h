// Three made-up nodes for the tests: a leader with two CPUs, one with three, one with one.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "common/format.h"
#include "daemon/view/merged_files.h"

namespace gestalt::test {

using Files = std::map<std::string, std::string, std::less<>>;

inline std::string cpu_block(int processor, int package, int core) {
  return formatted(
      "processor\t: {}\nvendor_id\t: GenuineIntel\ncpu family\t: 6\nmodel\t\t: 143\n"
      "model name\t: Example CPU @ 2.00GHz\nstepping\t: 8\ncpu MHz\t\t: 2000.000\n"
      "physical id\t: {}\nsiblings\t: 2\ncore id\t\t: {}\ncpu cores\t: 2\nflags\t\t: fpu vme lm\n"
      "bogomips\t: 4000.00\naddress sizes\t: 46 bits physical, 57 bits virtual\n"
      "power management:\n\n",
      processor, package, core);
}

class Cluster {
 public:
  Cluster() {
    Files& leader = add("leader", 2);
    leader["meminfo"] =
        "MemTotal:       24682416 kB\nMemFree:        14540360 kB\nMemAvailable:   23748404 kB\n"
        "Buffers:           47524 kB\nCached:          9480316 kB\nSwapCached:            0 kB\n"
        "Active(anon):        956 kB\nHardwareCorrupted:     0 kB\n"
        "VmallocTotal:   34359738367 kB\nHugePages_Total:       2\nHugepagesize:       2048 kB\n";
    leader["cpuinfo"] = cpu_block(0, 0, 0) + cpu_block(1, 0, 1);
    leader["vmstat"] = "nr_free_pages 100\nnuma_hit 7\nnuma_local 7\npgpgin 50\n";
    Files& node1 = add("node1", 3);
    node1["meminfo"] =
        "MemTotal:        2000000 kB\nMemFree:         1500000 kB\nMemAvailable:    1600000 kB\n"
        "Buffers:            1000 kB\nCached:           100000 kB\nSwapCached:           10 kB\n"
        "Active(anon):         44 kB\nHardwareCorrupted:     4 kB\n"
        "VmallocTotal:   34359738367 kB\nHugePages_Total:       1\nHugepagesize:       2048 kB\n"
        "DirectMap4k:       30720 kB\n";
    // Two threads of one core, and a core of another package.
    node1["cpuinfo"] = cpu_block(0, 0, 0) + cpu_block(1, 0, 0) + cpu_block(2, 1, 0);
    node1["vmstat"] = "nr_free_pages 10\nnuma_hit 5\nnr_of_newer_kernels 9\n";
    Files& node2 = add("node2", 1);
    node2["meminfo"] = "MemTotal:        1000000 kB\nMemFree:          250000 kB\n";
    node2["cpuinfo"] = cpu_block(0, 0, 0);
  }

  Files& add(std::string name, std::uint32_t cpus) {
    files_.push_back(std::make_unique<Files>());
    nodes_.push_back({std::move(name), next_cpu_, cpus, files_.back().get()});
    next_cpu_ += cpus;
    return *files_.back();
  }
  Files& operator[](std::size_t index) { return *files_[index]; }
  NodeFiles& node(std::size_t index) { return nodes_[index]; }
  [[nodiscard]] std::span<const NodeFiles> nodes() const { return nodes_; }
  [[nodiscard]] std::string merge(std::string_view name) const { return merge_file(name, nodes_); }

 private:
  std::vector<std::unique_ptr<Files>> files_;
  std::vector<NodeFiles> nodes_;
  std::uint32_t next_cpu_ = 0;
};

// What a hostile or broken node may send.
inline std::vector<std::string> garbage() {
  using namespace std::string_literals;
  return {"",
          "\n",
          "\n\n\n",
          "\0"s,
          "cpu0\0 1 2\n"s,
          "cpu",
          "cpu 99999999999999999999999999 1\ncpu0 -1 -2\ncpux 1\ncpu4294967296 5\n",
          "intr\nsoftirq 1 x\nctxt\nbtime -\n",
          "MemTotal\n: 5 kB\n:::: 7\nMemTotal: kB\nMemFree: 99999999999999999999999 kB\n",
          "processor",
          "processor\t: 0\nphysical id\t: 99999999999999999999\ncore id : -\n\x01\x02:\x03\n",
          "0.5 1 2 3\n",
          "99999999999999999999.99 1.00 1.00 1/\n",
          "some avg10=1e9 avg60=-1.00 avg300=nan total=\nsome\nfull avg10=\n",
          "8 0 sda\n8 0  1 2 3 4 5 6 7 8 9 10 11\n8 0 a\x1b[2J 1 2 3 4 5 6 7 8 9 10 11\n",
          "eth0\n:\n::::\n eth\n0: 1 2\n../x: 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16\n",
          std::string(100'000, '9'),
          std::string(100'000, ' '),
          std::string(10'000, ':') + "\n" + std::string(10'000, '\xff')};
}

}  // namespace gestalt::test
