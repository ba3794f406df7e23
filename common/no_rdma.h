// What is said where a migration's pages cannot go by RDMA, by itself and by its dry run alike.
#pragma once

#include <string>
#include <utility>

#include "common/result.h"

namespace gestalt {

// The destination does not offer it, for this reason.
[[nodiscard]] inline Error rdma_not_offered(std::string reason) {
  if (reason.empty()) reason = "it does not offer it";
  return {ErrorCode::kUnavailable, "the destination: " + std::move(reason), {}};
}

// Nothing else than RDMA would do.
[[nodiscard]] inline Error rdma_refused(Error why) {
  if (why.remedy.empty()) why.remedy = "use --transport auto or tcp";
  return std::move(why).in("no RDMA");
}

}  // namespace gestalt
