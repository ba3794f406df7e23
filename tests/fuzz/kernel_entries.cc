// Messages of the kernel about processes.
#include <linux/cn_proc.h>
#include <linux/connector.h>
#include <linux/genetlink.h>
#include <linux/netlink.h>

#include "daemon/sources/connector_task_events.h"
#include "daemon/sources/module_task_events.h"
#include "tests/fuzz/entries.h"

namespace gestalt::fuzz {
namespace {

constexpr int kFamily = 31;

template <class Struct>
std::string bytes_of(const Struct& value) {
  return {reinterpret_cast<const char*>(&value), sizeof value};
}

std::string message(std::uint16_t type, const std::string& content) {
  nlmsghdr header{};
  header.nlmsg_len = static_cast<std::uint32_t>(sizeof header + content.size());
  header.nlmsg_type = type;
  return bytes_of(header) + content;
}

std::string attribute(std::uint16_t type, const std::string& content) {
  return bytes_of(nlattr{.nla_len = static_cast<std::uint16_t>(sizeof(nlattr) + content.size()),
                         .nla_type = type}) +
         content;
}

// A message of so many bytes has no room for more.
void check(std::string_view bytes, const TaskNews& news, std::size_t least_bytes) {
  promise(news.events.size() <= bytes.size() / least_bytes, "no event comes from nowhere");
}

void run_module_events(std::string_view bytes) {
  ModuleEventDecoder decoder(kFamily);
  TaskNews news;
  decoder.decode(std::as_bytes(std::span(bytes)), news);
  check(bytes, news, offsetof(gestalt_event, slice_first));
}

std::vector<std::string> module_event_seeds() {
  gestalt_event info{};
  info.type = GESTALT_EVENT_FORK;
  info.sequence = 3;
  const std::string pids = bytes_of(std::uint32_t{1234}) + bytes_of(std::uint32_t{7});
  auto event =
      attribute(GESTALT_A_EVENT | NLA_F_NESTED, attribute(GESTALT_EVENT_A_INFO, bytes_of(info)) +
                                                    attribute(GESTALT_EVENT_A_PIDS, pids) +
                                                    attribute(GESTALT_EVENT_A_TGIDS, pids));
  return {message(kFamily,
                  bytes_of(genlmsghdr{.cmd = GESTALT_CMD_EVENTS, .version = 1}) + event + event)};
}

void run_connector_events(std::string_view bytes) {
  ConnectorDecoder decoder(1);
  TaskNews news;
  decoder.decode(std::as_bytes(std::span(bytes)), news);
  check(bytes, news, sizeof(nlmsghdr) + sizeof(cn_msg));
}

std::vector<std::string> connector_event_seeds() {
  proc_event event{};
  event.what = PROC_EVENT_FORK;
  event.event_data.fork.child_pid = 40;
  event.event_data.fork.child_tgid = 40;
  cn_msg header{};
  header.id.idx = CN_IDX_PROC;
  header.id.val = CN_VAL_PROC;
  header.len = sizeof event;
  auto one = message(NLMSG_DONE, bytes_of(header) + bytes_of(event));
  return {one, one + one};
}

constexpr Entry kEntries[] = {
    {"module_events", run_module_events, module_event_seeds},
    {"connector_events", run_connector_events, connector_event_seeds},
};

}  // namespace

std::span<const Entry> kernel_entries() { return kEntries; }

}  // namespace gestalt::fuzz
