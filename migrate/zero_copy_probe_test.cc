// What needs no device; the rest is in zero_copy_test.cc.
#include "migrate/zero_copy_probe.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>

#include "common/format.h"

namespace gestalt {
namespace {

class RdmaDevices : public ::testing::Test {
 protected:
  void SetUp() override { std::filesystem::create_directories(verbs_); }
  void TearDown() override { std::filesystem::remove_all(sysfs_); }
  void add(const std::string& node, const std::string& name) {
    std::filesystem::create_directory(verbs_ / node);
    std::ofstream(verbs_ / node / "ibdev") << name << '\n';
  }

  std::filesystem::path sysfs_ =
      std::filesystem::temp_directory_path() / formatted("rdma-devices-{}", ::getpid());
  std::filesystem::path verbs_ = sysfs_ / "class/infiniband_verbs";
};

TEST_F(RdmaDevices, AreNamedInOrder) {
  EXPECT_TRUE(rdma_devices(sysfs_).empty());
  add("uverbs0", "rxe1");
  add("uverbs1", "mlx5_0");
  std::ofstream(verbs_ / "abi_version") << "6\n";  // is beside them
  EXPECT_EQ(rdma_devices(sysfs_), (std::vector<std::string>{"mlx5_0", "rxe1"}));
}

TEST_F(RdmaDevices, NoneWithoutTheModule) {
  std::filesystem::remove_all(sysfs_);
  EXPECT_TRUE(rdma_devices(sysfs_).empty());
}

TEST(ZeroCopyProbe, OnlyWhatIsNotKnownToWorkIsTried) {
  std::vector<std::string> tried;
  auto try_device = [&tried](const std::string& device) -> Result<void> {
    tried.push_back(device);
    if (device == "siw0") return fail(ErrorCode::kSystem, "its driver\nwants more");
    return {};
  };
  ZeroCopySupport known{{"gone0", ""}, {"rxe0", ""}, {"rxe1", "no address"}};
  auto now = renewed(known, {"rxe0", "rxe1", "rxe2", "siw0"}, try_device);
  EXPECT_EQ(tried, (std::vector<std::string>{"rxe1", "rxe2", "siw0"}));
  EXPECT_EQ(now, (ZeroCopySupport{
                     {"rxe0", ""}, {"rxe1", ""}, {"rxe2", ""}, {"siw0", "its driver wants more"}}));
  tried.clear();
  EXPECT_EQ(renewed(now, {"gone0"}, try_device), (ZeroCopySupport{{"gone0", ""}}));
  EXPECT_EQ(tried, std::vector<std::string>{"gone0"}) << "it has been away";
}

TEST(ZeroCopyProbe, AllWork) {
  ZeroCopySupport known{{"rxe0", ""}, {"siw0", "its driver wants more"}};
  EXPECT_TRUE(all_work(known, {}));
  EXPECT_TRUE(all_work(known, {"rxe0"}));
  EXPECT_FALSE(all_work(known, {"rxe0", "siw0"}));
  EXPECT_FALSE(all_work(known, {"rxe1"})) << "nothing is known of it";
}

}  // namespace
}  // namespace gestalt
