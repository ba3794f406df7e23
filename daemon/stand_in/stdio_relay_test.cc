// The relay between a job's pipes (whose other ends the test holds) and a client (the
// messages that it sends), also across a hand-over to a second relay.

#include "daemon/stand_in/stdio_relay.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <deque>

#include "common/format.h"
#include "daemon/stand_in/job_launcher.h"

namespace gestalt {
namespace {

wire::Stdio pipes() {
  wire::Stdio stdio;
  stdio.set_in(wire::STDIO_PIPE);
  stdio.set_out(wire::STDIO_PIPE);
  stdio.set_err(wire::STDIO_PIPE);
  return stdio;
}

// A relay, its job's ends, and a client that acknowledges when told to.
class Side {
 public:
  explicit Side(EventLoop& loop)
      : relay(loop, 1, [this](const wire::Message& message) { sent.push_back(message); }) {}

  void take_ends() {
    for (auto [ours, number] : relay.job_descriptors())
      ends[static_cast<std::size_t>(number)] = std::move(*duplicate(ours));
  }
  void write(std::size_t end, const std::string& text) {
    ASSERT_EQ(::write(ends[end].get(), text.data(), text.size()),
              static_cast<ssize_t>(text.size()));
  }
  std::string read_input(std::size_t limit = 65536) {
    (void)set_nonblocking(ends[0].get(), true);
    std::string text(limit, '\0');
    ssize_t count = ::read(ends[0].get(), text.data(), limit);
    return text.substr(0, count > 0 ? static_cast<std::size_t>(count) : 0);
  }

