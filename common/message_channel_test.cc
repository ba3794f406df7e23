#include "common/message_channel.h"

#include <gtest/gtest.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <array>
#include <memory>
#include <vector>

namespace gestalt {
namespace {

wire::Message goodbye(const std::string& reason) {
  wire::Message message;
  message.mutable_goodbye()->set_reason(reason);
  return message;
}

class Channel : public testing::Test {
 protected:
  void SetUp() override {
    int ends[2];
    ASSERT_EQ(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends), 0);
    peer_ = Fd(ends[1]);
    channel_ = std::make_unique<MessageChannel>(
        loop_, Fd(ends[0]), [this](wire::Message m) { on_message(std::move(m)); },
        [this](const Error& error) { closed_.push_back(error), loop_.stop(); });
    (void)loop_.after(std::chrono::seconds(5), [this] {
      ADD_FAILURE() << "the loop did not end";
      loop_.stop();
    });
  }
  void on_message(wire::Message message) {
    messages_.push_back(std::move(message));
    if (messages_.size() == stop_after_) loop_.stop();
  }
  void raw(std::string_view bytes) {
    ASSERT_TRUE(write_all(peer_.get(), std::as_bytes(std::span(bytes)),
                          deadline_in(std::chrono::seconds(5))));
  }
  // What the channel sent, read by the peer.
  wire::Message received() {
    FrameDecoder decoder;
    while (true) {
      auto message = decoder.next();
      if (message && *message) return **message;
      std::byte b{};
      if (!message ||
          !read_exact(peer_.get(), std::span(&b, 1), deadline_in(std::chrono::seconds(1))))
        return wire::Message{};
      decoder.append(std::span(&b, 1));
    }
  }
  void stop_soon(int after_milliseconds = 20) {
    (void)loop_.after(milliseconds(after_milliseconds), [this] { loop_.stop(); });
  }

