// What is made of the kernel's messages, right ones and wrong ones. Needs no kernel that sends any.
#include <gtest/gtest.h>
#include <linux/cn_proc.h>
#include <linux/connector.h>
#include <linux/genetlink.h>
#include <sys/socket.h>

#include <array>
#include <string>

#include "daemon/sources/connector_task_events.h"
#include "daemon/sources/module_task_events.h"

namespace gestalt {
namespace {

constexpr int kFamily = 31;
constexpr std::uint32_t kQuestion = 4711;
using Kind = TaskEvent::Kind;

template <class Struct>
std::string bytes_of(const Struct& value) {
  return {reinterpret_cast<const char*>(&value), sizeof value};
}

std::string message(std::uint16_t type, const std::string& content) {
  nlmsghdr header{};
  header.nlmsg_len = static_cast<std::uint32_t>(sizeof header + content.size());
  header.nlmsg_type = type;
  auto out = bytes_of(header) + content;
  out.resize((out.size() + 3) / 4 * 4);
  return out;
}

std::string attribute(int type, const std::string& content) {
  nlattr header{.nla_len = static_cast<std::uint16_t>(sizeof(nlattr) + content.size()),
                .nla_type = static_cast<std::uint16_t>(type)};
  auto out = bytes_of(header) + content;
  out.resize((out.size() + 3) / 4 * 4);
  return out;
}

void expect_only_a_loss(const TaskNews& news) {
  EXPECT_TRUE(news.lost);
  EXPECT_TRUE(news.events.empty());
}

void expect_nothing(const TaskNews& news) {
  EXPECT_FALSE(news.lost);
  EXPECT_TRUE(news.events.empty());
}

// A process begins, runs a program, and ends.
void expect_a_life(const TaskNews& news) {
  EXPECT_FALSE(news.lost);
  ASSERT_EQ(news.events.size(), 3U);
  EXPECT_EQ(news.events[0].kind, Kind::kFork);
  EXPECT_EQ(news.events[1].kind, Kind::kExec);
  EXPECT_EQ(news.events[2].kind, Kind::kExit);
}

template <class Decoder, auto number>
class DecoderTest : public testing::Test {
 protected:
  TaskNews decode(const std::string& datagram) {
    TaskNews news;
    decoder_.decode(std::as_bytes(std::span(datagram)), news);
    return news;
  }
  // Each cut is in memory of its own, so that a sanitizer sees a byte too many.
  static void expect_any_cut_is_a_loss(const std::string& whole) {
    for (std::size_t length = 1; length < whole.size(); ++length) {
      SCOPED_TRACE(length);
      std::vector<char> cut(whole.begin(), whole.begin() + static_cast<std::ptrdiff_t>(length));
      TaskNews news;
      Decoder(number).decode(std::as_bytes(std::span(cut)), news);
      expect_only_a_loss(news);
    }
  }
  Decoder decoder_{number};
};

// ------------------------------------------------------------------- the module's

struct ModuleEvent {
  std::uint64_t sequence = 0;
  std::uint32_t type = GESTALT_EVENT_FORK;
  std::array<std::uint32_t, 2> pids = {1234, 7};
  std::array<std::uint32_t, 2> tgids = {1234, 7};
  std::uint32_t flags = 0;
};

std::string packed(const ModuleEvent& event) {
  gestalt_event info{};
  info.sequence = event.sequence;
  info.type = event.type;
  info.flags = event.flags;
  info.pidns_inum = 99;
  return attribute(GESTALT_A_EVENT | NLA_F_NESTED,
                   attribute(GESTALT_EVENT_A_INFO, bytes_of(info)) +
                       attribute(GESTALT_EVENT_A_PIDS, bytes_of(event.pids)) +
                       attribute(GESTALT_EVENT_A_TGIDS, bytes_of(event.tgids)));
}

std::string module_message(const std::string& events, std::uint16_t family = kFamily,
                           std::uint8_t command = GESTALT_CMD_EVENTS) {
  return message(family,
                 bytes_of(genlmsghdr{.cmd = command, .version = 1, .reserved = 0}) + events);
}

using ModuleEventDecoderTest = DecoderTest<ModuleEventDecoder, kFamily>;

TEST_F(ModuleEventDecoderTest, TellsWhatHappenedInOrder) {
  auto news = decode(module_message(
      packed({.sequence = 5}) + packed({.sequence = 6, .type = GESTALT_EVENT_EXEC}) +
      packed({.sequence = 7, .type = GESTALT_EVENT_EXIT, .flags = GESTALT_EVENT_F_LAST})));
  expect_a_life(news);
  for (const auto& event : news.events) {
    EXPECT_EQ(event.pid, 1234);
    EXPECT_EQ(event.namespace_inode, 99U);
    EXPECT_EQ(event.namespace_level, 1U);
  }
}

TEST_F(ModuleEventDecoderTest, ThreadsAndSlicesAreLeftOut) {
  auto news = decode(module_message(packed({.sequence = 5, .pids = {1235, 8}}) +
                                    packed({.sequence = 6, .type = GESTALT_EVENT_EXIT}) +
                                    packed({.sequence = 7, .type = GESTALT_EVENT_SLICE_REWOUND})));
  expect_nothing(news);
}

TEST_F(ModuleEventDecoderTest, AGapIsALoss) {
  EXPECT_FALSE(decode(module_message(packed({.sequence = 5}))).lost);
  EXPECT_FALSE(decode(module_message(packed({.sequence = 6}))).lost);
  EXPECT_TRUE(decode(module_message(packed({.sequence = 8}))).lost);
  EXPECT_FALSE(decode(module_message(packed({.sequence = 9}))).lost);
}

TEST_F(ModuleEventDecoderTest, AResyncIsALoss) {
  EXPECT_TRUE(decode(module_message(packed({.sequence = 5, .type = GESTALT_EVENT_RESYNC}))).lost);
}

TEST_F(ModuleEventDecoderTest, OtherMessagesAreNoBusinessOfOurs) {
  expect_nothing(decode(module_message(packed({.sequence = 5}), kFamily + 1)));
  expect_nothing(decode(module_message(packed({.sequence = 5}), kFamily, GESTALT_CMD_STATUS)));
}

TEST_F(ModuleEventDecoderTest, WhatIsCutOffIsALoss) {
  expect_any_cut_is_a_loss(module_message(packed({.sequence = 5})));
}

// An event's attribute that says it is longer than the event.
TEST_F(ModuleEventDecoderTest, AWrongLengthIsALoss) {
  auto event = packed({.sequence = 5});
  event[2 * sizeof(nlattr) - 4] = 0x7f;
  event[2 * sizeof(nlattr) - 3] = 0x7f;
  expect_only_a_loss(decode(module_message(event)));
}

// ---------------------------------------------------------------- the connector's

std::string connector_message(const proc_event& event, std::uint32_t sequence,
                              std::uint32_t acknowledged = 0, std::uint32_t index = CN_IDX_PROC) {
  cn_msg header{};
  header.id.idx = index;
  header.id.val = CN_VAL_PROC;
  header.seq = sequence;
  header.ack = acknowledged;
  header.len = sizeof event;
  return message(NLMSG_DONE, bytes_of(header) + bytes_of(event));
}

proc_event fork_of(pid_t child, pid_t process, std::uint32_t cpu = 0) {
  proc_event event{};
  event.what = PROC_EVENT_FORK;
  event.cpu = cpu;
  event.event_data.fork.child_pid = child;
  event.event_data.fork.child_tgid = process;
  return event;
}

proc_event exec_of(pid_t pid) {
  proc_event event{};
  event.what = PROC_EVENT_EXEC;
  event.event_data.exec.process_pid = pid;
  event.event_data.exec.process_tgid = pid;
  return event;
}

proc_event exit_of(pid_t task, pid_t process) {
  proc_event event{};
  event.what = PROC_EVENT_EXIT;
  event.event_data.exit.process_pid = task;
  event.event_data.exit.process_tgid = process;
  return event;
}

using ConnectorDecoderTest = DecoderTest<ConnectorDecoder, kQuestion>;

TEST_F(ConnectorDecoderTest, TellsWhatHappenedInOrder) {
  auto news = decode(connector_message(fork_of(40, 40), 1) + connector_message(exec_of(40), 2) +
                     connector_message(exit_of(40, 40), 3));
  expect_a_life(news);
  for (const auto& event : news.events) {
    EXPECT_EQ(event.pid, 40);
    EXPECT_EQ(event.namespace_inode, 0U);
  }
}

TEST_F(ConnectorDecoderTest, ThreadsAreLeftOut) {
  auto news = decode(connector_message(fork_of(41, 40), 1) + connector_message(exit_of(41, 40), 2));
  expect_nothing(news);
}

TEST_F(ConnectorDecoderTest, EachCpuCountsItsOwn) {
  EXPECT_FALSE(decode(connector_message(fork_of(40, 40, 0), 100)).lost);
  EXPECT_FALSE(decode(connector_message(fork_of(41, 41, 1), 7)).lost);
  EXPECT_FALSE(decode(connector_message(fork_of(42, 42, 0), 101)).lost);
  EXPECT_TRUE(decode(connector_message(fork_of(43, 43, 1), 9)).lost);
  EXPECT_FALSE(decode(connector_message(fork_of(44, 44, 1), 10)).lost);
}

TEST_F(ConnectorDecoderTest, TheCountComesRound) {
  EXPECT_FALSE(decode(connector_message(fork_of(40, 40), 0xffffffff)).lost);
  EXPECT_FALSE(decode(connector_message(fork_of(41, 41), 0)).lost);
}

TEST_F(ConnectorDecoderTest, OnlyTheAnswerToOurQuestionCounts) {
  proc_event answer{};
  answer.what = PROC_EVENT_NONE;
  answer.event_data.ack.err = EPERM;
  (void)decode(connector_message(answer, 1, kQuestion));
  EXPECT_FALSE(decoder_.answer());
  (void)decode(connector_message(answer, 2, kQuestion + 1));
  EXPECT_EQ(decoder_.answer(), EPERM);
}

TEST_F(ConnectorDecoderTest, OtherConnectorsAreNoBusinessOfOurs) {
  auto news = decode(connector_message(fork_of(40, 40), 1, 0, CN_IDX_PROC + 1));
  expect_nothing(news);
}

TEST_F(ConnectorDecoderTest, WhatIsCutOffIsALoss) {
  expect_any_cut_is_a_loss(connector_message(fork_of(40, 40), 1));
}

// The netlink header is right, the connector's says more than there is, or too little for a fork.
TEST_F(ConnectorDecoderTest, AWrongLengthIsALoss) {
  for (std::uint16_t length : std::array<std::uint16_t, 4>{0, 1, 20, 0xffff}) {
    auto datagram = connector_message(fork_of(40, 40), 1);
    std::memcpy(datagram.data() + sizeof(nlmsghdr) + offsetof(cn_msg, len), &length, sizeof length);
    SCOPED_TRACE(length);
    expect_only_a_loss(decode(datagram));
  }
}

// ------------------------------------------------------------------------- both

TEST(KernelMessages, WhatOthersSendIsNotTheKernels) {
  Fd receiver(::socket(AF_NETLINK, SOCK_DGRAM | SOCK_CLOEXEC, NETLINK_USERSOCK));
  Fd sender(::socket(AF_NETLINK, SOCK_DGRAM | SOCK_CLOEXEC, NETLINK_USERSOCK));
  if (!receiver || !sender) GTEST_SKIP() << "no netlink between programs here";
  sockaddr_nl address{};
  address.nl_family = AF_NETLINK;
  ASSERT_EQ(::bind(receiver.get(), reinterpret_cast<sockaddr*>(&address), sizeof address), 0);
  socklen_t size = sizeof address;
  ASSERT_EQ(::getsockname(receiver.get(), reinterpret_cast<sockaddr*>(&address), &size), 0);
  auto forged = connector_message(fork_of(40, 40), 1);
  ASSERT_EQ(::sendto(sender.get(), forged.data(), forged.size(), 0,
                     reinterpret_cast<sockaddr*>(&address), sizeof address),
            static_cast<ssize_t>(forged.size()));
  std::array<std::byte, 4096> buffer{};
  auto first = receive_from_kernel(receiver.get(), buffer);
  ASSERT_TRUE(first) << first.error().text();
  EXPECT_EQ(first->what, Datagram::What::kOther);
  auto second = receive_from_kernel(receiver.get(), buffer);
  ASSERT_TRUE(second) << second.error().text();
  EXPECT_EQ(second->what, Datagram::What::kNothing);
}

TEST(TaskNews, ConcernsANamespaceAndWhatMayBeBelowIt) {
  PidNamespace cluster{.inode = 50, .level = 1};
  auto news = [](std::uint32_t inode, std::uint32_t level) {
    return TaskNews{.events = {{.kind = Kind::kFork,
                                .pid = 9,
                                .namespace_inode = inode,
                                .namespace_level = level}},
                    .lost = false};
  };
  EXPECT_TRUE(concerns(news(50, 1), cluster));
  EXPECT_TRUE(concerns(news(51, 2), cluster));
  EXPECT_FALSE(concerns(news(52, 1), cluster));
  EXPECT_FALSE(concerns(news(53, 0), cluster));
  EXPECT_TRUE(concerns(news(0, 0), cluster)) << "not known where";
  EXPECT_TRUE(concerns(news(53, 0), {})) << "not known which";
  EXPECT_FALSE(concerns({}, cluster));
  EXPECT_TRUE(concerns({.events = {}, .lost = true}, cluster));
}

}  // namespace
}  // namespace gestalt
