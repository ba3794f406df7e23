#include "migrate/traits.h"

#include <fcntl.h>
#include <sched.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <charconv>
#include <memory>

#include "common/fd.h"
#include "common/format.h"
#include "common/log.h"
#include "common/proc.h"

namespace gestalt {
namespace {

constexpr std::uint32_t kMaxCpus = 8192;
constexpr int kWhoThread = 1;  // IOPRIO_WHO_PROCESS, which means one thread
constexpr int kMaxPid = 1 << 22;

class CpuSet {
 public:
  CpuSet() : set_(CPU_ALLOC(kMaxCpus), [](cpu_set_t* set) { CPU_FREE(set); }) {
    CPU_ZERO_S(bytes(), set_.get());
  }
  [[nodiscard]] static std::size_t bytes() { return CPU_ALLOC_SIZE(kMaxCpus); }
  [[nodiscard]] cpu_set_t* get() const { return set_.get(); }

 private:
  std::shared_ptr<cpu_set_t> set_;
};

// In ascending order; of a thread, or with 0 of the caller. Empty: not known.
std::vector<std::uint32_t> cpus_of(pid_t tid) {
  CpuSet set;
  std::vector<std::uint32_t> cpus;
  if (::sched_getaffinity(tid, CpuSet::bytes(), set.get()) != 0) return cpus;
  for (std::uint32_t cpu = 0; cpu < kMaxCpus; ++cpu)
    if (CPU_ISSET_S(cpu, CpuSet::bytes(), set.get())) cpus.push_back(cpu);
  return cpus;
}

std::optional<std::vector<std::uint32_t>> places_of(const std::vector<std::uint32_t>& cpus,
                                                    const std::vector<std::uint32_t>& available) {
  if (cpus == available || cpus.empty()) return std::nullopt;
  std::vector<std::uint32_t> places;
  for (std::uint32_t place = 0; place < available.size(); ++place)
    if (std::ranges::binary_search(cpus, available[place])) places.push_back(place);
  if (places.empty()) return std::nullopt;
  return places;
}

template <class Number>
bool take_number(std::string_view& text, Number& value, int base = 10) {
  auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value, base);
  if (error != std::errc()) return false;
  text.remove_prefix(static_cast<std::size_t>(end - text.data()));
  return true;
}

template <class Number>
std::optional<Number> read_number(const std::string& path, int base) {
  auto text = read_file(path, 64);
  Number value = 0;
  if (!text) return std::nullopt;
  std::string_view rest = *text;
  if (!take_number(rest, value, base)) return std::nullopt;
  return value;
}

bool take(std::string_view& text, char expected) {
  if (text.empty() || text.front() != expected) return false;
  text.remove_prefix(1);
  return true;
}

bool take_places(std::string_view& text, std::optional<std::vector<std::uint32_t>>& places) {
  if (take(text, '*')) return true;
  places.emplace();
  do {
    std::uint32_t place = 0;
    if (!take_number(text, place) || place >= kMaxCpus) return false;
    if (!places->empty() && place <= places->back()) return false;
    places->push_back(place);
  } while (take(text, ','));
  return true;
}

// "t TID SLACK PRIORITY CPUS"
bool take_thread(std::string_view line, ThreadTraits& out) {
  return take(line, 't') && take(line, ' ') && take_number(line, out.tid) && take(line, ' ') &&
         take_number(line, out.timer_slack_nanoseconds) && take(line, ' ') &&
         take_number(line, out.io_priority) && take(line, ' ') && take_places(line, out.cpus) &&
         line.empty() && out.tid > 0 && out.tid < kMaxPid;
}

// "p PID FILTER PERSONALITY"
bool take_process(std::string_view line, ProcessTraits& out) {
  return take(line, 'p') && take(line, ' ') && take_number(line, out.pid) && take(line, ' ') &&
         take_number(line, out.core_dump_filter) && take(line, ' ') &&
         take_number(line, out.personality) && line.empty() && out.pid > 0 && out.pid < kMaxPid &&
         (out.personality & ~kMovablePersonality) == 0;
}

Result<void> write_text(const std::string& path, const std::string& text) {
  GESTALT_ASSIGN(auto fd, open_file(path, O_WRONLY));
  if (::write(fd.get(), text.data(), text.size()) != static_cast<ssize_t>(text.size()))
    return fail_errno(errno, formatted("write {}", path));
  return {};
}

Result<void> set_cpus(pid_t tid, const std::vector<std::uint32_t>& cpus) {
  CpuSet set;
  for (auto cpu : cpus) CPU_SET_S(cpu, CpuSet::bytes(), set.get());
  if (::sched_setaffinity(tid, CpuSet::bytes(), set.get()) != 0)
    return fail_errno(errno, "set the CPUs of a thread");
  return {};
}

void warn(pid_t id, const Result<void>& done) {
  if (!done)
    log::warning("a trait of a process did not move", log::field("pid", id),
                 log::field("error", done.error().text()));
}

void set_thread(const ThreadTraits& thread, const std::vector<std::uint32_t>& available) {
  if (thread.cpus && !available.empty())
    warn(thread.tid, set_cpus(thread.tid, map_cpus(*thread.cpus, available)));
  if (::syscall(SYS_ioprio_set, kWhoThread, thread.tid, thread.io_priority) != 0)
    warn(thread.tid, fail_errno(errno, "set the I/O priority of a thread"));
  if (thread.timer_slack_nanoseconds != 0)
    warn(thread.tid, write_text(formatted("/proc/{}/timerslack_ns", thread.tid),
                                std::to_string(thread.timer_slack_nanoseconds)));
}

}  // namespace

