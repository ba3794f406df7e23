// Forks all the time. A child verifies the memory it inherited, writes over some of it and
// verifies all again, then forks a child of its own that does the same, and reports by a
// pipe and its exit status. The parent writes on meanwhile: copies must stay apart.
#include <sys/prctl.h>
#include <sys/wait.h>

#include <vector>

#include "pages.h"

namespace {

using victim::bad;
using victim::check;
using victim::Dice;
using victim::must;

constexpr std::uint64_t kChildren = 2;   // at a time
constexpr std::uint64_t kDepth = 2;      // children and grandchildren
constexpr std::uint64_t kReported = 77;  // a child's exit status

class Memory {
 public:
  explicit Memory(std::size_t pages) : pages_(victim::map_pages(pages)), generations_(pages, 0) {
    for (std::size_t i = 0; i < pages; ++i) victim::fill(pages_[i], i, 0);
  }
  void rewrite_some(Dice& dice, std::uint64_t count, const char* who) {
    for (; count > 0; --count) {
      std::size_t i = dice.roll(pages_.size());
      victim::verify(pages_[i], i, generations_[i], who);
      victim::fill(pages_[i], i, ++generations_[i]);
    }
  }
  void verify_all(const char* who) const {
    for (std::size_t i = 0; i < pages_.size(); ++i)
      victim::verify(pages_[i], i, generations_[i], who);
  }
  std::size_t size() const { return pages_.size(); }

 private:
  std::span<victim::Page> pages_;
  std::vector<std::uint64_t> generations_;
};

void expect_report(pid_t child) {
  int status = 0;
  while (::waitpid(child, &status, 0) < 0)
    check(errno == EINTR, "waitpid: {}", std::strerror(errno));
  check(WIFEXITED(status) && WEXITSTATUS(status) == kReported,
        "child {} ended with wait status {:#x}", child, status);
}

[[noreturn]] void run_child(Memory& memory, std::uint64_t seed, std::uint64_t depth, int report) {
  const char* who = depth == 1 ? "child's" : "grandchild's";
  ::signal(SIGTERM, SIG_IGN);  // it ends by itself
  must(::prctl(PR_SET_PDEATHSIG, SIGKILL), "prctl");
  const pid_t parent = ::getppid();
  Dice dice(seed);
  memory.rewrite_some(dice, memory.size() / 16, who);
  pid_t child = 0;
  if (depth < kDepth && (child = must(::fork(), "fork")) == 0)
    run_child(memory, seed + 1, depth + 1, report);
  memory.rewrite_some(dice, memory.size() / 16, who);
  memory.verify_all(who);
  if (child != 0) expect_report(child);
  victim::same(parent, ::getppid(), "a child's parent");
  check(victim::write_all(report, {reinterpret_cast<const char*>(&seed), sizeof(seed)}),
        "write of a report: {}", std::strerror(errno));
  ::_exit(kReported);
}

// Child and grandchild reported: seed + 1, then seed.
void read_reports(int fd, std::uint64_t seed) {
  for (std::uint64_t want : {seed + 1, seed}) {
    std::uint64_t got = 0;
    ssize_t count = 0;
    while ((count = ::read(fd, &got, sizeof(got))) < 0)
      check(errno == EINTR, "read of a report: {}", std::strerror(errno));
    check(count == sizeof(got) && got == want, "report {} instead of {}", got, want);
  }
}

struct Child {
  pid_t pid;
  int reports;
  std::uint64_t seed;
};

Child start_child(Memory& memory, std::uint64_t seed) {
  int fds[2];
  must(::pipe2(fds, O_CLOEXEC), "pipe");
  pid_t pid = must(::fork(), "fork");
  if (pid == 0) {
    ::close(fds[0]);
    run_child(memory, seed, 1, fds[1]);
  }
  ::close(fds[1]);
  return {pid, fds[0], seed};
}

void finish(const Child& child) {
  read_reports(child.reports, child.seed);
  ::close(child.reports);
  expect_report(child.pid);
}

}  // namespace

int main(int argc, char** argv) {
  victim::Options defaults;
  defaults.rate = 2000;
  victim::Options options = victim::parse_options(argc, argv, defaults);
  victim::Run run(options);
  Memory memory(std::max<std::size_t>(options.mib, 1) * 256);
  victim::Pace pace(options.rate);
  Dice dice(1);
  std::vector<Child> children;
  std::uint64_t seed = 0;
  std::uint64_t reported = 0;
  run.ready();
  while (run.keep_going(reported)) {
    while (children.size() < kChildren) children.push_back(start_child(memory, seed += 10));
    for (int i = 0; i < 4; ++i) memory.rewrite_some(dice, pace.step(), "parent's");
    finish(children.front());
    children.erase(children.begin());
    ++reported;
  }
  for (const Child& child : children) finish(child);
  memory.verify_all("parent's");
  run.ok("mib={} children={}", options.mib, reported);
}
