// What a dry run says of the transport.
#pragma once

#include <cstdint>
#include <string>

#include "common/proto/control.pb.h"
#include "common/result.h"

namespace gestalt {

// Into the report on process `pid`. `wanted`: auto, tcp or rdma. `rdma`: whether pages could go by
// it, or why not, as the migration's source would say. Nothing else than RDMA wanted, and it
// cannot be had: a blocker.
void put_transport(const std::string& wanted, Result<void> rdma, std::uint32_t pid,
                   wire::PreflightReport& report);

}  // namespace gestalt
