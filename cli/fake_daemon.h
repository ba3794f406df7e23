// For tests: a daemon that says what the test wants, and the real command run against it.
#pragma once

#include <sys/types.h>

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "common/fd.h"
#include "common/message_channel.h"

namespace gestalt::cli {

class FakeDaemon {
 public:
  using OnMessage = std::function<void(const wire::Message&)>;

  // Listens on a socket of its own below /tmp.
  explicit FakeDaemon(EventLoop& loop);
  ~FakeDaemon();
  FakeDaemon(const FakeDaemon&) = delete;
  FakeDaemon& operator=(const FakeDaemon&) = delete;

  OnMessage on_message;

  [[nodiscard]] const std::string& path() const { return path_; }
  [[nodiscard]] int connections() const { return connections_; }
  void send(const wire::Message& message);
  // `body` as the answer to `request`.
  void reply(const wire::Message& request, wire::Message body);
  void reply_error(const wire::Message& request, ErrorCode code, const std::string& message,
                   const std::string& remedy = {});
  // Accepts the job (number 7, on node n2) and says that it has started.
  void start_job(const wire::Message& request);
  void send_data(std::uint32_t stream, std::uint64_t offset, const std::string& data, bool eof);
  void send_ack(std::uint32_t stream, std::uint64_t offset, bool closed = false);
  void send_exit(std::uint32_t wait_status);
  // Ends the connection when the current handler has returned.
  void hang_up();

 private:
  EventLoop& loop_;
  std::string directory_;
  std::string path_;
  Fd listener_;
  std::unique_ptr<MessageChannel> channel_;
  int connections_ = 0;
};

// `gestalt ARGUMENTS...`, or another program, as a child process with a pipe for each
// standard stream, or with a terminal for all of them.
class CommandUnderTest {
 public:
  enum class Stdio { kPipes, kTerminal };
  CommandUnderTest(EventLoop& loop, const std::string& socket_path,
                   std::vector<std::string> arguments, Stdio stdio = Stdio::kPipes,
                   std::string program = GESTALT_PROGRAM);
  ~CommandUnderTest();
  CommandUnderTest(const CommandUnderTest&) = delete;
  CommandUnderTest& operator=(const CommandUnderTest&) = delete;

  // Runs the loop until the command has ended and its output has; waitpid(2)'s status,
  // or -1 after 20 s.
  [[nodiscard]] int wait();

  [[nodiscard]] pid_t pid() const { return pid_; }
  [[nodiscard]] const std::string& output() const { return output_; }
  [[nodiscard]] const std::string& errors() const { return errors_; }
  [[nodiscard]] int terminal() const { return terminal_.get(); }
  void write_input(const std::string& data);
  void close_input() { input_.reset(); }
  // Stops taking output, for good.
  void close_output();

 private:
  void collect(Fd& from, std::string& into);
  void stop_if_over();

  EventLoop& loop_;
  pid_t pid_ = -1;
  Fd process_;
  Fd input_;
  Fd output_pipe_;
  Fd error_pipe_;
  Fd terminal_;  // the slave's side, to look at its settings
  std::string output_;
  std::string errors_;
  bool over_ = false;
};

}  // namespace gestalt::cli
