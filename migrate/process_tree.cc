#include "migrate/process_tree.h"

#include <dirent.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include <algorithm>
#include <charconv>
#include <filesystem>
#include <set>
#include <sstream>

#include "common/fd.h"
#include "common/proc.h"

namespace gestalt {
namespace {

constexpr std::size_t kMaxProcesses = 100'000;

Result<std::vector<pid_t>> children_of(const std::string& proc, pid_t pid, std::uint32_t& threads) {
  std::vector<pid_t> children;
  std::string tasks = std::format("{}/{}/task", proc, pid);
  GESTALT_ASSIGN(auto tids, list_pids(tasks));
  for (pid_t tid : tids) {
    ++threads;
    auto text = read_file(std::format("{}/{}/children", tasks, tid));
    if (!text) continue;  // the thread has ended
    std::istringstream numbers(*text);
    for (pid_t child = 0; numbers >> child;) children.push_back(child);
  }
  return children;
}

// Inode numbers of the internet sockets that the process' network namespace has.
std::set<std::string> internet_sockets(const std::string& proc, pid_t pid) {
  std::set<std::string> inodes;
  for (const char* table : {"tcp", "tcp6", "udp", "udp6", "raw", "raw6"}) {
    auto text = read_file(std::format("{}/{}/net/{}", proc, pid, table));
    if (!text) continue;
    std::istringstream lines(*text);
    std::string line;
    std::getline(lines, line);
    while (std::getline(lines, line)) {
      std::istringstream fields(line);
      std::string field;
      for (int i = 0; i < 10 && fields >> field; ++i) {
      }
      inodes.insert(std::format("socket:[{}]", field));
    }
  }
  return inodes;
}

bool movable_device(unsigned int device_major, unsigned int device_minor) {
  if (device_major == 1)
    return std::set{3U, 5U, 7U, 8U, 9U}.contains(device_minor);          // null, zero, full, random
  if (device_major == 5) return device_minor == 0 || device_minor == 2;  // tty, ptmx
  return device_major >= 136 && device_major <= 143;                     // pseudo-terminals
}

struct Inspection {
  const std::string& proc;
  pid_t pid;
  std::vector<Blocker>& blockers;

  void add(std::string what, std::string remedy) const {
    blockers.push_back({pid, std::move(what), std::move(remedy)});
  }

  void descriptor(const std::string& number, const std::string& target,
                  const std::set<std::string>& sockets) const {
    std::string what = std::format("descriptor {} ({})", number, target);
    if (target.contains("[io_uring]"))
      return add(what + " is an io_uring, which CRIU cannot save",
                 "let the program use another I/O interface");
    if (sockets.contains(target))
      return add(what + " is an internet socket, bound to this node's address",
                 "close it, or keep the process on this node");
    if (target.starts_with("/run/") || target.starts_with("/dev/shm/"))
      if (!target.ends_with(" (deleted)"))
        return add(what + " is a file that only this node has",
                   "keep the file on the shared file system");
    struct stat info{};
    if (::stat(std::format("{}/{}/fd/{}", proc, pid, number).c_str(), &info) != 0) return;
    if (S_ISBLK(info.st_mode) ||
        (S_ISCHR(info.st_mode) && !movable_device(major(info.st_rdev), minor(info.st_rdev))))
      add(what + " is a device of this node", "close it before the migration");
  }

  void descriptors() const {
    auto sockets = internet_sockets(proc, pid);
    std::error_code error;
    for (const auto& entry :
         std::filesystem::directory_iterator(std::format("{}/{}/fd", proc, pid), error)) {
      auto target = std::filesystem::read_symlink(entry.path(), error);
      if (!error) descriptor(entry.path().filename(), target, sockets);
    }
  }

  void mappings() const {
    auto text = read_file(std::format("{}/{}/maps", proc, pid), 256U << 20);
    if (!text) return;
    std::istringstream lines(*text);
    for (std::string line; std::getline(lines, line);) {
      if (line.contains(" /SYSV"))
        add("it has System V shared memory attached", "use POSIX or file-backed shared memory");
      else if (line.contains("[io_uring]"))
        add("it has an io_uring mapped", "let the program use another I/O interface");
      else if (line.contains(" /dev/") && !line.contains(" /dev/zero") &&
               !line.contains(" (deleted)"))
        add(std::format("it maps a device or node-local file ({})",
                        line.substr(line.find(" /dev/") + 1)),
            "unmap it before the migration");
    }
  }

