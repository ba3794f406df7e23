// For tests of paging over each kind of links.
#pragma once

#include <gtest/gtest.h>

#include "migrate/paging_rig.h"

namespace gestalt::testing_rig {

struct Links {
  const char* name;
  RigLinks links;
  unsigned remote_sixteenths;
};

inline void PrintTo(const Links& links, std::ostream* out) { *out << links.name; }

inline std::string name_of(const testing::TestParamInfo<Links>& which) { return which.param.name; }

// Its rigs have those links; skipped where there are none, or no userfaultfd.
class OverLinks : public testing::TestWithParam<Links> {
 protected:
  void SetUp() override {
    auto probe = make_uffd();
    if (!probe) GTEST_SKIP() << "no userfaultfd here: " << probe.error().text();
    if (GetParam().links == RigLinks::kRdma) {
      GESTALT_NEED_RDMA(found);
    }
    rig_defaults() = {GetParam().links, GetParam().remote_sixteenths};
  }
  void TearDown() override { rig_defaults() = {}; }
};

}  // namespace gestalt::testing_rig
