#include "daemon/rdma_question.h"

#include <sys/wait.h>
#include <unistd.h>

#include <csignal>

#include "common/child.h"
#include "common/fd.h"
#include "common/format.h"

namespace gestalt {
namespace {

constexpr std::size_t kMaxAnswerBytes = 4096;
constexpr auto kEndTimeout = std::chrono::seconds(1);
constexpr auto kPoll = std::chrono::milliseconds(5);

// All that is written until the other end is closed, or until the watchdog cancels.
Awaitable<std::string> read_answer(asio::posix::stream_descriptor& output) {
  std::string text(kMaxAnswerBytes, '\0');
  std::size_t size = 0;
  while (size < text.size()) {
    auto buffer = asio::buffer(text.data() + size, text.size() - size);
    auto [error, count] = co_await output.async_read_some(buffer, kAsResult);
    if (error) break;
    size += count;
  }
  text.resize(size);
  co_return text;
}

// Empty: it does not end, not even when it is killed.
Awaitable<std::optional<int>> await_end(pid_t pid) {
  int status = 0;
  for (auto deadline = deadline_in(kEndTimeout); ::waitpid(pid, &status, WNOHANG) != pid;) {
    if (Clock::now() >= deadline) co_return std::nullopt;
    co_await sleep_for(kPoll);
  }
  co_return status;
}

Error answer_of(const std::string& program, const std::string& text) {
  auto end = text.find('\n');
  if (end == std::string::npos || end == 0)
    return {ErrorCode::kInternal, formatted("{} failed without saying why", program), {}};
  std::string remedy = text.substr(end + 1);
  return {ErrorCode::kUnavailable, text.substr(0, end), remedy.substr(0, remedy.find('\n'))};
}

}  // namespace

Awaitable<Result<void>> ask_for_rdma(std::vector<std::string> command, Clock::duration timeout) {
  GESTALT_CO_ASSIGN(auto pipe, make_pipe());
  SpawnOptions options;
  options.argv = std::move(command);
  options.environment = {"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "LANG=C.UTF-8"};
  options.descriptors = {{pipe.write.get(), STDOUT_FILENO}};
  GESTALT_CO_ASSIGN(pid_t pid, spawn(options));
  pipe.write.reset();
  auto executor = co_await asio::this_coro::executor;
  asio::posix::stream_descriptor output(executor, pipe.read.release());
  boost::system::error_code ignored;
  bool late = false;
  std::string text;
  {
    Watchdog watchdog(executor, timeout, [&late, &output, &ignored, pid] {
      late = true;
      (void)::kill(pid, SIGKILL);
      output.cancel(ignored);
    });
    text = co_await read_answer(output);
  }
  output.close(ignored);  // who writes more is not to wait
  auto status = co_await await_end(pid);
  if (!late && !status) {
    (void)::kill(pid, SIGKILL);
    (void)co_await await_end(pid);
  }
  if (late || !status)
    co_return fail(ErrorCode::kTimeout, "whether there is RDMA was not found out in time");
  if (*status != 0) co_return std::unexpected(answer_of(options.argv[0], text));
  co_return Result<void>();
}

}  // namespace gestalt
