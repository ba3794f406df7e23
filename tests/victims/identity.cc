// What a process knows about itself must stay as it is, on whatever node: ids, groups,
// capabilities, session, umask, directory, limits, scheduling, environment, arguments,
// what its standard descriptors are.
#include <linux/capability.h>
#include <sched.h>
#include <sys/personality.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>

#include <array>
#include <map>
#include <mutex>
#include <thread>
#include <vector>

#include "victim.h"

extern char** environ;

namespace {

using victim::must;

// A pipe that was opened by name has it, one made by pipe(2) has not: it means nothing.
constexpr int kLargeFile = 0100000;

using Facts = std::map<std::string, std::string>;

std::string read_text(const char* path) {
  int fd = ::open(path, O_RDONLY | O_CLOEXEC);
  if (fd < 0) return std::format("(errno {})", errno);
  std::string text(65536, '\0');
  ssize_t count = ::read(fd, text.data(), text.size());
  ::close(fd);
  text.resize(count < 0 ? 0 : static_cast<std::size_t>(count));
  return text;
}

std::string read_link(const char* path) {
  std::array<char, 4096> target{};
  ssize_t count = ::readlink(path, target.data(), target.size());
  return count < 0 ? std::format("(errno {})", errno)
                   : std::string(target.data(), static_cast<std::size_t>(count));
}

void add_ids(Facts& facts) {
  uid_t ruid = 0, euid = 0, suid = 0;
  gid_t rgid = 0, egid = 0, sgid = 0;
  must(::getresuid(&ruid, &euid, &suid), "getresuid");
  must(::getresgid(&rgid, &egid, &sgid), "getresgid");
  facts["pid"] = std::to_string(::getpid());
  facts["parent"] = std::to_string(::getppid());
  facts["session"] = std::to_string(::getsid(0));
  facts["group"] = std::to_string(::getpgid(0));
  facts["uids"] = std::format("{} {} {}", ruid, euid, suid);
  facts["gids"] = std::format("{} {} {}", rgid, egid, sgid);
  std::array<gid_t, 256> groups{};
  int count = must(::getgroups(groups.size(), groups.data()), "getgroups");
  for (int i = 0; i < count; ++i)
    facts["groups"] += std::format("{} ", groups[static_cast<std::size_t>(i)]);
}

void add_capabilities(Facts& facts) {
  __user_cap_header_struct header{_LINUX_CAPABILITY_VERSION_3, 0};
  std::array<__user_cap_data_struct, 2> data{};
  must(::syscall(SYS_capget, &header, data.data()), "capget");
  for (const auto& part : data)
    facts["capabilities"] +=
        std::format("{:x} {:x} {:x} ", part.effective, part.permitted, part.inheritable);
  facts["no_new_privs"] = std::to_string(::prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0));
  facts["dumpable"] = std::to_string(::prctl(PR_GET_DUMPABLE));
  facts["securebits"] = std::to_string(::prctl(PR_GET_SECUREBITS));
}

void add_limits(Facts& facts) {
  for (int resource = 0; resource < static_cast<int>(RLIM_NLIMITS); ++resource) {
    rlimit limit{};
    must(::getrlimit(static_cast<__rlimit_resource>(resource), &limit), "getrlimit");
    facts[std::format("limit {}", resource)] = std::format("{} {}", limit.rlim_cur, limit.rlim_max);
  }
}

int is_subreaper() {
  int value = 0;
  must(::prctl(PR_GET_CHILD_SUBREAPER, &value), "prctl");
  return value;
}

// What each thread has of its own.
void add_thread_scheduling(Facts& facts, const std::string& of) {
  cpu_set_t cpus;
  CPU_ZERO(&cpus);
  must(::sched_getaffinity(0, sizeof cpus, &cpus), "sched_getaffinity");
  for (int cpu = 0; cpu < CPU_SETSIZE; ++cpu)
    if (CPU_ISSET(cpu, &cpus)) facts[of + "cpus"] += std::format("{} ", cpu);
  constexpr int kThisThread = 1;
  facts[of + "I/O priority"] = std::to_string(::syscall(SYS_ioprio_get, kThisThread, 0));
  facts[of + "timer slack"] = std::to_string(::prctl(PR_GET_TIMERSLACK));
}

// Of a second thread, which looks at itself.
std::mutex other_mutex;
Facts other_facts;

void set_thread_scheduling(int cpu_from_last, int io_level, unsigned long slack) {
  cpu_set_t cpus;
  CPU_ZERO(&cpus);
  must(::sched_getaffinity(0, sizeof cpus, &cpus), "sched_getaffinity");
  std::vector<int> known;
  for (int cpu = 0; cpu < CPU_SETSIZE; ++cpu)
    if (CPU_ISSET(cpu, &cpus)) known.push_back(cpu);
  auto back = std::min(static_cast<std::size_t>(cpu_from_last), known.size() - 1);
  CPU_ZERO(&cpus);
  CPU_SET(known[known.size() - 1 - back], &cpus);
  must(::sched_setaffinity(0, sizeof cpus, &cpus), "sched_setaffinity");
  constexpr int kBestEffort = 2 << 13;
  constexpr int kThisThread = 1;
  must(::syscall(SYS_ioprio_set, kThisThread, 0, kBestEffort | io_level), "ioprio_set");
  must(::prctl(PR_SET_TIMERSLACK, slack), "prctl");
}

