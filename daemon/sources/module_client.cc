#include "daemon/sources/module_client.h"

#include <netlink/genl/ctrl.h>
#include <netlink/genl/genl.h>
#include <netlink/netlink.h>
#include <sys/socket.h>
#include <sys/time.h>

#include <algorithm>
#include <cstring>

#include "common/format.h"

namespace gestalt {
namespace {

// The kernel fills an answer's buffers as large as the reader's; more does not fit into one.
constexpr std::size_t kBufferBytes = 64U << 10;

struct FreeMessage {
  void operator()(nl_msg* message) const { ::nlmsg_free(message); }
};

struct FreeCallbacks {
  void operator()(nl_cb* callbacks) const { ::nl_cb_put(callbacks); }
};

struct Exchange {
  const std::function<void(nl_msg*)>* on_message = nullptr;
  int error = 0;  // as errno has it
  bool done = false;
};

int on_valid(nl_msg* message, void* argument) {
  const auto& exchange = *static_cast<Exchange*>(argument);
  if (*exchange.on_message) (*exchange.on_message)(message);
  return NL_OK;
}

int on_end(nl_msg*, void* argument) {
  static_cast<Exchange*>(argument)->done = true;
  return NL_STOP;
}

int on_error(sockaddr_nl*, nlmsgerr* error, void* argument) {
  auto& exchange = *static_cast<Exchange*>(argument);
  exchange.error = -error->error;
  exchange.done = true;
  return NL_STOP;
}

Unexpected module_error(int error_number) {
  switch (error_number) {
    case ENOENT:
    case EOPNOTSUPP:
      return fail(ErrorCode::kUnavailable, "the module gestalt is not loaded");
    case ESRCH:
      return fail(ErrorCode::kGone, "the process has ended");
    default:
      return fail_errno(error_number, "ask the module gestalt");
  }
}

Result<NetlinkSocket> open_socket() {
  NetlinkSocket socket(::nl_socket_alloc());
  if (!socket) return fail(ErrorCode::kInternal, "no memory for a netlink socket");
  // A question costs what it costs to send and to receive it, no look ahead.
  ::nl_socket_disable_msg_peek(socket.get());
  if (int error = ::genl_connect(socket.get()); error < 0)
    return fail(ErrorCode::kSystem, formatted("open netlink: {}", ::nl_geterror(error)));
  (void)::nl_socket_set_msg_buf_size(socket.get(), kBufferBytes);
  timeval limit{.tv_sec = ModuleClient::kTimeout.count(), .tv_usec = 0};
  (void)::setsockopt(::nl_socket_get_fd(socket.get()), SOL_SOCKET, SO_RCVTIMEO, &limit,
                     sizeof limit);
  return socket;
}

// Structs grow at their end: what the module does not know is zero.
template <class Struct>
Struct struct_of(const nlattr* attribute) {
  Struct out{};
  auto bytes = static_cast<std::size_t>(std::max(::nla_len(attribute), 0));
  std::memcpy(&out, ::nla_data(attribute), std::min(sizeof out, bytes));
  return out;
}

nlattr* find(nl_msg* message, int type) {
  return ::nlmsg_find_attr(::nlmsg_hdr(message), GENL_HDRLEN, type);
}

}  // namespace

void CloseNetlink::operator()(nl_sock* socket) const { ::nl_socket_free(socket); }

Result<ModuleClient> ModuleClient::connect() {
  GESTALT_ASSIGN(auto socket, open_socket());
  int family = ::genl_ctrl_resolve(socket.get(), GESTALT_GENL_NAME);
  if (family < 0) return module_error(ENOENT);
  ModuleClient client(std::move(socket), family);
  GESTALT_ASSIGN(auto status, client.status());
  if (status.api != GESTALT_GENL_VERSION)
    return fail(ErrorCode::kUnavailable,
                formatted("the module gestalt speaks version {}, this program {}", status.api,
                          GESTALT_GENL_VERSION),
                "install the module of the same release");
  return client;
}

Result<void> ModuleClient::request(int command, int flags, const std::function<bool(nl_msg*)>& fill,
                                   const OnMessage& on_message) {
  std::unique_ptr<nl_msg, FreeMessage> message(::nlmsg_alloc());
  if (!message ||
      ::genlmsg_put(message.get(), NL_AUTO_PORT, NL_AUTO_SEQ, family_, 0, NLM_F_REQUEST | flags,
                    static_cast<std::uint8_t>(command), GESTALT_GENL_VERSION) == nullptr)
    return fail(ErrorCode::kInternal, "no memory for a netlink message");
  if (fill && !fill(message.get()))
    return fail(ErrorCode::kInternal, "a netlink message is too small");
  Exchange exchange{.on_message = &on_message};
  std::unique_ptr<nl_cb, FreeCallbacks> callbacks(::nl_cb_alloc(NL_CB_DEFAULT));
  if (!callbacks) return fail(ErrorCode::kInternal, "no memory for a netlink message");
  ::nl_cb_set(callbacks.get(), NL_CB_VALID, NL_CB_CUSTOM, on_valid, &exchange);
  ::nl_cb_set(callbacks.get(), NL_CB_FINISH, NL_CB_CUSTOM, on_end, &exchange);
  ::nl_cb_set(callbacks.get(), NL_CB_ACK, NL_CB_CUSTOM, on_end, &exchange);
  ::nl_cb_err(callbacks.get(), NL_CB_CUSTOM, on_error, &exchange);
  // A dump ends with its last message, all else with an acknowledgement.
  if (int sent = ::nl_send_auto(socket_.get(), message.get()); sent < 0)
    return fail(ErrorCode::kSystem, formatted("ask the module: {}", ::nl_geterror(sent)));
  while (!exchange.done) {
    int received = ::nl_recvmsgs(socket_.get(), callbacks.get());
    if (received < 0 && !exchange.done)
      return fail(ErrorCode::kUnavailable,
                  formatted("no answer of the module gestalt: {}", ::nl_geterror(received)));
  }
  if (exchange.error != 0) return module_error(exchange.error);
  return {};
}

template <class Struct>
Result<Struct> ModuleClient::ask(int command, int attribute,
                                 const std::function<bool(nl_msg*)>& fill) {
  std::optional<Struct> answer;
  GESTALT_TRY(request(command, NLM_F_ACK, fill, [&](nl_msg* message) {
    if (const nlattr* found = find(message, attribute)) answer = struct_of<Struct>(found);
  }));
  if (!answer)
    return fail(ErrorCode::kProtocol, "an answer of the module lacks what was asked for");
  return *answer;
}

Result<gestalt_status> ModuleClient::status() {
  return ask<gestalt_status>(GESTALT_CMD_STATUS, GESTALT_A_STATUS, nullptr);
}

Result<gestalt_load> ModuleClient::load() {
  return ask<gestalt_load>(GESTALT_CMD_LOAD, GESTALT_A_LOAD, nullptr);
}

Result<gestalt_counts> ModuleClient::counts(pid_t pid) {
  return ask<gestalt_counts>(GESTALT_CMD_LOAD, GESTALT_A_LOAD_PIDNS, [&](nl_msg* message) {
    return ::nla_put_u32(message, GESTALT_A_PID, static_cast<std::uint32_t>(pid)) == 0;
  });
}

Result<void> ModuleClient::tasks(pid_t pid, const std::function<void(const gestalt_task&)>& each) {
  auto fill = [&](nl_msg* message) {
    return ::nla_put_u32(message, GESTALT_A_PID, static_cast<std::uint32_t>(pid)) == 0;
  };
  return request(GESTALT_CMD_TASKS, NLM_F_DUMP, fill, [&](nl_msg* message) {
    nlattr* attribute = nullptr;
    int rest = 0;
    auto* header = ::nlmsg_hdr(message);
    nlmsg_for_each_attr(attribute, header, GENL_HDRLEN, rest) {
      if (::nla_type(attribute) != GESTALT_A_TASK) continue;
      if (const nlattr* info = ::nla_find(static_cast<nlattr*>(::nla_data(attribute)),
                                          ::nla_len(attribute), GESTALT_TASK_A_INFO))
        each(struct_of<gestalt_task>(info));
    }
  });
}

Result<void> ModuleClient::set_slice(std::uint32_t first, std::uint32_t last) {
  auto fill = [&](nl_msg* message) {
    return ::nla_put_u32(message, GESTALT_A_SLICE_FIRST, first) == 0 &&
           ::nla_put_u32(message, GESTALT_A_SLICE_LAST, last) == 0;
  };
  return request(GESTALT_CMD_SLICE_SET, NLM_F_ACK, fill, nullptr);
}

Result<gestalt_slice> ModuleClient::slice() {
  return ask<gestalt_slice>(GESTALT_CMD_SLICE_GET, GESTALT_A_SLICE, nullptr);
}

// ------------------------------------------------------------------ listening

Result<NetlinkGroup> join_netlink_group(const char* family, const char* group) {
  GESTALT_ASSIGN(auto socket, open_socket());
  int type = ::genl_ctrl_resolve(socket.get(), family);
  int number = ::genl_ctrl_resolve_grp(socket.get(), family, group);
  if (type < 0 || number < 0)
    return fail(ErrorCode::kUnavailable,
                formatted("the kernel has no netlink group {} {}: {}", family, group,
                          ::nl_geterror(std::min(type, number))));
  if (int error = ::nl_socket_add_membership(socket.get(), number); error < 0)
    return fail(ErrorCode::kSystem,
                formatted("join the netlink group {} {}: {}", family, group, ::nl_geterror(error)));
  return NetlinkGroup{.socket = std::move(socket), .family = type};
}

int netlink_descriptor(const nl_sock& socket) { return ::nl_socket_get_fd(&socket); }

Result<ModuleWatch> ModuleWatch::open() {
  auto group = join_netlink_group("nlctrl", "notify");
  if (!group) return std::unexpected(std::move(group).error().in("watch for the module gestalt"));
  return ModuleWatch(std::move(group->socket));
}

int ModuleWatch::descriptor() const { return netlink_descriptor(*socket_); }

// What is said does not matter: whoever wants to know asks.
bool ModuleWatch::take() {
  bool any = false;
  std::byte buffer[8192];
  while (::recv(descriptor(), buffer, sizeof buffer, MSG_DONTWAIT) > 0 || errno == ENOBUFS)
    any = true;
  return any;
}

}  // namespace gestalt
