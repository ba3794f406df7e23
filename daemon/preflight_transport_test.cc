#include "daemon/preflight_transport.h"

#include <gtest/gtest.h>

#include "common/no_rdma.h"

namespace gestalt {
namespace {

wire::PreflightReport report_of(const std::string& wanted, Result<void> rdma) {
  wire::PreflightReport report;
  put_transport(wanted, std::move(rdma), 16390, report);
  return report;
}

const Error kNoDevice{ErrorCode::kUnavailable, "no RDMA device leads to 10.0.0.2", "load a driver"};

TEST(PreflightTransport, RdmaWhereItCanBeHad) {
  for (const char* wanted : {"auto", "rdma"}) {
    auto report = report_of(wanted, {});
    EXPECT_EQ(report.transport(), "rdma") << wanted;
    EXPECT_EQ(report.transport_reason(), "");
    EXPECT_TRUE(report.blockers().empty());
  }
}

TEST(PreflightTransport, TcpThatWasAskedForNeedsNoReason) {
  for (const auto& rdma : {Result<void>(), Result<void>(std::unexpected(kNoDevice))}) {
    auto report = report_of("tcp", rdma);
    EXPECT_EQ(report.transport(), "tcp");
    EXPECT_EQ(report.transport_reason(), "");
    EXPECT_TRUE(report.blockers().empty());
  }
}

TEST(PreflightTransport, AutoSaysWhyItIsTcp) {
  auto report = report_of("auto", std::unexpected(kNoDevice));
  EXPECT_EQ(report.transport(), "tcp");
  EXPECT_EQ(report.transport_reason(), "no RDMA device leads to 10.0.0.2 (load a driver)");
  EXPECT_TRUE(report.blockers().empty());
  report = report_of("auto", std::unexpected(rdma_not_offered("no device (load a driver)")));
  EXPECT_EQ(report.transport_reason(), "the destination: no device (load a driver)");
}

TEST(PreflightTransport, RdmaThatCannotBeIsABlocker) {
  auto report = report_of("rdma", std::unexpected(kNoDevice));
  EXPECT_EQ(report.transport(), "");
  EXPECT_EQ(report.transport_reason(), "");
  ASSERT_EQ(report.blockers_size(), 1);
  EXPECT_EQ(report.blockers(0).pid(), 16390U);
  EXPECT_EQ(report.blockers(0).what(), "no RDMA: no RDMA device leads to 10.0.0.2");
  EXPECT_EQ(report.blockers(0).remedy(), "load a driver");
  report = report_of("rdma", std::unexpected(rdma_not_offered("")));
  ASSERT_EQ(report.blockers_size(), 1);
  EXPECT_EQ(report.blockers(0).what(), "no RDMA: the destination: it does not offer it");
  EXPECT_EQ(report.blockers(0).remedy(), "use --transport auto or tcp");
}

}  // namespace
}  // namespace gestalt
