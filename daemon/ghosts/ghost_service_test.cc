// The program gestalt-ghosts, with us as its gestaltd.
#include "daemon/ghosts/ghost_service.h"

#include <gmock/gmock.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <csignal>
#include <deque>
#include <set>

#include "common/child.h"
#include "common/unix_socket.h"
#include "daemon/ghosts/ghost_fixture.h"

namespace gestalt {
namespace {

constexpr pid_t kFirst = 10'000;

class Daemon {
 public:
  // Not by a pid: each test has the same in its own pid namespace.
  Daemon() {
    std::string directory = testing::TempDir() + "ghosts-XXXXXX";
    EXPECT_NE(::mkdtemp(directory.data()), nullptr);
    directory_ = directory;
    path_ = directory + "/socket";
    listen();
    SpawnOptions options;
    options.argv = {GESTALT_GHOSTS_PROGRAM, "--socket", path_};
    options.descriptors = {{2, 2}};
    auto pid = spawn(options);
    EXPECT_TRUE(pid) << pid.error().text();
    if (pid) program_ = *pid;
  }
  ~Daemon() {
    (void)::unlink(path_.c_str());
    (void)::rmdir(directory_.c_str());
    if (program_ > 0 && ::waitpid(program_, nullptr, WNOHANG) == 0) (void)::kill(program_, SIGKILL);
  }

  void listen() {
    auto listener = listen_unix(path_, 0600);
    EXPECT_TRUE(listener) << listener.error().text();
    listener_ = std::move(*listener);
    loop_.watch(listener_.get(), EPOLLIN, [this](std::uint32_t) {
      channel_ = std::make_unique<MessageChannel>(
          loop_, Fd(::accept4(listener_.get(), nullptr, nullptr, SOCK_CLOEXEC)),
          [this](const wire::Message& message) {
            received_.push_back(message);
            loop_.stop();
          },
          [](const Error&) {});
    });
  }
  void go_away() {
    loop_.unwatch(listener_.get());
    listener_.reset();
    channel_.reset();
  }

  wire::Message next() {
    auto timer = loop_.after(std::chrono::seconds(20), [this] { loop_.stop(); });
    if (received_.empty()) loop_.run();
    loop_.cancel(timer);
    EXPECT_FALSE(received_.empty()) << "no message came";
    if (received_.empty()) return {};
    auto message = received_.front();
    received_.pop_front();
    return message;
  }
  wire::Message ask(wire::Message message) {
    Result<wire::Message> reply = fail(ErrorCode::kInternal, "not answered");
    channel_->request(std::move(message), std::chrono::seconds(20), [&](auto answer) {
      reply = std::move(answer);
      loop_.stop();
    });
    loop_.run();
    if (reply) return *reply;
    wire::Message error;
    *error.mutable_error() = to_wire(reply.error());
    return error;
  }
  void say(const wire::Message& message) { EXPECT_TRUE(channel_->send(message)); }
  [[nodiscard]] pid_t program() const { return program_; }