void other_thread() {
  set_thread_scheduling(1, 7, 234'567);
  while (true) {
    Facts now;
    add_thread_scheduling(now, "the other thread's ");
    {
      std::lock_guard lock(other_mutex);
      other_facts = std::move(now);
    }
    victim::sleep_ms(5);
  }
}

void add_scheduling(Facts& facts) {
  errno = 0;
  facts["nice"] = std::to_string(::getpriority(PRIO_PROCESS, 0));
  sched_param parameters{};
  must(::sched_getparam(0, &parameters), "sched_getparam");
  facts["scheduler"] = std::format("{} {}", ::sched_getscheduler(0), parameters.sched_priority);
  facts["oom_score_adj"] = read_text("/proc/self/oom_score_adj");
  facts["coredump_filter"] = read_text("/proc/self/coredump_filter");
  facts["subreaper"] = std::to_string(is_subreaper());
  facts["transparent huge pages off"] = std::to_string(::prctl(PR_GET_THP_DISABLE, 0, 0, 0, 0));
  add_thread_scheduling(facts, "");
  std::lock_guard lock(other_mutex);
  for (const auto& [what, value] : other_facts) facts[what] = value;
  facts["personality"] = std::to_string(::personality(0xffffffff));
}

void add_surroundings(Facts& facts) {
  mode_t mask = ::umask(0);
  ::umask(mask);
  facts["umask"] = std::format("{:o}", mask);
  std::array<char, 4096> directory{};
  if (::getcwd(directory.data(), directory.size()) == nullptr) victim::bad("getcwd");
  struct stat info{};
  must(::stat(".", &info), "stat .");
  facts["directory"] = std::format("{} inode {}", directory.data(), info.st_ino);
  facts["root"] = read_link("/proc/self/root");
  facts["program"] = read_link("/proc/self/exe");
  facts["arguments"] = read_text("/proc/self/cmdline");
  facts["environment in /proc"] = read_text("/proc/self/environ");
  std::array<char, 16> name{};
  must(::prctl(PR_GET_NAME, name.data()), "prctl");
  facts["name"] = name.data();
  for (char** entry = environ; *entry != nullptr; ++entry)
    facts["environment"] += std::string(*entry) + "\n";
}

void add_descriptors(Facts& facts) {
  for (int fd = 0; fd < 16; ++fd) {
    struct stat info{};
    std::string kind = "closed";
    if (::fstat(fd, &info) == 0)
      kind = std::format("type {:o} flags {:o} close-on-exec {} tty {}", info.st_mode & S_IFMT,
                         ::fcntl(fd, F_GETFL) & ~kLargeFile, ::fcntl(fd, F_GETFD), ::isatty(fd));
    facts[std::format("descriptor {}", fd)] = kind;
  }
}

Facts read_facts() {
  Facts facts;
  add_ids(facts);
  add_capabilities(facts);
  add_limits(facts);
  add_scheduling(facts);
  add_surroundings(facts);
  add_descriptors(facts);
  return facts;
}

void set_own_facts() {
  rlimit limit{};
  must(::getrlimit(RLIMIT_NOFILE, &limit), "getrlimit");
  limit.rlim_cur = std::min<rlim_t>(limit.rlim_max, 123);
  must(::setrlimit(RLIMIT_NOFILE, &limit), "setrlimit");
  ::umask(027);
  errno = 0;
  if (::nice(3) == -1 && errno != 0) victim::bad("nice");
  must(::prctl(PR_SET_NAME, "identity-victim"), "prctl");
  must(::prctl(PR_SET_CHILD_SUBREAPER, 1), "prctl");
  must(::prctl(PR_SET_THP_DISABLE, 1, 0, 0, 0), "prctl");
  set_thread_scheduling(0, 5, 123'456);
  int filter = must(::open("/proc/self/coredump_filter", O_WRONLY | O_CLOEXEC), "coredump_filter");
  must(::write(filter, "0x13", 4), "coredump_filter");
  ::close(filter);
  std::thread(other_thread).detach();
  while (true) {
    std::lock_guard lock(other_mutex);
    if (!other_facts.empty()) break;
  }
}

}  // namespace

int main(int argc, char** argv) {
  victim::Options options = victim::parse_options(argc, argv);
  victim::Run run(options);
  set_own_facts();
  const Facts before = read_facts();
  run.ready();
  std::uint64_t rounds = 0;
  while (run.keep_going(rounds)) {
    Facts now = read_facts();
    std::string differences;
    for (const auto& [what, value] : before)
      if (now[what] != value)
        differences += std::format("{}: {} became {}; ", what, value, now[what]);
    victim::same(std::string(), differences, "what differs");
    victim::same(before.size(), now.size(), "number of facts");
    ++rounds;
    victim::sleep_ms(10);
  }
  run.ok("facts={} rounds={}", before.size(), rounds);
}
