#include "daemon/preflight_transport.h"

#include <utility>

#include "common/no_rdma.h"

namespace gestalt {

void put_transport(const std::string& wanted, Result<void> rdma, std::uint32_t pid,
                   wire::PreflightReport& report) {
  if (wanted == "tcp") return report.set_transport("tcp");
  if (rdma) return report.set_transport("rdma");
  if (wanted != "rdma") {
    report.set_transport("tcp");
    report.set_transport_reason(rdma.error().text());
    return;
  }
  Error refused = rdma_refused(std::move(rdma).error());
  auto& blocker = *report.add_blockers();
  blocker.set_pid(pid);
  blocker.set_what(refused.message);
  blocker.set_remedy(refused.remedy);
}

}  // namespace gestalt
