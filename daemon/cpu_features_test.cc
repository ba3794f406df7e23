#include "daemon/cpu_features.h"

#include <gmock/gmock.h>

#include "common/fd.h"

namespace gestalt {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

TEST(CpuFeatures, ThoseOfProgramsThatAllCpusHave) {
  EXPECT_THAT(
      program_cpu_features("processor\t: 0\n"
                           "flags\t\t: fpu tsc sse2 ssse3 avx2 avx512f smep hypervisor xsave\n"
                           "bugs\t\t: spectre_v1\n"
                           "processor\t: 1\n"
                           "flags\t\t: fpu avx2 sse2 tsc smep ssse3 xsave aes\n"),
      ElementsAre("avx2", "sse2", "ssse3", "xsave"));
}

TEST(CpuFeatures, OfAnArmMachine) {
  EXPECT_THAT(program_cpu_features("Features\t: fp asimd sve\n"),
              ElementsAre("asimd", "fp", "sve"));
}

TEST(CpuFeatures, OfNothing) {
  EXPECT_THAT(program_cpu_features(""), IsEmpty());
  EXPECT_THAT(program_cpu_features("flags\nflags :\nflags\t: \n\n: sse\nmodel name: avx"),
              IsEmpty());
}

TEST(CpuFeatures, OfThisMachine) {
  auto text = read_file("/proc/cpuinfo", 64U << 20);
  ASSERT_TRUE(text);
  auto features = program_cpu_features(*text);
#if defined(__x86_64__)
  EXPECT_TRUE(features.contains("sse2"));
  EXPECT_FALSE(features.contains("fpu"));
#endif
  EXPECT_LT(features.size(), 200U);
}

}  // namespace
}  // namespace gestalt
