// A connection to the kernel module, gestalt.ko: generic netlink, as kmod/uapi/gestalt.h has it.
// The module is optional; where it is not loaded, connect() is kUnavailable.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <functional>
#include <memory>

#include "common/fd.h"
#include "common/result.h"
#include "kmod/uapi/gestalt.h"

struct nl_sock;
struct nl_msg;

namespace gestalt {

struct CloseNetlink {
  void operator()(nl_sock* socket) const;
};
using NetlinkSocket = std::unique_ptr<nl_sock, CloseNetlink>;

// A socket that hears a generic netlink family's multicast group.
struct NetlinkGroup {
  NetlinkSocket socket;
  int family = 0;  // the type of its messages
};
// kUnavailable: there is no such family, or no such group.
[[nodiscard]] Result<NetlinkGroup> join_netlink_group(const char* family, const char* group);
[[nodiscard]] int netlink_descriptor(const nl_sock& socket);

// Not thread-safe. Every call ends within kTimeout. kUnavailable: the module has gone.
class ModuleClient {
 public:
  static constexpr std::chrono::seconds kTimeout{2};

  [[nodiscard]] static Result<ModuleClient> connect();

  [[nodiscard]] Result<gestalt_status> status();
  [[nodiscard]] Result<gestalt_load> load();
  // Of the pid namespace that the process `pid` is in; kGone if there is no such process.
  [[nodiscard]] Result<gestalt_counts> counts(pid_t pid);
  // Its processes, by pid. Pids are as that namespace has them.
  [[nodiscard]] Result<void> tasks(pid_t pid, const std::function<void(const gestalt_task&)>& each);

  // Keeps the pids of this process's pid namespace within the slice, as long as the connection
  // is there. kBusy: somebody else does.
  [[nodiscard]] Result<void> set_slice(std::uint32_t first, std::uint32_t last);
  [[nodiscard]] Result<gestalt_slice> slice();

 private:
  using OnMessage = std::function<void(nl_msg*)>;
  ModuleClient(NetlinkSocket socket, int family) : socket_(std::move(socket)), family_(family) {}
  // `fill` adds attributes; false: no room.
  [[nodiscard]] Result<void> request(int command, int flags,
                                     const std::function<bool(nl_msg*)>& fill,
                                     const OnMessage& on_message);
  template <class Struct>
  [[nodiscard]] Result<Struct> ask(int command, int attribute,
                                   const std::function<bool(nl_msg*)>& fill);

  NetlinkSocket socket_;
  int family_ = 0;
};

// Tells when the module appears or goes: its family's registration, as the kernel announces it.
class ModuleWatch {
 public:
  [[nodiscard]] static Result<ModuleWatch> open();
  // Readable when there is something to take().
  [[nodiscard]] int descriptor() const;
  // Reads what has been announced. True: some family came or went, ours perhaps.
  [[nodiscard]] bool take();

 private:
  explicit ModuleWatch(NetlinkSocket socket) : socket_(std::move(socket)) {}
  NetlinkSocket socket_;
};

}  // namespace gestalt
