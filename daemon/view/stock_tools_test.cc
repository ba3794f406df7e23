// What a stock program makes of the merged machine: lscpu reads another root's /proc and
// /sys if told to.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>

#include "common/format.h"
#include "daemon/view/sys_tree.h"
#include "daemon/view/test_nodes.h"

namespace gestalt {
namespace {

namespace fs = std::filesystem;

class StockTools : public testing::Test {
 protected:
  void SetUp() override {
    if (!fs::exists("/usr/bin/lscpu")) GTEST_SKIP() << "there is no lscpu here";
    root_ = fs::temp_directory_path() / formatted("view-{}", ::getpid());
    fs::remove_all(root_);
    fs::create_directories(root_ / "proc");
    fs::create_directories(root_ / "sys/devices/system");
    write("proc/cpuinfo", cluster_.merge("cpuinfo"));
    for (const auto& [path, entry] : build_sys_tree(cluster_.nodes())) {
      auto full = "sys/devices/system/" + path;
      if (entry.kind == SysEntry::Kind::kDirectory) fs::create_directory(root_ / full);
      if (entry.kind == SysEntry::Kind::kSymlink) fs::create_symlink(entry.text, root_ / full);
      if (entry.kind == SysEntry::Kind::kFile) write(full, entry.text);
    }
  }
  void TearDown() override {
    if (!root_.empty()) fs::remove_all(root_);
  }

  void write(const std::string& path, std::string_view text) {
    std::ofstream(root_ / path) << text;
  }

  std::string lscpu(std::string_view options) {
    std::string command = formatted("LC_ALL=C lscpu --sysroot {} {}", root_.string(), options);
    FILE* output = ::popen(command.c_str(), "re");
    std::string text;
    char buffer[4096];
    while (auto bytes = std::fread(buffer, 1, sizeof(buffer), output)) text.append(buffer, bytes);
    EXPECT_EQ(::pclose(output), 0) << text;
    return text;
  }

  test::Cluster cluster_;
  fs::path root_;
};

TEST_F(StockTools, LscpuListsTheCpus) {
  EXPECT_THAT(lscpu("-p=CPU,CORE,SOCKET,NODE"),
              testing::EndsWith("0,0,0,0\n1,1,0,0\n2,2,1,1\n3,2,1,1\n4,3,1,1\n5,4,2,2\n"));
}

TEST_F(StockTools, LscpuSumsUp) {
  auto text = lscpu("");
  for (auto line :
       {"CPU\\(s\\): +6\n", "On-line CPU\\(s\\) list: +0-5\n", "Socket\\(s\\): +3\n",
        "Model name: +Example CPU", "NUMA node\\(s\\): +3\n", "NUMA node1 CPU\\(s\\): +2-4\n"})
    EXPECT_THAT(text, testing::ContainsRegex(line));
}

}  // namespace
}  // namespace gestalt
