#include "daemon/connection.h"

#include <gtest/gtest.h>

#include <boost/asio/local/connect_pair.hpp>

namespace gestalt {
namespace {

using std::chrono::milliseconds;

// Two ends of a local socket on one io_context.
class Connections : public testing::Test {
 protected:
  void SetUp() override {
    LocalSocket one(context_);
    LocalSocket two(context_);
    asio::local::connect_pair(one, two);
    a_ = make_connection(std::move(one), "b");
    b_ = make_connection(std::move(two), "a");
  }
  void start() {
    a_->start([this](wire::Message message) { at_a_.push_back(std::move(message)); },
              [this](const Error& reason) { a_closed_ = reason; });
    b_->start(
        [this](wire::Message message) {
          if (answers_ && message.request_id() != 0) b_->reply(message.request_id(), answer_);
          at_b_.push_back(std::move(message));
        },
        [this](const Error& reason) { b_closed_ = reason; });
  }
  void run(Clock::duration duration) {
    context_.restart();
    context_.run_for(duration);
  }
  static wire::Message data(std::size_t bytes) {
    wire::Message message;
    message.mutable_stdio_data()->set_data(std::string(bytes, 'x'));
    return message;
  }
  asio::io_context context_;
  std::shared_ptr<Connection> a_;
  std::shared_ptr<Connection> b_;
  std::vector<wire::Message> at_a_;
  std::vector<wire::Message> at_b_;
  std::optional<Error> a_closed_;
  std::optional<Error> b_closed_;
  bool answers_ = true;
  Result<wire::Message> answer_ = empty_message();
};

TEST_F(Connections, KeepTheOrder) {
  start();
  for (std::uint64_t i = 0; i < 1000; ++i) {
    wire::Message message;
    message.mutable_job_signal()->set_job_id(i);
    ASSERT_TRUE(a_->send(message));
  }
  run(milliseconds(100));
  ASSERT_EQ(at_b_.size(), 1000U);
  for (std::uint64_t i = 0; i < 1000; ++i) EXPECT_EQ(at_b_[i].job_signal().job_id(), i);
}

TEST_F(Connections, MatchReplies) {
  start();
  std::optional<Result<wire::Message>> first;
  std::optional<Result<wire::Message>> second;
  a_->request(data(1), milliseconds(500), [&](Result<wire::Message> reply) { first = reply; });
  run(milliseconds(50));
  answer_ = fail(ErrorCode::kNotFound, "nothing", "look elsewhere");
  a_->request(data(1), milliseconds(500), [&](Result<wire::Message> reply) { second = reply; });
  run(milliseconds(50));
  ASSERT_TRUE(first && second);
  EXPECT_TRUE(first->has_value());
  ASSERT_FALSE(second->has_value());
  EXPECT_EQ(second->error().code, ErrorCode::kNotFound);
  EXPECT_EQ(second->error().remedy, "look elsewhere");
}

TEST_F(Connections, RequestsTimeOut) {
  answers_ = false;
  start();
  std::optional<Result<wire::Message>> reply;
  a_->request(data(1), milliseconds(50), [&](Result<wire::Message> got) { reply = got; });
  run(milliseconds(150));
  ASSERT_TRUE(reply);
  EXPECT_EQ(reply->error().code, ErrorCode::kTimeout);
}

TEST_F(Connections, ClosingEndsRequestsAndTellsBothEnds) {
  answers_ = false;
  start();
  std::optional<Result<wire::Message>> reply;
  a_->request(data(1), std::chrono::seconds(5), [&](Result<wire::Message> got) { reply = got; });
  run(milliseconds(20));
  a_->close(Error{ErrorCode::kUnavailable, "enough", {}});
  run(milliseconds(20));
  ASSERT_TRUE(reply && a_closed_ && b_closed_);
  EXPECT_EQ(reply->error().code, ErrorCode::kUnavailable);
  EXPECT_EQ(a_closed_->message, "enough");
  EXPECT_FALSE(a_->send(data(1)));
}

TEST_F(Connections, FinishingDeliversWhatIsQueued) {
  start();
  ASSERT_TRUE(a_->send(data(4 << 20)));
  a_->finish(Error{ErrorCode::kUnavailable, "bye", {}});
  run(milliseconds(300));
  EXPECT_EQ(at_b_.size(), 1U);
  ASSERT_TRUE(a_closed_ && b_closed_);
  EXPECT_EQ(a_closed_->message, "bye");
}

TEST_F(Connections, AReaderThatSleepsIsGivenUp) {
  a_->start([](const wire::Message&) {}, [this](const Error& reason) { a_closed_ = reason; });
  for (int i = 0; i < 8; ++i) (void)a_->send(data(4 << 20));
  run(milliseconds(50));
  ASSERT_TRUE(a_closed_);
  EXPECT_EQ(a_closed_->code, ErrorCode::kNoSpace);
}

TEST_F(Connections, FramesBeyondTheLimitCloseIt) {
  b_->set_limit_bytes(1000);
  start();
  (void)a_->send(data(2000));
  run(milliseconds(50));
  ASSERT_TRUE(b_closed_);
  EXPECT_EQ(b_closed_->code, ErrorCode::kProtocol);
  EXPECT_TRUE(at_b_.empty());
}

TEST_F(Connections, SilenceCloses) {
  start();
  b_->set_idle_timeout(milliseconds(60));
  run(milliseconds(40));
  (void)a_->send(data(1));
  run(milliseconds(40));
  EXPECT_FALSE(b_closed_);
  run(milliseconds(60));
  ASSERT_TRUE(b_closed_);
  EXPECT_EQ(b_closed_->code, ErrorCode::kTimeout);
}

TEST_F(Connections, APromiseIsKeptOrTimesOut) {
  auto promise = std::make_shared<Promise<int>>(context_.get_executor());
  std::vector<std::optional<int>> got;
  auto wait = [](std::shared_ptr<Promise<int>> what,
                 std::vector<std::optional<int>>* into) -> Awaitable<> {
    into->push_back(co_await what->wait(milliseconds(30)));
  };
  asio::co_spawn(context_, wait(promise, &got), asio::detached);
  run(milliseconds(60));
  asio::co_spawn(context_, wait(promise, &got), asio::detached);
  asio::post(context_, [promise] { promise->set(5); });
  run(milliseconds(20));
  ASSERT_EQ(got.size(), 2U);
  EXPECT_FALSE(got[0]);
  EXPECT_EQ(got[1], 5);
}

}  // namespace
}  // namespace gestalt
