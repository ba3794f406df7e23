#include "daemon/stand_in/adopted_process.h"

#include <fcntl.h>
#include <linux/kcmp.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <termios.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstdlib>
#include <filesystem>
#include <map>
#include <set>
#include <sstream>

#include "common/format.h"
#include "common/log.h"
#include "common/proc.h"
#include "migrate/process_tree.h"

namespace gestalt {
namespace {

constexpr int kMostPasses = 100;
constexpr std::size_t kMaxArgumentBytes = 128U << 10;

// The lines of /proc/PID/status.
std::map<std::string, std::string> read_status(pid_t pid) {
  std::map<std::string, std::string> out;
  std::istringstream lines(read_file(formatted("/proc/{}/status", pid)).value_or(""));
  for (std::string line; std::getline(lines, line);)
    if (auto colon = line.find(':'); colon != std::string::npos)
      out[line.substr(0, colon)] = line.substr(colon + 1);
  return out;
}

// Real ids: who started it. A program with another's rights has those in its image.
Result<wire::Identity> read_identity(pid_t pid) {
  auto status = read_status(pid);
  wire::Identity out;
  std::uint32_t uid = 0, gid = 0;
  if (!(std::istringstream(status["Uid"]) >> uid) || !(std::istringstream(status["Gid"]) >> gid))
    return fail(ErrorCode::kGone, formatted("process {} has ended", pid));
  out.set_uid(uid);
  out.set_gid(gid);
  std::istringstream groups(status["Groups"]);
  for (std::uint32_t group = 0; groups >> group;) out.add_groups(group);
  return out;
}

std::uint64_t pending_signals(pid_t pid) {
  auto status = read_status(pid);
  std::uint64_t out = 0;
  for (const char* key : {"SigPnd", "ShdPnd"}) {
    std::uint64_t mask = 0;
    if (std::istringstream(status[key]) >> std::hex >> mask) out |= mask;
  }
  return out;
}

// What a session has beyond the node's mounts: daemon/view/session_mounts.cc.
bool is_of_view(const std::string& mount_point) {
  return mount_point == "/proc" || mount_point.starts_with("/proc/") ||
         mount_point == "/run/gestalt/proc" || mount_point == "/run/gestalt/machine" ||
         mount_point == "/sys/devices/system/cpu" || mount_point == "/sys/devices/system/node";
}

// Those that are not the view's: "DEVICE ROOT MOUNT-POINT" each.
std::multiset<std::string> other_mounts(const std::string& process) {
  std::multiset<std::string> out;
  std::istringstream lines(
      read_file(formatted("/proc/{}/mountinfo", process), 16U << 20).value_or(""));
  for (std::string line; std::getline(lines, line);) {
    std::istringstream fields(line);
    std::string skipped, device, root, mount_point;
    fields >> skipped >> skipped >> device >> root >> mount_point;
    if (!is_of_view(mount_point)) out.insert(formatted("{} {} {}", device, root, mount_point));
  }
  return out;
}

bool is_terminal(const struct stat& info) {
  return S_ISCHR(info.st_mode) && major(info.st_rdev) >= 136 && major(info.st_rdev) <= 143;
}

bool has_ended(pid_t pid) {
  auto stat = read_stat("/proc", pid);
  return !stat || stat->state == 'Z' || stat->state == 'X';
}

unsigned descriptor_flags(pid_t pid, int number) {
  auto info = read_file(formatted("/proc/{}/fdinfo/{}", pid, number)).value_or("");
  auto at = info.find("flags:");
  unsigned flags = 0;
  if (at == std::string::npos) return 0;
  std::istringstream words(info.substr(at + 6));
  words >> std::oct >> flags;
  return flags;
}

std::vector<std::string> argv_of(pid_t pid) {
  auto text = read_file(formatted("/proc/{}/cmdline", pid), 8U << 20).value_or("");
  text.resize(std::min(text.size(), kMaxArgumentBytes));
  std::vector<std::string> out;
  std::istringstream parts(text);
  for (std::string part; std::getline(parts, part, '\0');) out.push_back(std::move(part));
  return out;
}

}  // namespace

Result<std::unique_ptr<AdoptedProcess>> AdoptedProcess::adopt(pid_t pid, Cgroup& group) {
  std::unique_ptr<AdoptedProcess> out(new AdoptedProcess(pid, group));
  GESTALT_TRY(out->look());
  if (auto taken = out->take_tree(); !taken) {
    out->give_back();
    return std::unexpected(std::move(taken).error());
  }
  return out;
}

Result<void> AdoptedProcess::look() {
  GESTALT_ASSIGN(auto stat, read_stat("/proc", pid_));
  parent_pid_ = stat.parent_pid;
  session_pid_ = stat.session_id;
  group_pid_ = stat.group_id;
  GESTALT_ASSIGN(identity_, read_identity(pid_));
  GESTALT_ASSIGN(home_, Cgroup::of(pid_));
  // Any other mounts of its own it could not leave: pre-flight says so.
  if (other_mounts(std::to_string(pid_)) == other_mounts("self")) {
    GESTALT_ASSIGN(mounts_, open_file(formatted("/proc/{}/ns/mnt", pid_), O_RDONLY));
  }
  return {};
}

// What is born meanwhile is where its parent was at that moment. What has ended is in no group, and
// in the tree until its parent has the time to collect it.
Result<void> AdoptedProcess::take_tree() {
  for (int pass = 0; pass < kMostPasses; ++pass) {
    GESTALT_ASSIGN(auto tree, read_tree("/proc", pid_));
    GESTALT_ASSIGN(auto members, group_.processes());
    bool complete = true;
    for (pid_t pid : tree.pids) {
      if (std::ranges::contains(members, pid) || has_ended(pid)) continue;
      complete = false;
      auto added = group_.add(pid);
      if (!added && added.error().code != ErrorCode::kGone) return added;
    }
    if (complete) return {};
  }
  return fail(ErrorCode::kBusy, formatted("process {} starts others too fast", pid_),
              "try again later");
}

void move_members(Cgroup& from, Cgroup& to) {
  for (int pass = 0; pass < kMostPasses; ++pass) {
    auto members = from.processes();
    if (!members || members->empty()) return;
    for (pid_t pid : *members) {
      auto added = to.add(pid);
      if (added || added.error().code == ErrorCode::kGone) continue;
      log::error("a process cannot go back to its job", log::field("pid", pid),
                 log::field("error", added.error().text()));
      (void)from.kill();
      return;
    }
  }
}

void AdoptedProcess::give_back() { move_members(group_, *home_); }

// The file that it writes there, if it shares the offset with a process that stays (a shell's
// redirection of several commands): written by two, one would overwrite what the other has written.
// Without the leading slash, as CRIU names it.
std::string AdoptedProcess::shared_file(int number) const {
  struct stat own{};
  std::error_code error;
  if (::stat(descriptor_path(number).c_str(), &own) != 0 || !S_ISREG(own.st_mode)) return {};
  auto name = std::filesystem::read_symlink(descriptor_path(number), error).string();
  // What is appended goes to the end, whoever does it.
  if ((descriptor_flags(pid_, number) & O_APPEND) != 0) return {};
  if (own.st_nlink == 0 || !name.starts_with('/')) return {};
  for (pid_t pid : home_->processes().value_or(std::vector<pid_t>())) {
    std::error_code ended;
    for (const auto& entry :
         std::filesystem::directory_iterator(formatted("/proc/{}/fd", pid), ended)) {
      struct stat info{};
      if (::stat(entry.path().c_str(), &info) != 0 || info.st_ino != own.st_ino ||
          info.st_dev != own.st_dev)
        continue;
      auto other = std::strtoul(entry.path().filename().c_str(), nullptr, 10);
      if (::syscall(SYS_kcmp, pid_, pid, KCMP_FILE, number, other) == 0) return name.substr(1);
    }
  }
  return {};
}

std::string AdoptedProcess::descriptor_path(int number) const {
  return formatted("/proc/{}/fd/{}", pid_, number);
}

Result<void> AdoptedProcess::describe(wire::HandOver& hand_over) {
  pending_signals_ = pending_signals(pid_);
  std::array<wire::StdioKind, 3> kinds{};
  std::array<std::uint64_t, 3> inodes{};
  std::array<std::string, 3> shared;
  int terminal = -1;
  for (int number = 2; number >= 0; --number) {
    auto at = static_cast<std::size_t>(number);
    struct stat info{};
    kinds[at] = wire::STDIO_NULL;  // or a file, which the destination opens itself
    if (::stat(descriptor_path(number).c_str(), &info) != 0) continue;
    if (is_terminal(info)) {
      kinds[at] = wire::STDIO_TTY;
      terminal = number;
    } else if (S_ISFIFO(info.st_mode)) {
      kinds[at] = wire::STDIO_PIPE;
    } else if (number != 0 && !(shared[at] = shared_file(number)).empty()) {
      kinds[at] = wire::STDIO_PIPE;  // the deputy writes it
    }
    inodes[at] = info.st_ino;
  }
  stdio_.Clear();
  stdio_.set_in(kinds[0]);
  stdio_.set_out(kinds[1]);
  stdio_.set_err(kinds[2]);
  bool merged = kinds[1] == kinds[2] && kinds[1] != wire::STDIO_NULL && inodes[1] == inodes[2];
  stdio_.set_merge_err(merged);
  if (kinds[0] == wire::STDIO_PIPE) hand_over.mutable_input()->set_pipe_inode(inodes[0]);
  if (kinds[1] == wire::STDIO_PIPE) hand_over.mutable_output()->set_pipe_inode(inodes[1]);
  if (kinds[2] == wire::STDIO_PIPE && !merged) hand_over.mutable_error()->set_pipe_inode(inodes[2]);
  if (!shared[1].empty()) hand_over.mutable_output()->set_shared_file(shared[1]);
  if (!shared[2].empty() && !merged) hand_over.mutable_error()->set_shared_file(shared[2]);
  *hand_over.mutable_stdio() = stdio_;
  *hand_over.mutable_identity() = identity_;
  return terminal < 0 ? Result<void>() : describe_terminal(hand_over, terminal);
}

// Where only some of the streams are the terminal's, it stays with the home node's line
// discipline to edit lines, to echo and to make signals, as for `gestalt run`.
Result<void> AdoptedProcess::describe_terminal(wire::HandOver& hand_over, int number) const {
  GESTALT_ASSIGN(auto terminal, open_file(descriptor_path(number), O_RDWR | O_NOCTTY | O_NONBLOCK));
  termios settings{};
  winsize size{};
  if (::tcgetattr(terminal.get(), &settings) != 0 ||
      ::ioctl(terminal.get(), TIOCGWINSZ, &size) != 0)
    return fail_errno(errno, "read the terminal's settings");
  if (stdio_.in() != wire::STDIO_TTY || stdio_.out() != wire::STDIO_TTY) {
    settings.c_lflag &= ~static_cast<tcflag_t>(ECHO | ECHOE | ECHOK | ECHONL | ISIG);
    settings.c_oflag &= ~static_cast<tcflag_t>(OPOST);
  }
  hand_over.set_termios(&settings, sizeof settings);
  std::error_code error;
  hand_over.set_terminal_name(
      std::filesystem::read_symlink(descriptor_path(number), error).string());
  auto& window = *hand_over.mutable_stdio()->mutable_window();
  window.set_rows(size.ws_row);
  window.set_columns(size.ws_col);
  window.set_x_pixels(size.ws_xpixel);
  window.set_y_pixels(size.ws_ypixel);
  return {};
}

InjectedProgram AdoptedProcess::deputy(std::uint64_t job_id) const {
  InjectedProgram out{.path = kDeputyProgram, .argv = argv_of(pid_), .environment = {}};
  auto stat = read_stat("/proc", pid_);
  if (out.argv.empty()) out.argv.emplace_back("gestalt-deputy");
  out.environment = {
      "PATH=/usr/sbin:/usr/bin:/sbin:/bin",
      formatted("GESTALT_DEPUTY={} {} {} {} {} {:x}", job_id, static_cast<int>(stdio_.in()),
                static_cast<int>(stdio_.out()), static_cast<int>(stdio_.err()),
                stdio_.merge_err() ? 1 : 0, pending_signals_),
      "GESTALT_DEPUTY_NAME=" + (stat ? stat->comm : std::string())};
  return out;
}

}  // namespace gestalt