  StdioRelay relay;
  std::deque<wire::Message> sent;
  std::array<Fd, 3> ends;
};

class Client {
 public:
  void take(Side& side) {
    for (auto& message : std::exchange(side.sent, {})) {
      if (!message.has_stdio_data()) continue;
      const auto& data = message.stdio_data();
      auto& receiver = streams.at(data.stream());
      auto done = receiver.accept(data.offset(), data.data(), data.eof());
      ASSERT_TRUE(done) << done.error().text();
      text[data.stream()] += receiver.pending();
      receiver.consume(receiver.pending().size());
    }
  }
  void acknowledge(Side& side, std::uint32_t stream, bool closed = false) {
    wire::StdioAck ack;
    ack.set_stream(stream);
    ack.set_offset(streams.at(stream).consumed_offset());
    ack.set_closed(closed);
    side.relay.on_ack(ack);
  }
  void type(Side& side, const std::string& input, bool eof = false) {
    wire::StdioData data;
    data.set_offset(typed);
    data.set_data(input);
    data.set_eof(eof);
    typed += input.size();
    side.relay.on_data(data);
  }
  std::array<StdioReceiver, 3> streams;
  std::array<std::string, 3> text;
  std::uint64_t typed = 0;
};

std::uint64_t inode(int fd) {
  struct stat info{};
  return ::fstat(fd, &info) == 0 ? info.st_ino : 0;
}

class StdioRelayTest : public ::testing::Test {
 protected:
  void spin(int rounds = 20) {
    for (int i = 0; i < rounds; ++i) {
      (void)loop.after(milliseconds(2), [this] { loop.stop(); });
      loop.run();
    }
  }
  void open(Side& side) {
    ASSERT_TRUE(side.relay.create(pipes(), ::getuid()));
    side.take_ends();
    side.relay.start();
  }
  EventLoop loop;
  Client client;
};

TEST_F(StdioRelayTest, RelaysAllThreeStreamsApart) {
  Side side(loop);
  open(side);
  side.write(1, "out");
  side.write(2, "err");
  client.type(side, "in");
  spin();
  client.take(side);
  EXPECT_EQ(client.text[1], "out");
  EXPECT_EQ(client.text[2], "err");
  EXPECT_EQ(side.read_input(), "in");
}

TEST_F(StdioRelayTest, StopsReadingWhenTheClientDoesNotAcknowledge) {
  Side side(loop);
  open(side);
  (void)set_nonblocking(side.ends[1].get(), true);
  std::string block(65536, 'x');
  std::size_t written = 0;
  for (int i = 0; i < 30; ++i) {
    ssize_t count = ::write(side.ends[1].get(), block.data(), block.size());
    if (count > 0) written += static_cast<std::size_t>(count);
    spin(1);
  }
  EXPECT_LE(written, kStdioWindowBytes + (128U << 10));
  client.take(side);
  client.acknowledge(side, 1);
  spin();
  EXPECT_GT(::write(side.ends[1].get(), block.data(), block.size()), 0);
}

TEST_F(StdioRelayTest, EndOfInputReachesTheJob) {
  Side side(loop);
  open(side);
  client.type(side, "last", true);
  spin();
  EXPECT_EQ(side.read_input(), "last");
  char byte = 0;
  EXPECT_EQ(::read(side.ends[0].get(), &byte, 1), 0);
}

TEST_F(StdioRelayTest, AReaderThatGoesAwayGivesTheJobEpipe) {
  Side side(loop);
  open(side);
  client.acknowledge(side, 1, true);
  (void)::signal(SIGPIPE, SIG_IGN);
  EXPECT_EQ(::write(side.ends[1].get(), "x", 1), -1);
  EXPECT_EQ(errno, EPIPE);
}

TEST_F(StdioRelayTest, FinishesWhenTheClientHasEverything) {
  Side side(loop);
  open(side);
  side.write(1, "tail");
  bool finished = false;
  for (auto& end : side.ends) end.reset();
  side.relay.finish([&] { finished = true; });
  spin();
  EXPECT_FALSE(finished);
  client.take(side);
  client.acknowledge(side, 1);
  client.acknowledge(side, 2);
  spin();
  EXPECT_TRUE(finished);
  EXPECT_EQ(client.text[1], "tail");
  EXPECT_TRUE(client.streams[1].eof());
}

// An orphan of the job keeps the pipe open: the job's end does not wait for it.
TEST_F(StdioRelayTest, FinishesAlthoughSomebodyHoldsThePipe) {
  Side side(loop);
  open(side);
  side.write(1, "before");
  bool finished = false;
  side.relay.finish([&] { finished = true; });
  spin();
  client.take(side);
  client.acknowledge(side, 1);
  client.acknowledge(side, 2);
  spin();
  EXPECT_TRUE(finished);
  EXPECT_EQ(client.text[1], "before");
}

TEST_F(StdioRelayTest, AHandOverLosesAndDoublesNothing) {
  Side source(loop);
  open(source);
  source.write(1, "one ");
  client.type(source, "read unread");
  spin();
  EXPECT_EQ(source.read_input(5), "read ");
  client.take(source);  // received, not acknowledged
  source.write(1, "two ");
  wire::HandOver hand_over;
  ASSERT_TRUE(source.relay.freeze({::getpid()}, hand_over));
  client.type(source, " late");  // reaches the old relay only: sent again at the resync

  Side destination(loop);
  auto plan = destination.relay.restore(hand_over);
  ASSERT_TRUE(plan) << plan.error().text();
  EXPECT_EQ(plan->inherited.size(), 3U);
  for (auto& [key, fd] : plan->inherited)
    for (std::size_t i = 0; i < 3; ++i)
      if (key == formatted("pipe:[{}]", inode(source.ends[i].get())))
        destination.ends[i] = std::move(*duplicate(fd));
  ASSERT_TRUE(destination.relay.before_resume(::getpid()));
  destination.relay.start();
  destination.relay.resync();
  destination.write(1, "three");
  wire::StdioData again;
  again.set_offset(11);
  again.set_data(" late");
  destination.relay.on_data(again);
  spin();
  client.take(destination);
  EXPECT_EQ(client.text[1], "one two three");
  EXPECT_EQ(destination.read_input(), "unread late");
}

TEST_F(StdioRelayTest, ThawGoesOnAsIfNothingHadBeen) {
  Side side(loop);
  open(side);
  side.write(1, "a");
  client.type(side, "input");
  spin();
  wire::HandOver hand_over;
  ASSERT_TRUE(side.relay.freeze({::getpid()}, hand_over));
  EXPECT_EQ(hand_over.input().unread(), "input");
  side.write(1, "b");
  side.relay.thaw();
  spin();
  client.take(side);
  EXPECT_EQ(client.text[1], "ab");
  EXPECT_EQ(side.read_input(), "input");
}

TEST(ProgramCandidates, AreWhatExecvpWouldTry) {
  EXPECT_EQ(program_candidates("ls", {"PATH=/a:/b"}), (std::vector<std::string>{"/a/ls", "/b/ls"}));
  EXPECT_EQ(program_candidates("./ls", {"PATH=/a"}), (std::vector<std::string>{"./ls"}));
  EXPECT_EQ(program_candidates("ls", {"PATH=:/b"}), (std::vector<std::string>{"./ls", "/b/ls"}));
  EXPECT_EQ(program_candidates("ls", {}).front(), "/usr/local/bin/ls");
}

}  // namespace
}  // namespace gestalt
