#include "cli/group_witness.h"

#include <poll.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <csignal>
#include <cstring>
#include <ctime>

#include "common/paths.h"

namespace gestalt::cli {
namespace {

constexpr char kAsk = '?';
constexpr char kEnd = '.';
// A witness that is stopped does not answer; one that has to wait for a CPU does.
constexpr auto kAnswerTimeout = std::chrono::seconds(2);
// Of one group, one member has a signal a little before another.
constexpr timespec kBetweenMembers{.tv_sec = 0, .tv_nsec = 2'000'000};
// For gestaltd to see that we are still there.
constexpr unsigned kLingerSeconds = 3;

std::uint64_t bit(int signal) { return std::uint64_t{1} << (signal - 1); }

std::uint64_t take_pending(const sigset_t& all) {
  std::uint64_t mask = 0;
  timespec now{};
  for (int signal = 0; (signal = ::sigtimedwait(&all, nullptr, &now)) > 0;) mask |= bit(signal);
  return mask;
}

[[noreturn]] void witness(int socket, pid_t parent, const sigset_t& all) {
  while (true) {
    char question = kEnd;
    ssize_t count = ::recv(socket, &question, 1, 0);
    if (count < 0 && errno == EINTR) continue;
    if (count == 0 || ::getppid() != parent) ::sleep(kLingerSeconds);
    if (count <= 0 || question == kEnd) ::_exit(0);
    auto mask = take_pending(all);
    (void)!::send(socket, &mask, sizeof mask, MSG_NOSIGNAL);
  }
}

}  // namespace

void GroupWitness::start() {
  int ends[2];
  if (::socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends) != 0) return;
  socket_ = Fd(ends[0]);
  Fd theirs(ends[1]);
  sigset_t all;
  sigset_t before;
  ::sigfillset(&all);
  // What comes to the group from now on, the child has as well.
  ::sigprocmask(SIG_BLOCK, &all, &before);
  pid_t parent = ::getpid();
  pid_ = ::fork();
  if (pid_ == 0) {
    // The streams of this process are to end with it.
    ::dup2(theirs.get(), 0);
    ::close_range(1, ~0U, 0);
    ::prctl(PR_SET_NAME, paths::kWitnessName);
    std::ranges::fill(title_area_, '\0');
    std::memcpy(title_area_.data(), paths::kWitnessName,
                std::min(title_area_.size(), std::strlen(paths::kWitnessName)));
    witness(0, parent, all);
  }
  ::sigprocmask(SIG_SETMASK, &before, nullptr);
  if (pid_ < 0) return socket_.reset();
  seen_ |= ask();  // it has its name, by which gestaltd knows it
}

void GroupWitness::stop() {
  if (!socket_) return;
  (void)!::send(socket_.get(), &kEnd, 1, MSG_NOSIGNAL | MSG_DONTWAIT);
  socket_.reset();
  // One that is stopped does not end by itself; its pid is ours to kill until it is collected.
  siginfo_t info{};
  if (::waitid(P_PID, static_cast<id_t>(pid_), &info, WEXITED | WNOHANG | WNOWAIT) == 0)
    (void)::kill(pid_, SIGKILL);
  (void)::waitpid(pid_, nullptr, 0);
  seen_ = 0;
  unanswered_ = 0;
}

std::uint64_t GroupWitness::ask() {
  if (::send(socket_.get(), &kAsk, 1, MSG_NOSIGNAL | MSG_DONTWAIT) != 1) return 0;
  ++unanswered_;
  std::uint64_t seen = 0;
  // Answers that came too late for an earlier question are as good.
  for (auto deadline = deadline_in(kAnswerTimeout); unanswered_ > 0; --unanswered_) {
    std::uint64_t mask = 0;
    if (!wait_for(socket_.get(), POLLIN, deadline) ||
        ::recv(socket_.get(), &mask, sizeof mask, MSG_DONTWAIT) != sizeof mask)
      break;
    seen |= mask;
  }
  return seen;
}

bool GroupWitness::saw(int signal) {
  if (!socket_) return false;
  seen_ |= ask();
  if ((seen_ & bit(signal)) == 0) {
    (void)::nanosleep(&kBetweenMembers, nullptr);
    seen_ |= ask();
  }
  bool to_group = (seen_ & bit(signal)) != 0;
  seen_ &= ~bit(signal);
  return to_group;
}

}  // namespace gestalt::cli