  EventLoop loop_;
  Fd peer_;
  std::unique_ptr<MessageChannel> channel_;
  std::vector<wire::Message> messages_;
  std::vector<Error> closed_;
  std::size_t stop_after_ = 0;
};

TEST_F(Channel, PartialFrames) {
  auto frame = *encode_frame(goodbye("one")) + *encode_frame(goodbye("two"));
  for (std::size_t i = 0; i < frame.size(); ++i)
    (void)loop_.after(milliseconds(i / 4), [this, c = frame[i]] { raw(std::string_view(&c, 1)); });
  stop_after_ = 2;
  loop_.run();
  ASSERT_EQ(messages_.size(), 2U);
  EXPECT_EQ(messages_[1].goodbye().reason(), "two");
  EXPECT_TRUE(closed_.empty());
}

TEST_F(Channel, ClosedOnceWhenThePeerGoes) {
  raw(*encode_frame(goodbye("last")));
  peer_.reset();
  loop_.run();
  EXPECT_EQ(messages_.size(), 1U) << "what came before the end is delivered";
  ASSERT_EQ(closed_.size(), 1U);
  EXPECT_EQ(closed_[0].code, ErrorCode::kUnavailable);
  EXPECT_FALSE(channel_->open());
  EXPECT_FALSE(channel_->send(goodbye("x")));
}

TEST_F(Channel, NonsenseCloses) {
  raw(std::string("\xff\xff\xff\xff", 4));
  loop_.run();
  ASSERT_EQ(closed_.size(), 1U);
  EXPECT_EQ(closed_[0].code, ErrorCode::kProtocol);
}

TEST_F(Channel, RequestAndReply) {
  std::string got;
  channel_->request(goodbye("ask"), std::chrono::seconds(4), [&](Result<wire::Message> reply) {
    got = reply ? reply->goodbye().reason() : reply.error().text();
    loop_.stop();
  });
  auto asked = received();
  EXPECT_NE(asked.request_id(), 0U);
  auto reply = goodbye("answer");
  reply.set_is_reply(true);
  reply.set_request_id(asked.request_id());
  raw(*encode_frame(reply) + *encode_frame(reply));  // the second is too late
  loop_.run();
  EXPECT_EQ(got, "answer");
  EXPECT_TRUE(messages_.empty());
}

TEST_F(Channel, ErrorReply) {
  Error got;
  channel_->request(goodbye("ask"), std::chrono::seconds(4), [&](Result<wire::Message> reply) {
    got = reply.error();
    loop_.stop();
  });
  raw(*encode_frame(error_reply(received().request_id(), Error{ErrorCode::kBusy, "m", "r"})));
  loop_.run();
  EXPECT_EQ(got.code, ErrorCode::kBusy);
  EXPECT_EQ(got.text(), "m (r)");
}

TEST_F(Channel, TimeoutAndLateReply) {
  int calls = 0;
  Error got;
  channel_->request(goodbye("ask"), milliseconds(10), [&](Result<wire::Message> reply) {
    ++calls;
    got = reply.error();
  });
  auto asked = received();
  stop_soon(40);
  loop_.run();
  EXPECT_EQ(got.code, ErrorCode::kTimeout);
  EXPECT_EQ(calls, 1);
}

TEST_F(Channel, ClosingAnswersAllRequests) {
  int calls = 0;
  for (int i = 0; i < 3; ++i)
    channel_->request(goodbye("ask"), std::chrono::seconds(4), [&](Result<wire::Message> reply) {
      EXPECT_EQ(reply.error().code, ErrorCode::kUnavailable);
      EXPECT_TRUE(closed_.empty()) << "requests are answered first";
      ++calls;
    });
  peer_.reset();
  loop_.run();
  EXPECT_EQ(calls, 3);
  EXPECT_EQ(closed_.size(), 1U);
  bool answered = false;
  channel_->request(goodbye("x"), std::chrono::seconds(4),
                    [&](const Result<wire::Message>& reply) { answered = !reply; });
  EXPECT_FALSE(answered) << "never from within request()";
}

TEST_F(Channel, LargeMessagesAreQueued) {
  std::string big(3 << 20, 'x');
  for (int i = 0; i < 3; ++i) ASSERT_TRUE(channel_->send(goodbye(big)));
  EXPECT_GT(channel_->queued_bytes(), 0U);
  EXPECT_FALSE(channel_->send(goodbye(std::string(kMaxFrameBytes, 'x'))));
  FrameDecoder decoder;
  int seen = 0;
  loop_.watch(peer_.get(), EPOLLIN, [&](std::uint32_t) {
    static std::array<std::byte, 1 << 16> buffer;
    auto count = ::read(peer_.get(), buffer.data(), buffer.size());
    ASSERT_GT(count, 0);
    decoder.append(std::span(buffer).first(static_cast<std::size_t>(count)));
    while (true) {
      auto message = decoder.next();
      ASSERT_TRUE(message);
      if (!*message) break;
      EXPECT_EQ((*message)->goodbye().reason().size(), big.size());
      if (++seen == 3) loop_.stop();
    }
  });
  loop_.run();
  EXPECT_EQ(seen, 3);
  EXPECT_EQ(channel_->queued_bytes(), 0U);
}

TEST_F(Channel, ItsHandlersMayDestroyIt) {
  // A big capture, so that a closure that is freed while it runs shows under ASan.
  auto remake = [&](auto destroy_in_message) {
    int ends[2];
    ASSERT_EQ(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends), 0);
    peer_ = Fd(ends[1]);
    std::string text(100, 't');
    channel_ = std::make_unique<MessageChannel>(
        loop_, Fd(ends[0]),
        [this, text, destroy_in_message](const wire::Message& m) {
          if (destroy_in_message) channel_.reset();
          messages_.push_back(m);
          EXPECT_EQ(text.size(), 100U);
          EXPECT_EQ(text[99], 't');
        },
        [this, text](const Error&) {
          channel_.reset();
          EXPECT_EQ(text[99], 't');
          loop_.stop();
        });
  };
  remake(true);
  raw(*encode_frame(goodbye("one")) + *encode_frame(goodbye("two")));
  (void)loop_.after(milliseconds(20), [&] {
    EXPECT_EQ(messages_.size(), 1U);
    remake(false);
    peer_.reset();
  });
  loop_.run();
  EXPECT_EQ(channel_, nullptr);
}

TEST_F(Channel, UnauthenticatedLimit) {
  int ends[2];
  ASSERT_EQ(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends), 0);
  Fd other(ends[1]);
  MessageChannel small(
      loop_, Fd(ends[0]), [](const wire::Message&) { ADD_FAILURE(); },
      [this](const Error& error) { closed_.push_back(error), loop_.stop(); }, 100);
  auto frame = *encode_frame(goodbye(std::string(200, 'x')));
  ASSERT_TRUE(
      write_all(other.get(), std::as_bytes(std::span(frame)), deadline_in(milliseconds(99))));
  loop_.run();
  ASSERT_EQ(closed_.size(), 1U);
  EXPECT_EQ(closed_[0].code, ErrorCode::kProtocol);
}

}  // namespace
}  // namespace gestalt
