#include "daemon/rdma_question.h"

#include <gtest/gtest.h>
#include <sys/wait.h>

#include <cerrno>

namespace gestalt {
namespace {

constexpr auto kPatience = std::chrono::seconds(20);

Awaitable<> ask(std::vector<std::string> command, Clock::duration timeout,
                std::optional<Result<void>>* answer) {
  *answer = co_await ask_for_rdma(std::move(command), timeout);
}

// Of a program that is this script.
Result<void> answer_to(const std::string& script, Clock::duration timeout = kPatience) {
  asio::io_context context;
  std::optional<Result<void>> answer;
  asio::co_spawn(context, ask({"/bin/sh", "-c", script}, timeout, &answer), asio::detached);
  context.run();
  EXPECT_EQ(::waitpid(-1, nullptr, WNOHANG), -1) << "a child is left";
  EXPECT_EQ(errno, ECHILD);
  return answer.value();
}

TEST(RdmaQuestion, SuccessIsAYes) { EXPECT_TRUE(answer_to("exit 0")); }

TEST(RdmaQuestion, AReasonWithARemedy) {
  auto answer = answer_to("echo 'no device'; echo 'load a driver'; exit 1");
  ASSERT_FALSE(answer);
  EXPECT_EQ(answer.error().code, ErrorCode::kUnavailable);
  EXPECT_EQ(answer.error().message, "no device");
  EXPECT_EQ(answer.error().remedy, "load a driver");
}

TEST(RdmaQuestion, AReasonWithoutARemedy) {
  for (const char* script : {"echo 'no device'; echo; exit 1", "echo 'no device'; exit 1"}) {
    auto answer = answer_to(script);
    ASSERT_FALSE(answer) << script;
    EXPECT_EQ(answer.error().text(), "no device");
  }
}

TEST(RdmaQuestion, AProgramThatFailsAndSaysNothing) {
  for (const char* script : {"exit 2", "kill -9 $$"}) {
    auto answer = answer_to(script);
    ASSERT_FALSE(answer) << script;
    EXPECT_EQ(answer.error().text(), "/bin/sh failed without saying why");
  }
}

TEST(RdmaQuestion, MuchTalkIsCut) {
  auto answer = answer_to("echo 'no device'; yes 2>/dev/null | head -c 1000000; exit 1");
  ASSERT_FALSE(answer);
  EXPECT_EQ(answer.error().message, "no device");
}

TEST(RdmaQuestion, AProgramThatHangsIsEnded) {
  for (const char* script : {"exec sleep 1000", "exec sleep 1000 >/dev/null"}) {
    auto answer = answer_to(script, std::chrono::milliseconds(50));
    ASSERT_FALSE(answer) << script;
    EXPECT_EQ(answer.error().code, ErrorCode::kTimeout);
  }
}

TEST(RdmaQuestion, AProgramThatThereIsNot) {
  asio::io_context context;
  std::optional<Result<void>> answer;
  asio::co_spawn(context, ask({"/no/such/program"}, kPatience, &answer), asio::detached);
  context.run();
  ASSERT_TRUE(answer);
  EXPECT_FALSE(*answer);
}

}  // namespace
}  // namespace gestalt
