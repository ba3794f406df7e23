// The Transport over RDMA. Its streams are OneSided, too.
#pragma once

#include <memory>

#include "migrate/rdma_device.h"
#include "migrate/transport.h"

namespace gestalt {

// All connections are in this domain, so on its device. Thread-safe.
[[nodiscard]] std::unique_ptr<Transport> make_rdma_transport(std::shared_ptr<RdmaDomain> domain);

}  // namespace gestalt
