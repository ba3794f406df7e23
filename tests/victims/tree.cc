// Three processes, each the parent of the next, in a ring of pipes:
//
//   root ──pipe──▶ child ──pipe──▶ grandchild ──pipe──▶ root
//
// Several numbered messages of odd sizes are always under way, so that a freeze finds
// data in the pipes, also half a message. Each process checks each message, its pid and
// its parent's pid; the root checks that they come back in order, none lost or doubled.
#include <sys/wait.h>

#include <array>
#include <vector>

#include "victim.h"

namespace {

using victim::bad;
using victim::check;
using victim::mix;
using victim::must;

constexpr std::uint64_t kInFlight = 6;
constexpr std::size_t kMaxWords = 700;

struct Header {
  std::uint64_t sequence;
  std::uint64_t hops;
  std::uint64_t words;
};

struct Message {
  Header header{};
  std::vector<std::uint64_t> body;
};

struct Pipe {
  int read_end = -1;
  int write_end = -1;
};

Pipe make_pipe() {
  std::array<int, 2> ends{};
  must(::pipe(ends.data()), "pipe");
  return {ends[0], ends[1]};
}

// False at the end of the stream, which may come only between two messages.
bool read_exactly(int fd, void* to, std::size_t bytes, bool may_end) {
  auto* at = static_cast<char*>(to);
  std::size_t left = bytes;
  while (left > 0) {
    ssize_t count = ::read(fd, at, left);
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) bad("read: {}", std::strerror(errno));
    if (count == 0) {
      check(may_end && left == bytes, "a pipe ended in the middle of a message");
      return false;
    }
    at += count;
    left -= static_cast<std::size_t>(count);
  }
  return true;
}

bool receive(int fd, Message& message) {
  if (!read_exactly(fd, &message.header, sizeof(Header), true)) return false;
  check(message.header.words <= kMaxWords, "message {} claims {} words", message.header.sequence,
        message.header.words);
  message.body.resize(message.header.words);
  if (!message.body.empty())
    read_exactly(fd, message.body.data(), message.body.size() * sizeof(std::uint64_t), false);
  for (std::size_t i = 0; i < message.body.size(); ++i)
    check(message.body[i] == mix(message.header.sequence + i), "message {}: word {} differs",
          message.header.sequence, i);
  return true;
}

void send(int fd, const Message& message) {
  std::string bytes(reinterpret_cast<const char*>(&message.header), sizeof(Header));
  bytes.append(reinterpret_cast<const char*>(message.body.data()),
               message.body.size() * sizeof(std::uint64_t));
  check(victim::write_all(fd, bytes), "write to the ring: {}", std::strerror(errno));
}

Message make_message(std::uint64_t sequence) {
  Message message{{sequence, 0, mix(sequence) % kMaxWords}, {}};
  for (std::uint64_t i = 0; i < message.header.words; ++i)
    message.body.push_back(mix(sequence + i));
  return message;
}

struct Ids {
  pid_t pid = ::getpid();
  pid_t parent = ::getppid();
  void verify() const {
    victim::same(pid, ::getpid(), "pid");
    victim::same(parent, ::getppid(), "parent's pid");
  }
};

void forward(int from, int to, std::uint64_t hop) {
  const Ids ids;
  Message message;
  std::uint64_t expected = 0;
  while (receive(from, message)) {
    ids.verify();
    check(message.header.sequence == expected, "hop {}: message {} instead of {}", hop,
          message.header.sequence, expected);
    check(message.header.hops == hop, "message {} made {} hops", expected, message.header.hops);
    ++message.header.hops;
    ++expected;
    send(to, message);
  }
}

void expect_clean_exit(pid_t child) {
  int status = 0;
  while (::waitpid(child, &status, 0) < 0)
    check(errno == EINTR, "waitpid: {}", std::strerror(errno));
  check(WIFEXITED(status) && WEXITSTATUS(status) == 0, "process {} ended with wait status {:#x}",
        child, status);
}

[[noreturn]] void run_grandchild(Pipe in, Pipe out) {
  forward(in.read_end, out.write_end, 1);
  ::_exit(0);
}

[[noreturn]] void run_child(Pipe in, Pipe middle, Pipe out) {
  pid_t grandchild = must(::fork(), "fork");
  if (grandchild == 0) {
    ::close(middle.write_end);
    ::close(in.read_end);
    run_grandchild(middle, out);
  }
  ::close(middle.read_end);
  ::close(out.write_end);
  forward(in.read_end, middle.write_end, 0);
  ::close(middle.write_end);
  expect_clean_exit(grandchild);
  ::_exit(0);
}

}  // namespace

int main(int argc, char** argv) {
  victim::Options defaults;
  defaults.rate = 1000;
  victim::Options options = victim::parse_options(argc, argv, defaults);
  victim::Run run(options);
  Pipe first = make_pipe();
  Pipe second = make_pipe();
  Pipe third = make_pipe();
  pid_t child = must(::fork(), "fork");
  if (child == 0) {
    ::signal(SIGTERM, SIG_IGN);  // the root ends the ring by closing it
    ::close(first.write_end);
    ::close(third.read_end);
    run_child(first, second, third);
  }
  ::close(first.read_end);
  ::close(second.read_end);
  ::close(second.write_end);
  ::close(third.write_end);

  const Ids ids;
  victim::Pace pace(options.rate);
  std::uint64_t sent = 0;
  std::uint64_t received = 0;
  Message message;
  auto receive_one = [&] {
    check(receive(third.read_end, message), "the ring broke after {} messages", received);
    check(message.header.sequence == received, "message {} came back instead of {}",
          message.header.sequence, received);
    check(message.header.hops == 2, "message {} made {} hops", received, message.header.hops);
    ++received;
  };
  run.ready();
  while (run.keep_going(received)) {
    for (std::uint64_t step = pace.step(); step > 0; --step) {
      while (sent - received < kInFlight) send(first.write_end, make_message(sent++));
      receive_one();
    }
    ids.verify();
  }
  ::close(first.write_end);
  while (received < sent) receive_one();
  check(!receive(third.read_end, message), "a message too many came back");
  expect_clean_exit(child);
  run.ok("messages={}", received);
}
