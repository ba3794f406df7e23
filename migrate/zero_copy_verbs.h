// The kernel's own interface to RDMA devices, as far as libibverbs does not offer it: registering
// memory from a task that has no libibverbs, and destroying by handle. By ioctl(2): the older
// write(2) refuses descriptors that were opened with other credentials.
// include/uapi/rdma/ib_user_ioctl_cmds.h, ib_user_verbs.h.
#pragma once

#include <rdma/ib_user_ioctl_cmds.h>
#include <rdma/ib_user_verbs.h>
#include <rdma/rdma_user_ioctl_cmds.h>

#include <cstddef>
#include <cstdint>
#include <span>

#include "common/result.h"

namespace gestalt {

// Where regions are registered. Owned by whoever opened the device.
struct ZeroCopyDevice {
  int command_fd = -1;                  // ibv_context::cmd_fd
  std::uint32_t protection_domain = 0;  // ibv_pd::handle
  std::uint32_t driver = 0;             // find_driver()
};

// Which driver's a device is (RDMA_DRIVER_*), asked of the kernel: it wants to be told with each
// ioctl, and answers EINVAL to any other. Thread-safe.
[[nodiscard]] Result<std::uint32_t> find_driver(int command_fd);

// The kernel's structures without their flexible ends, so that they can be parts of others.
struct VerbsHeader {  // ib_uverbs_ioctl_hdr
  std::uint16_t length, object_id, method_id, num_attrs;
  std::uint64_t reserved1;
  std::uint32_t driver_id, reserved2;
};
struct RegisterCommand {  // ib_uverbs_reg_mr
  std::uint64_t response, start, length, hca_va;
  std::uint32_t pd_handle, access_flags;
};
struct RegisterResponse {  // ib_uverbs_reg_mr_resp
  std::uint32_t mr_handle, lkey, rkey;
};
static_assert(sizeof(VerbsHeader) == sizeof(ib_uverbs_ioctl_hdr));
static_assert(sizeof(RegisterCommand) == sizeof(ib_uverbs_reg_mr));
static_assert(sizeof(RegisterResponse) == sizeof(ib_uverbs_reg_mr_resp));

// One call of ioctl(fd, RDMA_VERBS_IOCTL) that registers one range of pages for being read from
// remote, addressed by its own address; with room for its results.
struct RegistrationCall {
  VerbsHeader header;
  ib_uverbs_attr attributes[3];
  std::int64_t result;  // of the ioctl: 0 or a negative errno; kNotCalled
  RegisterCommand command;
  RegisterResponse response;
  std::uint32_t padding;

  static constexpr std::int64_t kNotCalled = 1;
  static constexpr std::uint32_t kNoHandle = ~0U;
  // Also if the task was stopped when the kernel had answered, and the result was not yet written.
  [[nodiscard]] bool is_registered() const {
    return result == 0 || (result == kNotCalled && response.mr_handle != kNoHandle);
  }
  // To lie at `address` in the memory of the task that is to make the call.
  static RegistrationCall make(std::uint64_t address, const ZeroCopyDevice& device,
                               std::uint64_t start, std::uint64_t end);
};
static_assert(sizeof(RegistrationCall) == 136 && offsetof(RegistrationCall, result) == 72);

// Machine code that makes the calls of an array of RegistrationCall. Arguments: the descriptor,
// RDMA_VERBS_IOCTL, the first, the end. To be run by Injector::run_code().
[[nodiscard]] std::span<const std::uint8_t> registration_loop();

// Ends a region, from whichever process has the device's context. kNotFound: there is none.
// Thread-safe.
[[nodiscard]] Result<void> deregister(int command_fd, std::uint32_t driver, std::uint32_t handle);

}  // namespace gestalt