  // Sets cannot be attributed to a process, only to their owner; losing one silently
  // would be worse than refusing once too often.
  void semaphores() const {
    auto ids = read_ids(proc, pid);
    auto text = read_file(std::format("{}/sysvipc/sem", proc));
    if (!ids || !text) return;
    std::istringstream lines(*text);
    std::string line;
    std::getline(lines, line);
    while (std::getline(lines, line)) {
      // key semid perms nsems uid gid cuid cgid otime ctime
      std::istringstream fields(line);
      long long key = 0, id = 0, permissions = 0, count = 0, uid = 0;
      if (fields >> key >> id >> permissions >> count >> uid &&
          uid == static_cast<long long>(ids->real_uid))
        return add("its user has System V semaphores on this node, which do not move",
                   "remove them (ipcs -s, ipcrm), or keep the process on this node");
    }
  }
};

constexpr int kMaxGenerations = 4096;

enum class Descent { kOfTheTree, kStray, kEnded, kUnclear };

Descent descent_of(const std::string& proc, const std::set<pid_t>& members, pid_t pid) {
  pid_t ancestor = pid;
  for (int i = 0; i < kMaxGenerations; ++i) {
    if (members.contains(ancestor)) return Descent::kOfTheTree;
    auto stat = read_stat(proc, ancestor);
    if (!stat) return ancestor == pid ? Descent::kEnded : Descent::kUnclear;
    // A first thread that has ended while others run is a zombie too.
    if (ancestor == pid && stat->state == 'Z' && stat->threads <= 1) return Descent::kEnded;
    if (stat->parent_pid <= 1) return Descent::kStray;
    ancestor = stat->parent_pid;
  }
  return Descent::kStray;
}

// CRIU would have to move the mounts too; a session's are of the leader alone.
bool in_other_mount_namespace(const std::string& proc, pid_t pid) {
  struct stat theirs{};
  struct stat ours{};
  return ::stat(std::format("{}/{}/ns/mnt", proc, pid).c_str(), &theirs) == 0 &&
         ::stat(std::format("{}/self/ns/mnt", proc).c_str(), &ours) == 0 &&
         theirs.st_ino != ours.st_ino;
}

}  // namespace

Result<ProcessTree> read_tree(const std::string& proc, pid_t root) {
  ProcessTree tree;
  tree.pids.push_back(root);
  for (std::size_t next = 0; next < tree.pids.size(); ++next) {
    auto children = children_of(proc, tree.pids[next], tree.threads);
    if (!children) {
      if (next == 0) return fail(ErrorCode::kGone, std::format("process {} does not exist", root));
      continue;
    }
    for (pid_t child : *children) tree.pids.push_back(child);
    if (tree.pids.size() > kMaxProcesses)
      return fail(ErrorCode::kBlocked, std::format("more than {} processes", kMaxProcesses));
  }
  return tree;
}

std::vector<pid_t> find_strays(const std::string& proc, const ProcessTree& tree,
                               const std::vector<pid_t>& pids) {
  std::set<pid_t> members(tree.pids.begin(), tree.pids.end());
  std::vector<pid_t> strays;
  for (pid_t pid : pids) {
    // An ancestor that ends meanwhile leaves its children to another one.
    auto descent = Descent::kUnclear;
    for (int i = 0; i < 10 && descent == Descent::kUnclear; ++i)
      descent = descent_of(proc, members, pid);
    if (descent == Descent::kStray || descent == Descent::kUnclear) strays.push_back(pid);
  }
  return strays;
}

Blocker stray_blocker(pid_t pid) {
  return {pid, "it left the process tree (its parent ended), but is of the same job",
          "end it, or start it as a job of its own"};
}

Result<std::vector<Blocker>> find_blockers(const std::string& proc, const ProcessTree& tree,
                                           const Cgroup& group) {
  std::vector<Blocker> blockers;
  GESTALT_ASSIGN(auto grouped, group.processes());
  for (pid_t pid : find_strays(proc, tree, grouped)) blockers.push_back(stray_blocker(pid));
  for (pid_t pid : tree.pids) {
    if (in_other_mount_namespace(proc, pid))
      blockers.push_back({pid, "it has its own mounts (a session's, or a container's)",
                          "start it with `gestalt run`"});
    Inspection inspection{proc, pid, blockers};
    inspection.descriptors();
    inspection.mappings();
  }
  Inspection{proc, tree.pids.front(), blockers}.semaphores();
  return blockers;
}

Result<void> refuse_blockers(const std::vector<Blocker>& blockers) {
  if (blockers.empty()) return {};
  std::string message = "cannot migrate";
  for (const auto& blocker : blockers)
    message += std::format("; process {}: {}", blocker.pid, blocker.what);
  std::string remedy = blockers.front().remedy;
  return fail(ErrorCode::kBlocked, message.substr(0, 4000), std::move(remedy));
}

}  // namespace gestalt