 private:
  std::string directory_;
  std::string path_;
  EventLoop loop_;
  Fd listener_;
  std::unique_ptr<MessageChannel> channel_;
  std::deque<wire::Message> received_;
  pid_t program_ = 0;
};

wire::Message update_of(std::initializer_list<pid_t> pids) {
  wire::Message message;
  auto& update = *message.mutable_ghost_update();
  update.set_full(true);
  for (pid_t pid : pids) update.add_add()->set_pid(static_cast<std::uint32_t>(pid));
  return message;
}

// That came alone.
const wire::GhostSignal& signal_in(const wire::Message& message) {
  static const wire::GhostSignal kNone;
  const auto& signals = message.ghost_signals().signals();
  EXPECT_EQ(signals.size(), 1);
  return signals.empty() ? kNone : signals[0];
}

void expect_signal(const wire::Message& message, pid_t pid, int signal) {
  EXPECT_EQ(signal_in(message).pid(), static_cast<std::uint32_t>(pid));
  EXPECT_EQ(signal_in(message).signal(), static_cast<std::uint32_t>(signal));
}

TEST(GhostService, UpdatesAndSignals) {
  in_pid_namespace([] {
    Daemon daemon;
    auto hello = daemon.next();
    ASSERT_TRUE(hello.has_ghost_report());
    EXPECT_EQ(hello.ghost_report().ghosts(), 0U);
    auto report = daemon.ask(update_of({kFirst, kFirst + 1, ::getpid()})).ghost_report();
    EXPECT_EQ(report.ghosts(), 2U);
    ASSERT_EQ(report.failures_size(), 1);
    EXPECT_EQ(report.failures(0).pid(), static_cast<std::uint32_t>(::getpid()));
    EXPECT_EQ(report.failures(0).error().code(), wire::ERROR_BUSY);
    EXPECT_EQ(::kill(kFirst, SIGTERM), 0);
    auto signal = daemon.next();
    expect_signal(signal, kFirst, SIGTERM);
    EXPECT_EQ(signal_in(signal).sender_pid(), static_cast<std::uint32_t>(::getpid()));
    EXPECT_EQ(::kill(kFirst + 1, SIGKILL), 0);
    expect_signal(daemon.next(), kFirst + 1, SIGKILL);
    EXPECT_TRUE(daemon.ask({}).has_error());
    EXPECT_EQ(daemon.ask(update_of({})).ghost_report().ghosts(), 0U);
    EXPECT_EQ(kill_errno(kFirst, 0), ESRCH);
  });
}

TEST(GhostService, OutlivesTheDaemon) {
  in_pid_namespace([] {
    Daemon daemon;
    (void)daemon.next();
    EXPECT_EQ(daemon.ask(update_of({kFirst, kFirst + 1})).ghost_report().ghosts(), 2U);
    daemon.go_away();
    ::usleep(200'000);  // until it has noticed
    for (int signal = SIGRTMIN; signal <= SIGRTMAX; ++signal) EXPECT_EQ(::kill(kFirst, signal), 0);
    EXPECT_EQ(::kill(kFirst + 1, SIGKILL), 0);
    ::usleep(300'000);
    daemon.listen();
    auto hello = daemon.next();
    ASSERT_TRUE(hello.has_ghost_report());
    EXPECT_EQ(hello.ghost_report().ghosts(), 2U);
    std::multiset<std::pair<std::uint32_t, std::uint32_t>> expected = {{kFirst + 1, SIGKILL}};
    for (int signal = SIGRTMIN; signal <= SIGRTMAX; ++signal) expected.emplace(kFirst, signal);
    std::multiset<std::pair<std::uint32_t, std::uint32_t>> came;
    while (came.size() < expected.size()) {
      auto message = daemon.next();
      if (!message.has_ghost_signals()) break;
      came.emplace(signal_in(message).pid(), signal_in(message).signal());
    }
    EXPECT_EQ(came, expected);
  });
}

// What gestaltd had taken, but not yet delivered, when it died.
TEST(GhostService, TellsTheNextDaemonWhatIsNotDone) {
  in_pid_namespace([] {
    Daemon daemon;
    (void)daemon.next();
    (void)daemon.ask(update_of({kFirst}));
    std::vector<wire::GhostSignal> taken;
    for (int signal : {SIGHUP, SIGINT, SIGTERM, SIGUSR1}) {
      EXPECT_EQ(::kill(kFirst, signal), 0);
      taken.push_back(signal_in(daemon.next()));
      EXPECT_NE(taken.back().keeper(), 0U);
      EXPECT_EQ(taken.back().sequence(), taken.size());
    }
    wire::Message done;
    done.mutable_ghost_signals_done()->add_sequences(2);
    done.mutable_ghost_signals_done()->add_sequences(4);
    done.mutable_ghost_signals_done()->add_sequences(5);  // there is none yet
    daemon.say(done);
    (void)daemon.ask(update_of({kFirst}));
    daemon.go_away();
    daemon.listen();
    EXPECT_TRUE(daemon.next().has_ghost_report());
    EXPECT_EQ(::kill(kFirst, SIGUSR2), 0);
    for (auto [sequence, signal] : {std::pair{1, SIGHUP}, {3, SIGTERM}, {5, SIGUSR2}}) {
      auto message = daemon.next();
      expect_signal(message, kFirst, signal);
      EXPECT_EQ(signal_in(message).sequence(), static_cast<std::uint64_t>(sequence));
      EXPECT_EQ(signal_in(message).keeper(), taken[0].keeper());
    }
  });
}

TEST(GhostService, AGroupsSignalsInOneMessage) {
  in_pid_namespace([] {
    constexpr int kMembers = 20;
    Daemon daemon;
    (void)daemon.next();
    wire::Message update;
    for (pid_t pid = kFirst; pid < kFirst + kMembers; ++pid) {
      auto& ghost = *update.mutable_ghost_update()->add_add();
      ghost.set_pid(static_cast<std::uint32_t>(pid));
      ghost.set_group(kFirst);
    }
    (void)daemon.ask(update);
    for (int signal : {SIGTERM, SIGSTOP, SIGCONT, SIGKILL}) {
      EXPECT_EQ(::kill(-kFirst, signal), 0);
      auto message = daemon.next();
      EXPECT_EQ(message.ghost_signals().signals_size(), kMembers) << signal;
      for (const auto& each : message.ghost_signals().signals())
        EXPECT_EQ(each.signal(), static_cast<std::uint32_t>(signal));
    }
    EXPECT_EQ(::kill(kFirst, SIGTERM), 0);
    expect_signal(daemon.next(), kFirst, SIGTERM);
  });
}

TEST(GhostService, EndsItsGhostsAtSigterm) {
  in_pid_namespace([] {
    Daemon daemon;
    (void)daemon.next();
    (void)daemon.ask(update_of({kFirst, kFirst + 1}));
    EXPECT_EQ(::kill(daemon.program(), SIGTERM), 0);
    auto status = wait_child(daemon.program(), deadline_in(std::chrono::seconds(20)));
    ASSERT_TRUE(status);
    EXPECT_EQ(*status, 0);
    EXPECT_EQ(kill_errno(kFirst, 0), ESRCH);
    EXPECT_EQ(kill_errno(kFirst + 1, 0), ESRCH);
  });
}

}  // namespace
}  // namespace gestalt
