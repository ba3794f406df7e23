#include "daemon/stand_in/stdio_relay.h"

#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>

#include "common/log.h"

namespace gestalt {
namespace {

constexpr std::size_t kReadBytes = 32U << 10;

}  // namespace

StdioRelay::StdioRelay(EventLoop& loop, std::uint64_t job_id, Send send)
    : loop_(loop), job_id_(job_id), send_(std::move(send)) {
  outputs_[0].stream = 1;
  outputs_[1].stream = 2;
}

StdioRelay::~StdioRelay() { unwatch_all(); }

Result<void> StdioRelay::make_pipes(const wire::Stdio& stdio) {
  stdio_ = stdio;
  if (stdio.in() == wire::STDIO_PIPE) {
    GESTALT_ASSIGN(auto pipe, make_pipe());
    input_.pipe = std::move(pipe.write);
    input_.job_end = std::move(pipe.read);
    struct stat info{};
    if (::fstat(input_.pipe.get(), &info) == 0) input_inode_ = info.st_ino;
  }
  std::array kinds{stdio.out(), stdio.err()};
  bool terminal_has_output = false;
  for (std::size_t i = 0; i < outputs_.size(); ++i) {
    auto& output = outputs_[i];
    bool merged = i == 1 && stdio.merge_err();
    if (kinds[i] == wire::STDIO_PIPE && !merged) {
      GESTALT_ASSIGN(auto pipe, make_pipe());
      output.pipe = std::move(pipe.read);
      output.job_end = std::move(pipe.write);
    } else if (kinds[i] == wire::STDIO_TTY && !terminal_has_output) {
      output.terminal = terminal_has_output = true;
    } else {
      output.ended = true;
    }
  }
  for (int fd : {input_.pipe.get(), outputs_[0].pipe.get(), outputs_[1].pipe.get()})
    if (fd >= 0) GESTALT_TRY(set_nonblocking(fd, true));
  return {};
}

Result<void> StdioRelay::create(const wire::Stdio& stdio, uid_t owner) {
  GESTALT_TRY(make_pipes(stdio));
  bool wants_terminal = stdio.in() == wire::STDIO_TTY || stdio.out() == wire::STDIO_TTY ||
                        stdio.err() == wire::STDIO_TTY;
  if (!wants_terminal) return {};
  GESTALT_ASSIGN(terminal_, Terminal::create(owner));
  terminal_->set_settings(stdio.termios());
  terminal_->resize(stdio.window());
  return {};
}

std::vector<std::pair<int, int>> StdioRelay::job_descriptors() const {
  std::vector<std::pair<int, int>> out;
  auto add = [&](wire::StdioKind kind, int pipe_end, int number) {
    if (kind == wire::STDIO_TTY && terminal_) out.emplace_back(terminal_->slave(), number);
    if (kind == wire::STDIO_PIPE && pipe_end >= 0) out.emplace_back(pipe_end, number);
  };
  add(stdio_.in(), input_.job_end.get(), 0);
  add(stdio_.out(), outputs_[0].job_end.get(), 1);
  if (stdio_.merge_err()) {
    add(stdio_.out(), outputs_[0].job_end.get(), 2);
  } else {
    add(stdio_.err(), outputs_[1].job_end.get(), 2);
  }
  return out;
}

void StdioRelay::start() {
  input_.job_end.reset();
  for (auto& output : outputs_) output.job_end.reset();
  if (terminal_) terminal_->release_slave();
  running_ = true;
  watch_all();
  write_input();
}

int StdioRelay::fd_of(const Output& output) const {
  if (output.terminal) return terminal_ ? terminal_->master() : -1;
  return output.pipe.get();
}

int StdioRelay::input_fd() const {
  if (stdio_.in() == wire::STDIO_TTY) return terminal_ ? terminal_->master() : -1;
  return input_.pipe.get();
}

void StdioRelay::watch_all() {
  if (terminal_ && terminal_->master() >= 0)
    loop_.watch(terminal_->master(), EPOLLIN,
                [this](std::uint32_t events) { on_terminal_events(events); });
  watch_input();
  for (auto& output : outputs_) watch_pipe(output);
}

void StdioRelay::watch_input() {
  if (!input_.pipe) return;
  // Also without EPOLLOUT, EPOLLERR tells that the job has closed its end.
  loop_.watch(input_.pipe.get(), 0, [this](std::uint32_t events) {
    if ((events & EPOLLERR) != 0) return close_input();
    write_input();
  });
}

void StdioRelay::watch_pipe(Output& output) {
  if (output.pipe)
    loop_.watch(output.pipe.get(), EPOLLIN,
                [this, &output](std::uint32_t) { read_output(output); });
  watch_output(output);
}

void StdioRelay::unwatch_all() {
  if (terminal_ && terminal_->master() >= 0) loop_.unwatch(terminal_->master());
  if (input_.pipe) loop_.unwatch(input_.pipe.get());
  for (auto& output : outputs_)
    if (output.pipe) loop_.unwatch(output.pipe.get());
}

// Reads only what the client's window has room for: its slowness reaches the job.
void StdioRelay::watch_output(Output& output) {
  if (output.terminal) return watch_terminal();
  if (!running_ || !output.pipe || output.direct) return;
  loop_.change(output.pipe.get(), wants_output(output) ? std::uint32_t{EPOLLIN} : 0U);
}

bool StdioRelay::wants_output(const Output& output) {
  return output.ended || output.closed || (output.sender.room() > 0 && !output.next);
}

void StdioRelay::watch_terminal() {
  if (!running_ || !terminal_ || terminal_->master() < 0) return;
  // Without an output stream of its own, its echo is read and thrown away.
  auto carrier = std::ranges::find_if(outputs_, &Output::terminal);
  bool readable = carrier == outputs_.end() || wants_output(*carrier);
  bool writable = stdio_.in() == wire::STDIO_TTY && !input_.receiver.pending().empty();
  loop_.change(terminal_->master(), (readable ? std::uint32_t{EPOLLIN} : 0U) |
                                        (writable ? std::uint32_t{EPOLLOUT} : 0U));
}

void StdioRelay::on_terminal_events(std::uint32_t events) {
  if ((events & EPOLLOUT) != 0) write_input();
  if ((events & (EPOLLIN | EPOLLHUP | EPOLLERR)) == 0) return;
  for (auto& output : outputs_)
    if (output.terminal) return read_output(output);
  discard_terminal_output();
}

void StdioRelay::discard_terminal_output() {
  std::array<char, kReadBytes> buffer;
  ssize_t count = ::read(terminal_->master(), buffer.data(), buffer.size());
  if (count == 0 || (count < 0 && errno == EIO)) loop_.unwatch(terminal_->master());
}

void StdioRelay::read_output(Output& output) {
  std::array<char, kReadBytes> buffer;
  bool discard = output.ended || output.closed;
  std::size_t want = discard ? buffer.size() : std::min(buffer.size(), output.sender.room());
  if (want == 0 || output.next) return watch_output(output);
  ssize_t count = ::read(fd_of(output), buffer.data(), want);
  if (count > 0) {
    if (!discard) output.sender.push({buffer.data(), static_cast<std::size_t>(count)});
    send_output(output);
    return watch_output(output);
  }
  bool empty = count < 0 && (errno == EAGAIN || errno == EINTR);
  if (empty && !finishing_) return;
  if (!empty) {
    // End of file, or EIO when nobody has the terminal open any more.
    loop_.unwatch(fd_of(output));
    if (!output.terminal) output.pipe.reset();
  }
  end_output(output);
}

void StdioRelay::end_output(Output& output) {
  if (!output.ended || !output.sender.eof()) {
    output.ended = true;
    output.sender.push_eof();
  }
  send_output(output);
  check_finished();
}

void StdioRelay::send_output(Output& output) {
  if (abandoned_) return;
  while (auto chunk = output.sender.next()) {
    wire::Message message;
    auto& data = *message.mutable_stdio_data();
    data.set_job_id(job_id_);
    data.set_stream(output.stream);
    data.set_offset(chunk->offset);
    data.set_data(chunk->data.data(), chunk->data.size());
    data.set_eof(chunk->eof);
    send_(message);
  }
}

void StdioRelay::on_ack(const wire::StdioAck& ack) {
  for (auto& output : outputs_) {
    if (output.stream != ack.stream()) continue;
    if (output.direct) leave_direct(output);
    if (auto done = output.sender.acknowledge(ack.offset()); !done)
      log::warning("stdio", log::field("error", done.error().text()));
    if (ack.closed() && !output.closed) {
      output.closed = true;
      if (output.pipe) {
        // The job gets SIGPIPE, as it would from a local reader that goes away.
        if (running_) loop_.unwatch(output.pipe.get());
        output.pipe.reset();
      }
    }
    if (output.next) start_direct(output);
    watch_output(output);
  }
  check_finished();
}

void StdioRelay::on_data(const wire::StdioData& data) {
  if (data.stream() != 0) return;
  if (input_.direct && input_.direct->started()) leave_direct(input_);
  if (auto done = input_.receiver.accept(data.offset(), data.data(), data.eof()); !done) {
    log::warning("stdio", log::field("error", done.error().text()));
    return;
  }
  write_input();
}

void StdioRelay::write_input() {
  if (!running_) return;
  const auto& pending = input_.receiver.pending();
  if (input_.closed) input_.receiver.consume(pending.size());
  bool consumed = false;
  while (input_fd() >= 0 && !pending.empty()) {
    ssize_t count = ::write(input_fd(), pending.data(), pending.size());
    if (count < 0) {
      if (errno == EINTR) continue;
      if (errno == EAGAIN) break;
      return close_input();
    }
    input_.receiver.consume(static_cast<std::size_t>(count));
    consumed = true;
  }
  if (consumed) acknowledge_input();
  if (input_.receiver.at_eof() && input_.pipe) {
    loop_.unwatch(input_.pipe.get());
    input_.pipe.reset();
  }
  if (input_.pipe) loop_.change(input_.pipe.get(), pending.empty() ? 0U : std::uint32_t{EPOLLOUT});
  watch_terminal();
}

void StdioRelay::close_input() {
  if (input_.pipe) {
    loop_.unwatch(input_.pipe.get());
    input_.pipe.reset();
  }
  input_.closed = true;
  input_.receiver.consume(input_.receiver.pending().size());
  acknowledge_input();
}

void StdioRelay::acknowledge_input() {
  wire::Message message;
  auto& ack = *message.mutable_stdio_ack();
  ack.set_job_id(job_id_);
  ack.set_stream(0);
  ack.set_offset(input_.receiver.consumed_offset());
  ack.set_closed(input_.closed);
  send_(message);
}

void StdioRelay::hold_input() {
  held_.reset();
  wire::Message message;
  message.mutable_stdio_hold()->set_job_id(job_id_);
  send_(message);
}

bool StdioRelay::held_input_is_read() const {
  if (!input_.pipe) return true;
  bool direct = input_.direct && input_.direct->started();
  auto offset = direct ? input_.direct->offset() : input_.receiver.consumed_offset();
  int unread = 0;
  return held_ == offset && ::ioctl(input_.pipe.get(), FIONREAD, &unread) == 0 && unread == 0;
}

// To the kernel, the background is wherever the terminal is another group's: ours.
void StdioRelay::set_foreground(bool foreground) {
  if (!terminal_ || terminal_->master() < 0 || foreground == (waiting_group_ == 0)) return;
  if (foreground) {
    terminal_->set_foreground_group(std::exchange(waiting_group_, 0));
  } else {
    waiting_group_ = terminal_->foreground_group();
    terminal_->set_foreground_group(::getpgrp());
  }
}

void StdioRelay::resize(const wire::WindowSize& window) {
  if (terminal_) terminal_->resize(window);
}

void StdioRelay::resync() {
  leave_direct();
  for (auto& output : outputs_) {
    output.sender.rewind();
    send_output(output);
  }
  acknowledge_input();
}

void StdioRelay::abandon() {
  abandoned_ = true;
  leave_direct();
  if (terminal_ && terminal_->master() >= 0) {
    loop_.unwatch(terminal_->master());
    terminal_->hang_up();
  }
  for (auto& output : outputs_) {
    output.closed = true;
    if (output.pipe) loop_.unwatch(output.pipe.get());
    output.pipe.reset();
  }
  if (input_.pipe) loop_.unwatch(input_.pipe.get());
  input_.pipe.reset();
  check_finished();
}

void StdioRelay::finish(std::function<void()> finished) {
  finished_ = std::move(finished);
  leave_direct();
  finishing_ = true;
  if (input_.pipe) {
    loop_.unwatch(input_.pipe.get());
    input_.pipe.reset();
  }
  for (auto& output : outputs_) {
    if (fd_of(output) < 0 || output.ended || output.closed) {
      end_output(output);
    } else {
      watch_output(output);
      // Nothing may be there to read, and then no event would come.
      if (output.sender.room() > 0) read_output(output);
    }
  }
  check_finished();
}

void StdioRelay::check_finished() {
  if (!finishing_ || !finished_) return;
  for (auto& output : outputs_) {
    bool done = abandoned_ || output.closed || output.sender.finished();
    if (!done) {
      // Room has come up again: there may be more to read, or nothing any more.
      if (!output.ended && fd_of(output) >= 0 && output.sender.room() > 0)
        loop_.defer([this, &output] {
          if (!output.ended) read_output(output);
        });
      return;
    }
  }
  loop_.defer(std::exchange(finished_, nullptr));
}

}  // namespace gestalt
