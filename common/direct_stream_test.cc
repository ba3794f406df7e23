#include "common/direct_stream.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/socket.h>
#include <unistd.h>

#include <csignal>
#include <optional>
#include <random>

#include "common/direct_link.h"

namespace gestalt {
namespace {

std::string random_text(std::size_t bytes) {
  std::minstd_rand random(7);
  std::string text(bytes, '\0');
  for (char& c : text) c = static_cast<char>(random());
  return text;
}

// Everything is done by the loop, in one thread: neither end ever waits.
class DirectStream : public testing::Test {
 protected:
  void SetUp() override {
    ::signal(SIGPIPE, SIG_IGN);
    source_ = *make_pipe();
    sink_ = *make_pipe();
    for (int fd : {source_.read.get(), source_.write.get(), sink_.read.get(), sink_.write.get()})
      ASSERT_TRUE(set_nonblocking(fd, true));
    connect();
  }

  // As the daemons would pass the offer on.
  void connect() {
    wire::StdioDirectOffer offer;
    offer.set_address("127.0.0.1");
    std::optional<Result<Fd>> one;
    std::optional<Result<Fd>> other;
    auto listener = DirectLink::listen(loop_, offer, [&](Result<Fd> fd) { one = std::move(fd); });
    ASSERT_TRUE(listener) << listener.error().text();
    auto client = DirectLink::connect(loop_, offer, [&](Result<Fd> fd) { other = std::move(fd); });
    ASSERT_TRUE(client) << client.error().text();
    run_until([&] { return one && other; });
    ASSERT_TRUE(*one && *other);
    ends_ = {std::move(**one), std::move(**other)};
  }

  void run_until(const std::function<bool()>& done) {
    auto deadline = deadline_in(std::chrono::seconds(20));
    std::function<void()> look = [&] {
      if (done() || Clock::now() > deadline) return loop_.stop();
      (void)loop_.after(milliseconds(1), look);
    };
    look();
    if (!done()) loop_.run();
    ASSERT_TRUE(done());
  }

  void start(std::uint64_t offset = 0) {
    auto sender = DirectSender::create(loop_, std::move(ends_[0]), source_.read.get(), offset,
                                       [this] { sender_ended_ = true; });
    ASSERT_TRUE(sender) << sender.error().text();
    sender_ = std::move(*sender);
    receive(offset);
  }

  void receive(std::uint64_t expected) {
    receiver_ = std::make_unique<DirectReceiver>(
        loop_, std::move(ends_[1]), sink_.write.get(),
        DirectReceiver::Handlers{
            .starts_at = [expected](std::uint64_t offset) { return offset == expected; },
            .on_end = [this](bool closed) { receiver_closed_ = closed; }});
  }

  // What fits into the pipe; of `text`, from written_ on.
  void feed(const std::string& text, std::size_t most = 50'000) {
    auto count = ::write(source_.write.get(), text.data() + written_,
                         std::min(most, text.size() - written_));
    if (count > 0) written_ += static_cast<std::size_t>(count);
  }
  void drain(std::size_t most = 65'536) {
    std::string buffer(most, '\0');
    auto count = ::read(sink_.read.get(), buffer.data(), buffer.size());
    if (count > 0) got_.append(buffer, 0, static_cast<std::size_t>(count));
  }

