#include "cli/fake_daemon.h"

#include <pty.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <csignal>
#include <cstdlib>
#include <filesystem>

#include "common/unix_socket.h"

namespace gestalt::cli {
namespace {

template <class T>
T value_or_abort(Result<T> result) {
  if (!result) std::abort();
  return std::move(*result);
}

}  // namespace

FakeDaemon::FakeDaemon(EventLoop& loop) : loop_(loop) {
  char pattern[] = "/tmp/gestalt-cli-test-XXXXXX";
  directory_ = ::mkdtemp(pattern);
  path_ = directory_ + "/gestaltd.sock";
  listener_ = value_or_abort(listen_unix(path_, 0600));
  loop_.watch(listener_.get(), EPOLLIN, [this](std::uint32_t) {
    Fd socket(::accept4(listener_.get(), nullptr, nullptr, SOCK_CLOEXEC));
    if (!socket) return;
    ++connections_;
    channel_ = std::make_unique<MessageChannel>(
        loop_, std::move(socket),
        [this](const wire::Message& message) {
          if (on_message) on_message(message);
        },
        [](const Error&) {});
  });
}

FakeDaemon::~FakeDaemon() {
  loop_.unwatch(listener_.get());
  std::error_code ignored;
  std::filesystem::remove_all(directory_, ignored);
}

void FakeDaemon::send(const wire::Message& message) {
  if (channel_) (void)channel_->send(message);
}

void FakeDaemon::reply(const wire::Message& request, wire::Message body) {
  body.set_request_id(request.request_id());
  body.set_is_reply(true);
  send(body);
}

void FakeDaemon::reply_error(const wire::Message& request, ErrorCode code,
                             const std::string& message, const std::string& remedy) {
  send(error_reply(request.request_id(), Error{code, message, remedy}));
}

void FakeDaemon::start_job(const wire::Message& request) {
  wire::Message accepted;
  accepted.mutable_run_reply()->set_job_id(7);
  accepted.mutable_run_reply()->set_node("n2");
  reply(request, accepted);
  wire::Message started;
  started.mutable_job_started()->set_job_id(7);
  started.mutable_job_started()->set_pid(16390);
  send(started);
}

void FakeDaemon::send_data(std::uint32_t stream, std::uint64_t offset, const std::string& data,
                           bool eof) {
  wire::Message message;
  auto& out = *message.mutable_stdio_data();
  out.set_job_id(7);
  out.set_stream(stream);
  out.set_offset(offset);
  out.set_data(data);
  out.set_eof(eof);
  send(message);
}

void FakeDaemon::send_ack(std::uint32_t stream, std::uint64_t offset, bool closed) {
  wire::Message message;
  auto& out = *message.mutable_stdio_ack();
  out.set_job_id(7);
  out.set_stream(stream);
  out.set_offset(offset);
  out.set_closed(closed);
  send(message);
}

void FakeDaemon::send_exit(std::uint32_t wait_status) {
  wire::Message message;
  message.mutable_job_exited()->set_job_id(7);
  message.mutable_job_exited()->set_wait_status(wait_status);
  send(message);
}

void FakeDaemon::hang_up() {
  loop_.defer([this] { channel_.reset(); });
}

CommandUnderTest::CommandUnderTest(EventLoop& loop, const std::string& socket_path,
                                   std::vector<std::string> arguments, Stdio stdio,
                                   std::string program)
    : loop_(loop) {
  Pipe in = value_or_abort(make_pipe());
  Pipe out = value_or_abort(make_pipe());
  Pipe err = value_or_abort(make_pipe());
  Fd master;
  std::array<int, 3> standard{in.read.get(), out.write.get(), err.write.get()};
  if (stdio == Stdio::kTerminal) {
    int ends[2];
    winsize size{.ws_row = 33, .ws_col = 101, .ws_xpixel = 0, .ws_ypixel = 0};
    if (::openpty(&ends[0], &ends[1], nullptr, nullptr, &size) != 0) std::abort();
    master = Fd(ends[0]);
    terminal_ = Fd(ends[1]);
    standard.fill(terminal_.get());
  }
  std::vector<char*> argv;
  argv.push_back(program.data());
  for (auto& argument : arguments) argv.push_back(argument.data());
  argv.push_back(nullptr);
  pid_ = ::fork();
  if (pid_ == 0) {
    ::setenv("GESTALT_SOCKET", socket_path.c_str(), 1);
    ::setsid();
    if (terminal_) ::ioctl(terminal_.get(), TIOCSCTTY, 0);
    for (int fd = 0; fd < 3; ++fd) ::dup2(standard[static_cast<std::size_t>(fd)], fd);
    if (master) ::close(master.get());
    if (terminal_) ::close(terminal_.get());
    ::execv(argv[0], argv.data());
    ::_exit(99);
  }
  process_ = Fd(static_cast<int>(::syscall(SYS_pidfd_open, pid_, 0)));
  if (terminal_) {
    input_ = value_or_abort(duplicate(master.get()));
    output_pipe_ = std::move(master);
  } else {
    input_ = std::move(in.write);
    output_pipe_ = std::move(out.read);
    error_pipe_ = std::move(err.read);
    loop_.watch(error_pipe_.get(), EPOLLIN,
                [this](std::uint32_t) { collect(error_pipe_, errors_); });
  }
  loop_.watch(output_pipe_.get(), EPOLLIN,
              [this](std::uint32_t) { collect(output_pipe_, output_); });
  loop_.watch(process_.get(), EPOLLIN, [this](std::uint32_t) {
    loop_.unwatch(process_.get());
    over_ = true;
    // A terminal whose slave we hold never ends: what is there by now is all.
    if (terminal_)
      (void)loop_.after(milliseconds(50), [this] { loop_.stop(); });
    else
      stop_if_over();
  });
}

CommandUnderTest::~CommandUnderTest() {
  close_output();
  if (error_pipe_) loop_.unwatch(error_pipe_.get());
  loop_.unwatch(process_.get());
  if (!over_) {
    ::kill(pid_, SIGKILL);
    ::waitpid(pid_, nullptr, 0);
  }
}

int CommandUnderTest::wait() {
  bool late = false;
  auto timer = loop_.after(std::chrono::seconds(20), [&] {
    late = true;
    loop_.stop();
  });
  loop_.run();
  loop_.cancel(timer);
  int status = -1;
  if (late || !over_ || ::waitpid(pid_, &status, 0) != pid_) return -1;
  return status;
}

void CommandUnderTest::collect(Fd& from, std::string& into) {
  char buffer[65536];
  ssize_t count = ::read(from.get(), buffer, sizeof buffer);
  if (count > 0) {
    into.append(buffer, static_cast<std::size_t>(count));
    return;
  }
  loop_.unwatch(from.get());
  from.reset();
  stop_if_over();
}

void CommandUnderTest::stop_if_over() {
  if (over_ && !output_pipe_ && !error_pipe_) loop_.stop();
}

void CommandUnderTest::write_input(const std::string& data) {
  if (::write(input_.get(), data.data(), data.size()) != static_cast<ssize_t>(data.size()))
    std::abort();
}

void CommandUnderTest::close_output() {
  if (output_pipe_) loop_.unwatch(output_pipe_.get());
  output_pipe_.reset();
}

}  // namespace gestalt::cli
