#include "migrate/zero_copy_verbs.h"

#include <rdma/ib_user_ioctl_verbs.h>
#include <sys/ioctl.h>

#include <array>
#include <cerrno>

namespace gestalt {
namespace {

constexpr std::uint32_t kMostDrivers = 64;  // there are some 20

struct DestroyCall {
  VerbsHeader header;
  ib_uverbs_attr handle;
};

// 0 or an errno.
int destroy(int command_fd, std::uint32_t driver, std::uint32_t handle) {
  DestroyCall call{};
  call.header.length = sizeof call;
  call.header.object_id = UVERBS_OBJECT_MR;
  call.header.method_id = UVERBS_METHOD_MR_DESTROY;
  call.header.num_attrs = 1;
  call.header.driver_id = driver;
  call.handle.attr_id = UVERBS_ATTR_DESTROY_MR_HANDLE;
  call.handle.flags = UVERBS_ATTR_F_MANDATORY;
  call.handle.data = handle;
  return ::ioctl(command_fd, RDMA_VERBS_IOCTL, &call) == 0 ? 0 : errno;
}

ib_uverbs_attr attribute(std::uint16_t id, std::size_t bytes, std::uint64_t data) {
  ib_uverbs_attr out{};
  out.attr_id = id;
  out.len = static_cast<std::uint16_t>(bytes);
  out.flags = UVERBS_ATTR_F_MANDATORY;
  out.data = data;
  return out;
}

// The kernel changes rax, rcx and r11 only. `loop` is 23 bytes before the end of `jb`.
constexpr std::array<std::uint8_t, 24> kLoop = {
    0xb8, 0x10, 0x00, 0x00,
    0x00,                                                  // loop: mov eax, SYS_ioctl
    0x0f, 0x05,                                            // syscall
    0x48, 0x89, 0x42, offsetof(RegistrationCall, result),  // mov [rdx + result], rax
    0x48, 0x81, 0xc2, sizeof(RegistrationCall),
    0x00, 0x00, 0x00,  // add rdx, sizeof
    0x4c, 0x39, 0xd2,  // cmp rdx, r10
    0x72, 0xe9,        // jb loop
    0xcc,              // int3
};

}  // namespace

Result<std::uint32_t> find_driver(int command_fd) {
  for (std::uint32_t driver = 0; driver < kMostDrivers; ++driver) {
    int error_number = destroy(command_fd, driver, RegistrationCall::kNoHandle);
    if (error_number == ENOENT) return driver;
    if (error_number != EINVAL) return fail_errno(error_number, "ask for an RDMA device's driver");
  }
  return fail(ErrorCode::kNotFound, "an RDMA device's driver is unknown");
}

RegistrationCall RegistrationCall::make(std::uint64_t address, const ZeroCopyDevice& device,
                                        std::uint64_t start, std::uint64_t end) {
  RegistrationCall call{};
  call.header.length = sizeof call.header + sizeof call.attributes;
  call.header.object_id = UVERBS_OBJECT_DEVICE;
  call.header.method_id = UVERBS_METHOD_INVOKE_WRITE;
  call.header.num_attrs = 3;
  call.header.driver_id = device.driver;
  call.attributes[0] = attribute(UVERBS_ATTR_CORE_IN, sizeof call.command,
                                 address + offsetof(RegistrationCall, command));
  call.attributes[1] = attribute(UVERBS_ATTR_CORE_OUT, sizeof call.response,
                                 address + offsetof(RegistrationCall, response));
  call.attributes[2] =
      attribute(UVERBS_ATTR_WRITE_CMD, sizeof(std::uint64_t), IB_USER_VERBS_CMD_REG_MR);
  call.result = kNotCalled;
  call.response.mr_handle = kNoHandle;
  call.command.start = call.command.hca_va = start;
  call.command.length = end - start;
  call.command.pd_handle = device.protection_domain;
  call.command.access_flags = IB_UVERBS_ACCESS_REMOTE_READ;
  return call;
}

std::span<const std::uint8_t> registration_loop() { return kLoop; }

Result<void> deregister(int command_fd, std::uint32_t driver, std::uint32_t handle) {
  int error_number = destroy(command_fd, driver, handle);
  if (error_number != 0) return fail_errno(error_number, "end the registration of memory");
  return {};
}

}  // namespace gestalt
