#include "daemon/client_session.h"

#include <gtest/gtest.h>
#include <sys/resource.h>
#include <unistd.h>

#include "daemon/job_permission.h"

namespace gestalt {
namespace {

wire::JobSpec good_spec() {
  wire::JobSpec spec;
  spec.add_argv("/bin/true");
  spec.set_working_directory("/tmp");
  return spec;
}

wire::ResourceLimit limit(std::uint32_t resource, std::uint64_t soft, std::uint64_t hard) {
  wire::ResourceLimit out;
  out.set_resource(resource);
  out.set_soft(soft);
  out.set_hard(hard);
  return out;
}

TEST(ClientSpec, IsChecked) {
  EXPECT_TRUE(check_spec(good_spec()));
  EXPECT_FALSE(check_spec({}));
  auto relative = good_spec();
  relative.set_working_directory("tmp");
  EXPECT_FALSE(check_spec(relative));
  auto nul = good_spec();
  nul.add_environment(std::string("A=\0b", 4));
  EXPECT_FALSE(check_spec(nul));
  auto big = good_spec();
  big.add_argv(std::string(kMaxArgumentBytes, 'x'));
  EXPECT_FALSE(check_spec(big));
}

TEST(ClientSpec, IdentityIsTheKernelsWord) {
  auto spec = good_spec();
  spec.mutable_identity()->set_uid(0);
  spec.mutable_identity()->add_groups(0);
  set_identity({.pid = 1, .uid = 1000, .gid = 1001, .groups = {5, 6}}, spec);
  EXPECT_EQ(spec.identity().uid(), 1000U);
  EXPECT_EQ(spec.identity().gid(), 1001U);
  ASSERT_EQ(spec.identity().groups_size(), 2);
  EXPECT_EQ(spec.identity().groups(0), 5U);
}

TEST(ClientLimits, NobodyRaisesHisHardLimit) {
  auto own = limit(7, 100, 200);
  auto wanted = limit(7, 500, 1000);
  auto user = bounded_limits({wanted}, {own}, false);
  ASSERT_EQ(user.size(), 1U);
  EXPECT_EQ(user[0].hard(), 200U);
  EXPECT_EQ(user[0].soft(), 200U);
  auto root = bounded_limits({wanted}, {own}, true);
  EXPECT_EQ(root[0].hard(), 1000U);
  EXPECT_EQ(root[0].soft(), 500U);
  // Lowering is everybody's right; what is not named stays; what does not exist is dropped.
  EXPECT_EQ(bounded_limits({limit(7, 10, 20)}, {own}, false)[0].hard(), 20U);
  EXPECT_EQ(bounded_limits({limit(99, 1, 1)}, {own}, false)[0].hard(), 200U);
}

TEST(ClientLimits, AreReadFromTheProcess) {
  auto limits = limits_of({.pid = ::getpid(), .uid = ::geteuid(), .gid = 0, .groups = {}});
  ASSERT_TRUE(limits) << limits.error().text();
  ASSERT_EQ(limits->size(), static_cast<std::size_t>(RLIM_NLIMITS));
  for (const auto& each : *limits) {
    rlimit own{};
    ASSERT_EQ(::getrlimit(static_cast<__rlimit_resource>(each.resource()), &own), 0);
    EXPECT_EQ(each.soft(), own.rlim_cur) << each.resource();
    EXPECT_EQ(each.hard(), own.rlim_max) << each.resource();
  }
  EXPECT_FALSE(limits_of({}));
  EXPECT_FALSE(limits_of({.pid = ::getpid(), .uid = ::geteuid() + 1, .gid = 0, .groups = {}}));
  EXPECT_FALSE(parse_limits("Max open files 1 2 files\n"));
}

TEST(ClientKill, IsChecked) {
  wire::KillRequest request;
  EXPECT_FALSE(check_kill(request));
  request.add_pids(5);
  request.set_signal(15);
  EXPECT_TRUE(check_kill(request));
  request.set_signal(65);
  EXPECT_FALSE(check_kill(request));
}

TEST(Permission, FollowsKill2) {
  ProcessIds ids{.real_uid = 1000, .effective_uid = 0, .saved_uid = 1001, .namespace_pids = {}};
  EXPECT_TRUE(may_signal(0, ids));
  EXPECT_TRUE(may_signal(1000, ids));
  EXPECT_TRUE(may_signal(1001, ids));
  EXPECT_FALSE(may_signal(1002, ids));
  EXPECT_TRUE(may_manage(0, 7) && may_manage(7, 7));
  EXPECT_FALSE(may_manage(8, 7));
}

}  // namespace
}  // namespace gestalt