  EventLoop loop_;
  Pipe source_;
  Pipe sink_;
  std::array<Fd, 2> ends_;
  std::unique_ptr<DirectSender> sender_;
  std::unique_ptr<DirectReceiver> receiver_;
  bool sender_ended_ = false;
  std::optional<bool> receiver_closed_;
  std::size_t written_ = 0;
  std::string got_;
};

TEST_F(DirectStream, BringsAllToTheEnd) {
  auto text = random_text(3'000'000);
  start();
  run_until([&] {
    feed(text);
    if (written_ == text.size()) source_.write.reset();
    drain();
    return sender_ended_;
  });
  drain();
  drain();
  EXPECT_TRUE(got_ == text);
  auto rest = sender_->stop();
  EXPECT_EQ(rest.base_offset, text.size());
  EXPECT_EQ(rest.pending, "");
  EXPECT_TRUE(rest.eof);
  EXPECT_EQ(receiver_->offset(), text.size());
  EXPECT_FALSE(receiver_closed_) << "the connection is still there";
}

TEST_F(DirectStream, GoesOnFromAnOffset) {
  start(1ULL << 40);
  feed("hello");
  run_until([&] { return receiver_->offset() == (1ULL << 40) + 5; });
  drain();
  EXPECT_EQ(got_, "hello");
}

// Bytes in the pipe, on the way, in the socket and in the window: each is found once.
TEST_F(DirectStream, NothingIsLostWhereverItEnds) {
  auto text = random_text(600'000);
  for (std::size_t stop_at = 1; stop_at < text.size(); stop_at += 37'777) {
    SetUp();
    written_ = 0;
    got_.clear();
    start();
    run_until([&] {
      feed(text, 9'000);
      if (got_.size() < stop_at) drain(5'000);
      return got_.size() >= stop_at || written_ == text.size();
    });
    auto consumed = receiver_->offset();
    receiver_.reset();
    auto rest = sender_->stop();
    sender_.reset();
    ASSERT_LE(rest.base_offset, consumed);
    ASSERT_LE(consumed - rest.base_offset, rest.pending.size());
    for (std::size_t before = got_.size() + 1; before != got_.size(); drain()) before = got_.size();
    ASSERT_EQ(got_.size(), consumed);
    got_ += rest.pending.substr(static_cast<std::size_t>(consumed - rest.base_offset));
    std::string left(1U << 20, '\0');
    auto count = ::read(source_.read.get(), left.data(), left.size());
    if (count > 0) got_.append(left, 0, static_cast<std::size_t>(count));
    ASSERT_TRUE(got_ == text.substr(0, written_)) << stop_at;
  }
}

TEST_F(DirectStream, ASlowReaderStopsTheWriter) {
  auto text = random_text(4'000'000);
  start();
  std::size_t before = 0;
  int quiet = 0;
  run_until([&] {
    feed(text);
    quiet = written_ == before ? quiet + 1 : 0;
    before = written_;
    return quiet > 50;
  });
  EXPECT_LT(written_, 1'000'000U) << "two pipes, a window, and what lies between";
  run_until([&] {
    feed(text);
    drain();
    return got_.size() == text.size();
  });
  EXPECT_TRUE(got_ == text);
}

TEST_F(DirectStream, ManySmallPieces) {
  std::string text(4'000, 'x');
  // Each in a buffer of its own: there are fewer of them than bytes in a window.
  ASSERT_EQ(::fcntl(source_.write.get(), F_SETFL, O_NONBLOCK | O_DIRECT), 0);
  start();
  run_until([&] {
    for (int i = 0; i < 16; ++i) feed(text, 1);
    drain();
    return got_.size() == text.size();
  });
}

TEST_F(DirectStream, TakesNothingWhileItIsNotToRead) {
  start();
  sender_->set_reading(false);
  feed("abc");
  int rounds = 0;
  run_until([&] { return ++rounds > 20; });
  EXPECT_EQ(receiver_->offset(), 0U);
  sender_->set_reading(true);
  run_until([&] { return receiver_->offset() == 3; });
}

TEST_F(DirectStream, TheReaderIsGone) {
  start();
  sink_.read.reset();
  feed("abc");
  run_until([&] { return receiver_closed_.has_value(); });
  EXPECT_TRUE(*receiver_closed_);
  receiver_.reset();
  run_until([&] { return sender_ended_; });
  EXPECT_EQ(sender_->stop().pending, "abc");
}

TEST_F(DirectStream, AnotherOffsetThanExpected) {
  auto sender = DirectSender::create(loop_, std::move(ends_[0]), source_.read.get(), 5, [] {});
  ASSERT_TRUE(sender);
  receive(6);
  run_until([&] { return receiver_closed_.has_value(); });
  EXPECT_FALSE(receiver_->started());
}

TEST_F(DirectStream, AcknowledgementsThatMakeNoSense) {
  for (std::uint64_t offset : {std::uint64_t{4}, ~std::uint64_t{0}}) {
    SetUp();
    sender_ended_ = false;
    auto sender = DirectSender::create(loop_, std::move(ends_[0]), source_.read.get(), 0,
                                       [this] { sender_ended_ = true; });
    ASSERT_TRUE(sender);
    feed("abc");
    run_until([&] {
      char buffer[64];
      return ::recv(ends_[1].get(), buffer, sizeof buffer, MSG_DONTWAIT | MSG_PEEK) == 8 + 3;
    });
    std::uint64_t wire = htobe64(offset);
    ASSERT_EQ(::send(ends_[1].get(), &wire, sizeof wire, 0), 8);
    run_until([&] { return sender_ended_; });
    auto rest = (*sender)->stop();
    EXPECT_EQ(rest.base_offset, 0U);
    EXPECT_EQ(rest.pending, "abc");
    written_ = 0;
  }
}

class DirectLinks : public testing::Test {
 protected:
  void offer() {
    offer_.set_address("127.0.0.1");
    auto listener =
        DirectLink::listen(loop_, offer_, [this](Result<Fd> outcome) { end(std::move(outcome)); });
    ASSERT_TRUE(listener) << listener.error().text();
    listener_ = std::move(*listener);
  }
  void end(Result<Fd> outcome) {
    outcome_ = std::move(outcome);
    loop_.stop();
  }
  EventLoop loop_;
  wire::StdioDirectOffer offer_;
  std::unique_ptr<DirectLink> listener_;
  std::optional<Result<Fd>> outcome_;
};

TEST_F(DirectLinks, AWrongWord) {
  offer();
  offer_.mutable_client_word()->at(31) ^= 1;
  auto client = DirectLink::connect(loop_, offer_, [](const Result<Fd>&) {});
  ASSERT_TRUE(client);
  loop_.run();
  ASSERT_TRUE(outcome_);
  EXPECT_EQ(outcome_->error().code, ErrorCode::kPermission);
}

TEST_F(DirectLinks, AnotherThanTheJobListens) {
  offer();
  offer_.mutable_job_word()->at(0) ^= 1;
  auto client =
      DirectLink::connect(loop_, offer_, [this](Result<Fd> outcome) { end(std::move(outcome)); });
  ASSERT_TRUE(client);
  loop_.run();
  if (*outcome_) loop_.run();  // the listener was content, and heard of first
  EXPECT_EQ(outcome_->error().code, ErrorCode::kPermission);
}

TEST_F(DirectLinks, NobodyListens) {
  offer();
  listener_.reset();
  auto client =
      DirectLink::connect(loop_, offer_, [this](Result<Fd> outcome) { end(std::move(outcome)); });
  if (client) {
    loop_.run();
    EXPECT_FALSE(*outcome_);
  }
}

TEST_F(DirectLinks, OffersThatMakeNoSense) {
  auto refused = [this](const wire::StdioDirectOffer& offer) {
    return !DirectLink::connect(loop_, offer, [](const Result<Fd>&) {});
  };
  offer();
  auto changed = offer_;
  changed.set_client_word("short");
  EXPECT_TRUE(refused(changed));
  changed = offer_;
  changed.set_address("example.org");
  EXPECT_TRUE(refused(changed));
  changed = offer_;
  changed.set_port(65536 + offer_.port());
  EXPECT_TRUE(refused(changed));
  changed.set_port(0);
  EXPECT_TRUE(refused(changed));
  changed.set_address("192.0.2.1");
  EXPECT_FALSE(DirectLink::listen(loop_, changed, [](const Result<Fd>&) {}));
}

}  // namespace
}  // namespace gestalt
