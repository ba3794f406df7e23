#include "cli/output_pump.h"

#include <gtest/gtest.h>
#include <unistd.h>

namespace gestalt::cli {
namespace {

class OutputPumps : public testing::Test {
 protected:
  OutputPumps()
      : pipe_(*make_pipe()),
        pump_(
            loop_, LocalStream(pipe_.write.get(), LocalStream::Direction::kWrite),
            [this](std::uint64_t offset, bool) { acknowledged_ = offset; }, [] {},
            [this] { ++asked_; }) {
    EXPECT_TRUE(set_nonblocking(pipe_.read.get(), true));
  }

  void feed(std::string_view text) {
    ASSERT_TRUE(pump_.accept(offset_, text, false));
    offset_ += text.size();
  }
  std::string written() {
    std::string out(65536, '\0');
    auto count = ::read(pipe_.read.get(), out.data(), out.size());
    return out.substr(0, count > 0 ? static_cast<std::size_t>(count) : 0);
  }

  EventLoop loop_;
  Pipe pipe_;
  std::uint64_t acknowledged_ = 0;
  std::uint64_t offset_ = 0;
  int asked_ = 0;
  OutputPump pump_;
};

TEST_F(OutputPumps, DropReturnsBeforeTheEndsOfLines) {
  bool drops = true;
  pump_.drop_returns([&] { return drops; });
  const std::string text = "one\r\n\r\ntwo\rthree\r\r\nfour\n\r\n";
  feed(text);
  EXPECT_EQ(written(), "one\n\ntwo\rthree\r\nfour\n\n");
  EXPECT_EQ(acknowledged_, text.size());
  for (char c : text) feed({&c, 1});
  EXPECT_EQ(written(), "one\n\ntwo\rthree\r\nfour\n\n") << "however it comes in pieces";
  drops = false;
  feed("five\r\n");
  EXPECT_EQ(written(), "five\r\n");
}

TEST_F(OutputPumps, AReturnAtTheEndIsNotLost) {
  pump_.drop_returns([] { return true; });
  feed("50%\r");
  EXPECT_EQ(written(), "50%");
  EXPECT_FALSE(pump_.is_drained());
  ASSERT_TRUE(pump_.accept(offset_, "", true));
  EXPECT_EQ(written(), "\r");
  EXPECT_TRUE(pump_.is_drained());
}

TEST_F(OutputPumps, AskOnceForAConnectionWhenMuchHasPassed) {
  std::string block(32'768, 'x');
  for (std::size_t i = 0; i < 2 * kDirectAfterBytes / block.size() - 1; ++i) {
    feed(block);
    EXPECT_EQ(written().size(), block.size());
    EXPECT_EQ(asked_, offset_ >= kDirectAfterBytes ? 1 : 0);
  }
}

// Another deputy goes on where one has stopped.
TEST_F(OutputPumps, PausedItWritesNothingAndKnowsWhereItIs) {
  feed("abc");
  pump_.pause(true);
  feed("def");
  EXPECT_EQ(pump_.consumed_offset(), 3U);
  EXPECT_EQ(written(), "abc");
  pump_.restore(3);
  pump_.pause(false);
  ASSERT_TRUE(pump_.accept(0, "abcdefg", false));
  EXPECT_EQ(written(), "defg");
}

}  // namespace
}  // namespace gestalt::cli