std::vector<ProcessTraits> read_traits(const std::vector<pid_t>& pids) {
  auto available = cpus_of(0);
  std::vector<ProcessTraits> out;
  for (pid_t pid : pids) {
    auto tids = list_pids(formatted("/proc/{}/task", pid));
    auto filter = read_number<std::uint32_t>(formatted("/proc/{}/coredump_filter", pid), 16);
    if (!tids || !filter) continue;  // a zombie has none
    ProcessTraits process{.pid = pid,
                          .core_dump_filter = *filter,
                          .personality = read_personality("/proc", pid) & kMovablePersonality,
                          .threads = {}};
    for (pid_t tid : *tids) {
      auto priority = ::syscall(SYS_ioprio_get, kWhoThread, tid);
      if (priority < 0) continue;
      auto slack = read_number<std::uint64_t>(formatted("/proc/{}/timerslack_ns", tid), 10);
      process.threads.push_back({.tid = tid,
                                 .timer_slack_nanoseconds = slack.value_or(0),
                                 .io_priority = static_cast<int>(priority),
                                 .cpus = places_of(cpus_of(tid), available)});
    }
    out.push_back(std::move(process));
  }
  return out;
}

std::uint32_t read_personality(const std::string& proc, pid_t pid) {
  return read_number<std::uint32_t>(formatted("{}/{}/personality", proc, pid), 16).value_or(0);
}

std::uint32_t common_personality(const std::vector<ProcessTraits>& traits) {
  return traits.empty() ? 0 : traits.front().personality;
}

void set_traits(const std::vector<ProcessTraits>& traits, const std::set<pid_t>& threads) {
  auto available = cpus_of(0);
  for (const auto& process : traits) {
    if (!threads.contains(process.pid)) continue;
    warn(process.pid, write_text(formatted("/proc/{}/coredump_filter", process.pid),
                                 formatted("{:#x}", process.core_dump_filter)));
    for (const auto& thread : process.threads)
      if (threads.contains(thread.tid)) set_thread(thread, available);
  }
}

std::vector<std::uint32_t> map_cpus(const std::vector<std::uint32_t>& places,
                                    const std::vector<std::uint32_t>& available) {
  std::vector<std::uint32_t> cpus;
  for (auto place : places) cpus.push_back(available[place % available.size()]);
  std::ranges::sort(cpus);
  cpus.erase(std::ranges::unique(cpus).begin(), cpus.end());
  return cpus;
}

std::string encode_traits(const std::vector<ProcessTraits>& traits) {
  std::string text;
  for (const auto& process : traits) {
    text += formatted("p {} {} {}\n", process.pid, process.core_dump_filter, process.personality);
    for (const auto& thread : process.threads) {
      text +=
          formatted("t {} {} {} ", thread.tid, thread.timer_slack_nanoseconds, thread.io_priority);
      if (!thread.cpus) text += '*';
      for (std::size_t i = 0; thread.cpus && i < thread.cpus->size(); ++i)
        text += formatted("{}{}", i > 0 ? "," : "", (*thread.cpus)[i]);
      text += '\n';
    }
  }
  return text;
}

Result<std::vector<ProcessTraits>> decode_traits(std::string_view text) {
  std::vector<ProcessTraits> out;
  while (!text.empty()) {
    auto end = text.find('\n');
    auto line = text.substr(0, end);
    ThreadTraits thread;
    ProcessTraits process;
    if (end == std::string_view::npos)
      return fail(ErrorCode::kProtocol, "traits of processes that end too soon");
    if (take_process(line, process))
      out.push_back(std::move(process));
    else if (!out.empty() && take_thread(line, thread))
      out.back().threads.push_back(std::move(thread));
    else
      return fail(ErrorCode::kProtocol, "traits of processes that make no sense");
    text.remove_prefix(end + 1);
  }
  return out;
}

}  // namespace gestalt
