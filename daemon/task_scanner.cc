#include "daemon/task_scanner.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <charconv>
#include <ctime>

#include "common/cgroup.h"
#include "common/format.h"

namespace gestalt {
namespace {

// So much of each node can be on its way to the views at once.
constexpr std::size_t kMessageBytes = 128U << 10;
// A process can change its command line without running for a whole tick.
constexpr std::uint64_t kFullReadRounds = 10;
constexpr std::size_t kCmdline = 3;
constexpr std::size_t kCgroup = 4;
constexpr std::size_t kEnviron = 5;

std::size_t limit_of(std::size_t index) {
  return index == kCmdline || index == kEnviron ? TaskScanner::kMaxArgumentsBytes
                                                : TaskScanner::kMaxTaskFileBytes;
}

std::uint64_t nanoseconds(clockid_t clock) {
  timespec now{};
  (void)::clock_gettime(clock, &now);
  return static_cast<std::uint64_t>(now.tv_sec) * 1'000'000'000U +
         static_cast<std::uint64_t>(now.tv_nsec);
}

// False if the file cannot be read: the process has ended. `at_once`: it is one record, which
// a read gives whole.
bool read_small(int directory, const char* path, std::size_t limit_bytes, std::string& into,
                bool at_once = false) {
  Fd fd(::openat(directory, path, O_RDONLY | O_CLOEXEC));
  if (!fd) return false;
  into.resize(std::min<std::size_t>(limit_bytes, 4096));
  std::size_t size = 0;
  while (true) {
    ssize_t count = ::read(fd.get(), into.data() + size, into.size() - size);
    if (count < 0) return false;
    if (count == 0) break;
    size += static_cast<std::size_t>(count);
    if (size == limit_bytes || (at_once && size < into.size())) break;
    if (size == into.size()) into.resize(std::min(limit_bytes, size * 4));
  }
  into.resize(size);
  return true;
}

// Field 22 of /proc/PID/stat.
std::uint64_t start_ticks_of(std::string_view stat) {
  auto position = stat.rfind(')');
  if (position == std::string_view::npos) return 0;
  for (int field = 2; field < 22; ++field) {
    position = stat.find(' ', position + 1);
    if (position == std::string_view::npos) return 0;
  }
  std::uint64_t ticks = 0;
  std::from_chars(stat.data() + position + 1, stat.data() + stat.size(), ticks);
  return ticks;
}

std::uint64_t job_of(std::string_view cgroup) {
  auto line = cgroup.find("0::");
  return line == std::string_view::npos ? 0 : job_of_cgroup(cgroup.substr(line));
}

}  // namespace

Result<void> TaskScanner::begin_round(const std::string& proc, std::vector<TaskGlimpse> tasks,
                                      Hidden hidden, const Sink& sink) {
  if (!directory_ || proc != proc_) {
    forget();
    GESTALT_ASSIGN(directory_, open_file(proc, O_RDONLY | O_DIRECTORY));
    proc_ = proc;
  }
  tasks_ = std::move(tasks);
  hidden_ = std::move(hidden);
  next_ = 0;
  ++round_;
  pending_.Clear();
  pending_bytes_ = 0;
  if (std::exchange(full_, false)) {
    known_.clear();
    node_hashes_.clear();
    environments_.clear();
    pending_.set_full(true);
    // At once: what is shown meanwhile is not of this node any more.
    flush(sink, false);
  }
  return {};
}

bool TaskScanner::step(std::size_t count, const Sink& sink) {
  for (; count > 0 && next_ < tasks_.size(); --count) {
    const auto& task = tasks_[next_++];
    if (task.pid >= hidden_.below_pid) read_task(task, sink);
  }
  return next_ < tasks_.size();
}

void TaskScanner::end_round(const Sink& sink) {
  for (auto it = known_.begin(); it != known_.end();) {
    if (it->second.seen_round == round_) {
      ++it;
      continue;
    }
    pending_.add_gone(it->first);
    it = known_.erase(it);
  }
  for (const char* name : kNodeFiles) {
    if (!read_small(directory_.get(), name, kMaxNodeFileBytes, buffer_)) continue;
    auto hash = std::hash<std::string>{}(buffer_);
    if (std::exchange(node_hashes_[name], hash) == hash) continue;
    auto& file = *pending_.add_files();
    file.set_name(name);
    file.set_content(buffer_);
    pending_bytes_ += buffer_.size();
    if (pending_bytes_ > kMessageBytes) flush(sink, false);
  }
  flush(sink, true);
}

void TaskScanner::forget() {
  full_ = true;
  round_ = 0;
}

bool TaskScanner::is_hidden(std::uint32_t pid, const Known& known) const {
  return hidden_.pids.contains(pid) || (known.job_id != 0 && hidden_.jobs.contains(known.job_id));
}

void TaskScanner::add_file(Known& known, std::size_t index, std::string content,
                           wire::ViewTask& task) {
  auto hash = std::hash<std::string>{}(content);
  if (std::exchange(known.hashes[index], hash) == hash) return;
  auto& file = *task.add_files();
  file.set_name(kTaskFiles[index]);
  pending_bytes_ += 64;
  if (content.size() > limit_of(index)) return file.set_too_large(true);
  if (index == kEnviron) {
    if (auto twin = twin_of(task.pid(), known); twin != 0) return file.set_same_as_pid(twin);
    environments_[hash] = task.pid();
  }
  pending_bytes_ += content.size();
  file.set_content(std::move(content));
}

std::uint32_t TaskScanner::twin_of(std::uint32_t pid, const Known& known) const {
  auto hash = known.hashes[kEnviron];
  auto found = environments_.find(hash);
  if (found == environments_.end() || found->second == pid) return 0;
  auto twin = known_.find(found->second);
  bool good = twin != known_.end() && twin->second.hashes[kEnviron] == hash &&
              twin->second.owner.private_uid == known.owner.private_uid;
  return good ? found->second : 0;
}

void TaskScanner::read_task(const TaskGlimpse& glimpse, const Sink& sink) {
  auto pid = glimpse.pid;
  // Each in its turn, that not all come in one round.
  bool due = (round_ + pid) % kFullReadRounds == 0;
  auto seen = known_.find(pid);
  if (!due && glimpse.signature != 0 && seen != known_.end() && seen->second.read &&
      seen->second.signature == glimpse.signature) {
    if (!is_hidden(pid, seen->second)) seen->second.seen_round = round_;
    return;
  }
  std::string stat_path = formatted("{}/stat", pid);
  if (!read_small(directory_.get(), stat_path.c_str(), kMaxTaskFileBytes, buffer_, true)) return;
  auto start_ticks = start_ticks_of(buffer_);
  auto [found, is_new] = known_.try_emplace(pid);
  Known& known = found->second;
  if (!is_new && known.start_ticks != start_ticks) known = Known{};  // another process
  bool first = !known.read;
  known.start_ticks = start_ticks;
  known.signature = glimpse.signature;
  bool changed = known.hashes[0] != std::hash<std::string>{}(buffer_);
  if (!first && !changed && !due) {
    if (!is_hidden(pid, known)) known.seen_round = round_;
    return;
  }
  auto files = read_files(pid, std::move(buffer_));
  if (!files) return;
  bool other_owner = files->owner != known.owner;
  known.owner = files->owner;
  known.read = true;
  known.job_id = job_of(files->contents[kCgroup]);
  if (is_hidden(pid, known)) {
    if (is_new) known_.erase(found);
    return;
  }
  known.seen_round = round_;
  wire::ViewTask task;
  task.set_pid(pid);
  for (std::size_t i = 0; i < std::size(kTaskFiles); ++i)
    add_file(known, i, std::move(files->contents[i]), task);
  if (task.files().empty() && !other_owner) return;
  task.set_uid(known.owner.uid);
  task.set_gid(known.owner.gid);
  task.set_private_uid(known.owner.private_uid);
  task.set_private_gid(known.owner.private_gid);
  *pending_.add_tasks() = std::move(task);
  if (pending_bytes_ > kMessageBytes) flush(sink, false);
}

// Nothing if it has ended.
std::optional<TaskScanner::Files> TaskScanner::read_files(std::uint32_t pid,
                                                          std::string stat) const {
  Files files;
  files.contents[0] = std::move(stat);
  auto directory = open_at(directory_.get(), std::to_string(pid), O_RDONLY | O_DIRECTORY);
  struct stat owner{};
  if (!directory || ::fstat(directory->get(), &owner) != 0) return std::nullopt;
  // The kernel's own answer to who may look closer.
  struct stat private_owner{};
  (void)::fstatat(directory->get(), "environ", &private_owner, AT_SYMLINK_NOFOLLOW);
  files.owner = {owner.st_uid, owner.st_gid, private_owner.st_uid, private_owner.st_gid};
  for (std::size_t i = 1; i < std::size(kTaskFiles); ++i) {
    bool read = read_small(directory->get(), kTaskFiles[i], limit_of(i) + 1, files.contents[i],
                           i < kCmdline);
    if (!read && i != kEnviron) return std::nullopt;
    if (!read) files.contents[i].clear();  // it is about to end
  }
  return files;
}

void TaskScanner::flush(const Sink& sink, bool last) {
  pending_.set_round(round_);
  pending_.set_last(last);
  auto now = nanoseconds(CLOCK_REALTIME);
  pending_.set_read_unix_nanoseconds(now);
  pending_.set_boot_unix_nanoseconds(now - nanoseconds(CLOCK_BOOTTIME));
  sink(std::move(pending_));
  pending_.Clear();
  pending_bytes_ = 0;
}

}  // namespace gestalt
