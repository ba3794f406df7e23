#include "daemon/sources/module_task_events.h"

#include <linux/genetlink.h>
#include <poll.h>

#include <array>
#include <system_error>
#include <thread>

#include "common/format.h"

namespace gestalt {
namespace {

// A task's pid in the initial namespace, and how many namespaces below that it is.
struct Numbers {
  pid_t pid = 0;
  std::uint32_t level = 0;
};

std::optional<Numbers> numbers_of(Bytes pids) {
  auto first = copy_of<std::uint32_t>(pids);
  if (!first) return std::nullopt;
  return Numbers{.pid = static_cast<pid_t>(*first),
                 .level = static_cast<std::uint32_t>(pids.size() / sizeof *first - 1)};
}

// Nothing: not of a process, but of one of its threads, or of a slice.
std::optional<TaskEvent::Kind> kind_of(const gestalt_event& info, bool thread) {
  switch (info.type) {
    case GESTALT_EVENT_FORK:
      if (thread) return std::nullopt;
      return TaskEvent::Kind::kFork;
    case GESTALT_EVENT_EXEC:
      return TaskEvent::Kind::kExec;
    case GESTALT_EVENT_EXIT:
      if ((info.flags & GESTALT_EVENT_F_LAST) == 0) return std::nullopt;
      return TaskEvent::Kind::kExit;
    default:
      return std::nullopt;
  }
}

}  // namespace

void ModuleEventDecoder::decode(Bytes datagram, TaskNews& news) {
  bool whole = for_each_message(datagram, [&](std::uint16_t type, Bytes message) {
    auto header = copy_of<genlmsghdr>(message);
    if (type != family_ || !header || header->cmd != GESTALT_CMD_EVENTS) return;
    auto each = [&](std::uint16_t attribute, Bytes content) {
      if (attribute == GESTALT_A_EVENT) decode_event(content, news);
    };
    if (!for_each_attribute(message.subspan(sizeof *header), each)) news.lost = true;
  });
  if (!whole) news.lost = true;
}

void ModuleEventDecoder::decode_event(Bytes event, TaskNews& news) {
  std::optional<gestalt_event> info;
  std::optional<Numbers> task;
  std::optional<Numbers> process;
  bool whole = for_each_attribute(event, [&](std::uint16_t attribute, Bytes content) {
    if (attribute == GESTALT_EVENT_A_INFO)
      info = copy_of<gestalt_event>(content, offsetof(gestalt_event, slice_first));
    if (attribute == GESTALT_EVENT_A_PIDS) task = numbers_of(content);
    if (attribute == GESTALT_EVENT_A_TGIDS) process = numbers_of(content);
  });
  if (!whole || !info) {
    news.lost = true;
    return;
  }
  if (last_sequence_ != 0 && info->sequence != last_sequence_ + 1) news.lost = true;
  last_sequence_ = info->sequence;
  if (info->type == GESTALT_EVENT_RESYNC) news.lost = true;
  if (!task || !process) return;
  if (auto kind = kind_of(*info, task->pid != process->pid))
    news.events.push_back({.kind = *kind,
                           .pid = process->pid,
                           .namespace_inode = info->pidns_inum,
                           .namespace_level = process->level});
}

Result<std::unique_ptr<TaskEvents>> ModuleTaskEvents::open() {
  auto group = join_netlink_group(GESTALT_GENL_NAME, GESTALT_GENL_EVENTS);
  if (!group) return std::unexpected(std::move(group).error().in("events of the module gestalt"));
  make_room(netlink_descriptor(*group->socket));
  std::unique_ptr<ModuleTaskEvents> events(new ModuleTaskEvents(std::move(*group)));
  GESTALT_TRY(events->try_out());
  return events;
}

// The group can be joined where nothing is ever sent. A thread's begin and end are told, if any is.
Result<void> ModuleTaskEvents::try_out() {
  try {
    std::thread([] {}).join();
  } catch (const std::system_error& error) {
    return fail(ErrorCode::kUnavailable, formatted("start a thread: {}", error.what()));
  }
  if (!wait_for(descriptor(), POLLIN, deadline_in(kTrial)))
    return fail(ErrorCode::kUnavailable,
                "the module's events do not come here: this is not the initial network namespace");
  return {};
}

int ModuleTaskEvents::descriptor() const { return netlink_descriptor(*group_.socket); }

Result<TaskNews> ModuleTaskEvents::take() {
  alignas(nlmsghdr) std::array<std::byte, GESTALT_EVENTS_SIZE> buffer;
  TaskNews news;
  GESTALT_ASSIGN(bool lost,
                 receive_all_from_kernel(descriptor(), buffer, kMostMessages,
                                         [&](Bytes bytes) { decoder_.decode(bytes, news); }));
  news.lost |= lost;
  return news;
}

}  // namespace gestalt
