#include "daemon/sources/connector_task_events.h"

#include <linux/cn_proc.h>
#include <linux/connector.h>
#include <linux/netlink.h>
#include <poll.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstddef>

namespace gestalt {
namespace {

// A message is some 80 bytes.
constexpr std::size_t kBufferBytes = 4096;

// cn_msg without its content, which C++ lets nothing have behind it.
struct ConnectorHeader {
  cb_id id;
  std::uint32_t sequence;
  std::uint32_t acknowledged;
  std::uint16_t length;
  std::uint16_t flags;
};
static_assert(sizeof(ConnectorHeader) == sizeof(cn_msg));
static_assert(offsetof(ConnectorHeader, length) == offsetof(cn_msg, len));

constexpr std::size_t kHeaderBytes = offsetof(proc_event, event_data);

Unexpected unavailable(int error_number, const char* what) {
  switch (error_number) {
    case EPERM:
      return fail(
          ErrorCode::kUnavailable,
          "the kernel's process events are for CAP_NET_ADMIN of the initial user namespace");
    case ECONNREFUSED:
      return fail(ErrorCode::kUnavailable,
                  "the kernel's process events do not come here: this is not the initial network "
                  "namespace, or the kernel has no proc connector");
    case EPROTONOSUPPORT:
      return fail(ErrorCode::kUnavailable, "the kernel has no proc connector");
    default:
      return fail_errno(error_number, what);
  }
}

// Nothing: of a thread, or something else.
std::optional<TaskEvent> event_of(const proc_event& event) {
  auto of_process = [](TaskEvent::Kind kind, pid_t pid, pid_t process) -> std::optional<TaskEvent> {
    if (pid != process) return std::nullopt;
    return TaskEvent{.kind = kind, .pid = process};
  };
  const auto& data = event.event_data;
  switch (event.what) {
    case PROC_EVENT_FORK:
      return of_process(TaskEvent::Kind::kFork, data.fork.child_pid, data.fork.child_tgid);
    case PROC_EVENT_EXEC:
      return of_process(TaskEvent::Kind::kExec, data.exec.process_pid, data.exec.process_tgid);
    case PROC_EVENT_EXIT:
      return of_process(TaskEvent::Kind::kExit, data.exit.process_pid, data.exit.process_tgid);
    default:
      return std::nullopt;
  }
}

// As many bytes as its fields take.
std::size_t size_of(const proc_event& event) {
  switch (event.what) {
    case PROC_EVENT_FORK:
      return kHeaderBytes + sizeof event.event_data.fork;
    case PROC_EVENT_EXEC:
      return kHeaderBytes + sizeof event.event_data.exec;
    case PROC_EVENT_EXIT:
      return kHeaderBytes + offsetof(decltype(event.event_data.exit), exit_code);
    case PROC_EVENT_NONE:
      return kHeaderBytes + sizeof event.event_data.ack;
    default:
      return kHeaderBytes;
  }
}

}  // namespace

void ConnectorDecoder::decode(Bytes datagram, TaskNews& news) {
  bool whole = for_each_message(datagram,
                                [&](std::uint16_t, Bytes message) { decode_event(message, news); });
  if (!whole) news.lost = true;
}

void ConnectorDecoder::decode_event(Bytes message, TaskNews& news) {
  auto header = copy_of<ConnectorHeader>(message);
  if (header && (header->id.idx != CN_IDX_PROC || header->id.val != CN_VAL_PROC)) return;
  std::optional<proc_event> event;
  auto content = header ? message.subspan(sizeof *header) : Bytes();
  if (header && header->length <= content.size()) {
    content = content.first(header->length);
    event = copy_of<proc_event>(content, kHeaderBytes);
  }
  if (!event || content.size() < size_of(*event)) {
    news.lost = true;
    return;
  }
  count(event->cpu, header->sequence, news);
  if (event->what == PROC_EVENT_NONE && header->acknowledged == question_ + 1)
    answer_ = static_cast<int>(event->event_data.ack.err);
  if (auto told = event_of(*event)) news.events.push_back(*told);
}

void ConnectorDecoder::count(std::uint32_t cpu, std::uint32_t sequence, TaskNews& news) {
  // More than any kernel has.
  constexpr std::size_t kMostCpus = 1U << 16;
  auto next = next_.find(cpu);
  if (next == next_.end() && next_.size() >= kMostCpus) return;
  if (next != next_.end() && next->second != sequence) news.lost = true;
  next_[cpu] = sequence + 1;
}

Result<std::unique_ptr<TaskEvents>> ConnectorTaskEvents::open() {
  Fd socket(::socket(AF_NETLINK, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, NETLINK_CONNECTOR));
  if (!socket) return unavailable(errno, "open the proc connector");
  make_room(socket.get());
  sockaddr_nl group{};
  group.nl_family = AF_NETLINK;
  group.nl_groups = 1U << (CN_IDX_PROC - 1);
  if (::bind(socket.get(), reinterpret_cast<const sockaddr*>(&group), sizeof group) != 0)
    return unavailable(errno, "join the proc connector's group");
  std::uint32_t question = 0;
  if (::getrandom(&question, sizeof question, 0) != sizeof question)
    return fail_errno(errno, "get a number");
  std::unique_ptr<ConnectorTaskEvents> events(new ConnectorTaskEvents(std::move(socket), question));
  GESTALT_TRY(events->ask(PROC_CN_MCAST_LISTEN));
  GESTALT_TRY(events->await_answer());
  return events;
}

// Older kernels count who listens, and tell everybody until as many have said that they do not.
ConnectorTaskEvents::~ConnectorTaskEvents() {
  if (counted_) (void)ask(PROC_CN_MCAST_IGNORE);
}

Result<void> ConnectorTaskEvents::ask(std::uint32_t operation) const {
  struct Question {
    nlmsghdr netlink;
    ConnectorHeader connector;
    std::uint32_t operation;
  };
  static_assert(sizeof(Question) == NLMSG_HDRLEN + sizeof(ConnectorHeader) + sizeof(std::uint32_t));
  Question question{};
  question.netlink.nlmsg_len = sizeof question;
  question.netlink.nlmsg_type = NLMSG_DONE;
  question.connector.id = {.idx = CN_IDX_PROC, .val = CN_VAL_PROC};
  question.connector.acknowledged = question_;
  question.connector.length = sizeof question.operation;
  question.operation = operation;
  if (::send(socket_.get(), &question, sizeof question, 0) < 0)
    return unavailable(errno, "ask for process events");
  return {};
}

// Where it is not the initial pid or user namespace, no kernel ever answers. What others' doings
// bring meanwhile is passed over.
Result<void> ConnectorTaskEvents::await_answer() {
  auto end = deadline_in(kTrial);
  while (!decoder_.answer()) {
    if (Clock::now() >= end || !wait_for(descriptor(), POLLIN, end))
      return fail(ErrorCode::kUnavailable,
                  "the kernel tells of process events in the initial pid and user namespace only");
    GESTALT_ASSIGN(auto before, take());
  }
  if (*decoder_.answer() != 0) return unavailable(*decoder_.answer(), "listen to process events");
  counted_ = true;
  return {};
}

Result<TaskNews> ConnectorTaskEvents::take() {
  std::array<std::byte, kBufferBytes> buffer;
  TaskNews news;
  GESTALT_ASSIGN(bool lost,
                 receive_all_from_kernel(descriptor(), buffer, kMostMessages,
                                         [&](Bytes bytes) { decoder_.decode(bytes, news); }));
  news.lost |= lost;
  return news;
}

}  // namespace gestalt
