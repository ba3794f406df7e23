#include "migrate/blockers.h"

#include <linux/magic.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <map>
#include <set>
#include <sstream>

#include "common/fd.h"
#include "common/format.h"
#include "common/proc.h"
#include "migrate/criu_limits.h"
#include "migrate/deputy_blockers.h"
#include "migrate/descriptors.h"
#include "migrate/socket_tables.h"
#include "migrate/traits.h"

namespace gestalt {
namespace {

constexpr long kMessageQueueMagic = 0x19800202;  // mqueuefs: not among linux/magic.h

bool is_deleted(std::string_view path) { return path.ends_with(" (deleted)"); }

// That live in the memory of one machine.
bool is_nodes_own(const std::string& path) {
  struct statfs info{};
  if (::statfs(path.c_str(), &info) != 0) return false;
  return info.f_type == TMPFS_MAGIC || info.f_type == RAMFS_MAGIC ||
         info.f_type == HUGETLBFS_MAGIC || info.f_type == kMessageQueueMagic;
}

bool is_nfs(const std::string& path) {
  struct statfs info{};
  return ::statfs(path.c_str(), &info) == 0 && info.f_type == NFS_SUPER_MAGIC;
}

bool movable_device(unsigned int device_major, unsigned int device_minor) {
  if (device_major == 1)
    return std::set{3U, 5U, 7U, 8U, 9U}.contains(device_minor);          // null, zero, full, random
  if (device_major == 5) return device_minor == 0 || device_minor == 2;  // tty, ptmx
  return device_major >= 136 && device_major <= 143;                     // pseudo-terminals
}

// What a descriptor without a file can be that CRIU saves (criu.org/Checkpointing_files).
bool movable_anonymous(std::string_view target) {
  constexpr std::array<std::string_view, 8> kKinds = {"[eventfd]", "[eventpoll]", "[signalfd]",
                                                      "[timerfd]", "inotify",     "[fanotify]",
                                                      "[pidfd]",   "[bpf-map]"};
  return std::ranges::contains(kKinds, target.substr(target.find(':') + 1));
}

class Inspection {
 public:
  Inspection(const std::string& proc, const ProcessTree& tree, const UnitTies& ties)
      : proc_(proc),
        tree_(tree),
        own_network_(ties.network != nullptr ? inode_of(ties.network->descriptor()) : 0),
        own_mounts_(inode_of(ties.mounts)) {}

  std::vector<Blocker> run() {
    std::vector<Descriptor> all;
    for (pid_t pid : tree_.pids)
      std::ranges::copy(descriptors_of(proc_, pid), std::back_inserter(all));
    for (const auto& each : all) sockets_.insert(socket_inode(each.target));
    // Later than the descriptors: all of their sockets are in it.
    tables_ = read_socket_tables(proc_, tree_.pids.front());
    for (const auto& each : all) descriptor(each);
    for (pid_t pid : tree_.pids) {
      namespaces(pid);
      tracer(pid);
      personality(pid);
      mappings(pid);
    }
    semaphores(tree_.pids.front());
    return std::move(blockers_);
  }

 private:
  // Once for each process, however many mappings say the same.
  void add(pid_t pid, std::string what, std::string remedy) {
    if (said_.emplace(pid, what).second)
      blockers_.push_back({pid, std::move(what), std::move(remedy)});
  }

  void descriptor(const Descriptor& each) {
    auto text = each.text();
    if (auto inode = socket_inode(each.target); inode != 0) return socket(each, inode);
    if (each.target.starts_with("anon_inode:")) {
      if (!movable_anonymous(each.target))
        add(each.pid, text + " is of a kind that CRIU cannot save",
            "let the program use another interface, or keep it on this node");
      return;
    }
    auto path = formatted("{}/{}/fd/{}", proc_, each.pid, each.number);
    struct stat info{};
    if (::stat(path.c_str(), &info) != 0) return;  // closed meanwhile
    if (S_ISBLK(info.st_mode) ||
        (S_ISCHR(info.st_mode) && !movable_device(major(info.st_rdev), minor(info.st_rdev))))
      return add(each.pid, text + " is a device of this node", "close it before the migration");
    if (!S_ISREG(info.st_mode) && !S_ISDIR(info.st_mode)) return;
    auto name = each.target.substr(each.target.rfind('/') + 1);
    if (name.starts_with(".nfs") && is_nfs(path))
      return add(each.pid, text + " is a deleted file, which NFS keeps for this node only",
                 "close it before the migration");
    bool deleted = is_deleted(each.target) && info.st_nlink == 0;
    bool in_memory = each.target.starts_with("/memfd:");
    if (deleted && !in_memory && info.st_size > static_cast<off_t>(kMaxDeletedFileBytes))
      return add(each.pid,
                 formatted("{} is a deleted file of {} MiB; one of up to {} MiB moves along", text,
                           info.st_size >> 20, kMaxDeletedFileBytes >> 20),
                 "let the file keep a name");
    if (!deleted && !in_memory && is_nodes_own(path))
      add(each.pid, text + " is a file that only this node has",
          "keep the file on the shared file system");
  }

  void socket(const Descriptor& each, std::uint64_t inode) {
    auto text = each.text();
    if (tables_.internet.contains(inode)) {
      if (own_network_ == 0)
        return add(each.pid, text + " is an internet socket, bound to this node's address",
                   "start the job with `gestalt run --net own`");
      if (const auto& version = criu_without_internet_sockets(); !version.empty())
        add(each.pid,
            formatted("{} is an internet socket, which CRIU {} cannot save on this kernel", text,
                      version),
            "install CRIU 4.2 or newer on the nodes");
      return;
    }
    if (tables_.packet.contains(inode))
      return add(each.pid, text + " is a packet socket, bound to this node's interfaces",
                 "close it, or keep the process on this node");
    if (auto found = tables_.unix_peers.find(inode); found != tables_.unix_peers.end()) {
      if (found->second != 0 && !sockets_.contains(found->second))
        add(each.pid, text + " is connected to a process that would stay here",
            "close it, or start both as one job");
      return;
    }
    if (!tables_.knows(inode) && !movable_family(each))
      add(each.pid, text + " is of a family that CRIU cannot save",
          "close it before the migration");
  }

  // Of one that has no address yet, which is in no table.
  static bool movable_family(const Descriptor& each) {
    Fd process(static_cast<int>(::syscall(SYS_pidfd_open, each.pid, 0)));
    if (!process) return true;  // it has ended
    int number = -1;
    std::from_chars(each.number.data(), each.number.data() + each.number.size(), number);
    Fd socket(static_cast<int>(::syscall(SYS_pidfd_getfd, process.get(), number, 0)));
    int family = AF_UNSPEC;
    socklen_t length = sizeof family;
    if (!socket || ::getsockopt(socket.get(), SOL_SOCKET, SO_DOMAIN, &family, &length) != 0)
      return true;  // closed meanwhile
    return std::ranges::contains(std::array{AF_UNIX, AF_INET, AF_INET6, AF_NETLINK}, family);
  }

  void mappings(pid_t pid) {
    auto text = read_file(formatted("{}/{}/maps", proc_, pid), 256U << 20);
    if (!text) return;
    std::istringstream lines(*text);
    for (std::string line; std::getline(lines, line);) {
      auto at = line.find(" /");
      if (at != std::string::npos) mapping(pid, line.substr(at + 1));
      if (line.ends_with("[io_uring]"))
        add(pid, "it has an io_uring mapped", "let the program use another I/O interface");
    }
  }

  void mapping(pid_t pid, const std::string& path) {
    if (path.starts_with("/SYSV"))
      return add(pid, "it has System V shared memory attached",
                 "use POSIX or file-backed shared memory");
    if (path.starts_with("/secretmem"))
      return add(pid, "it has secret memory mapped (memfd_secret), which nobody may read",
                 "keep it on this node");
    if (is_deleted(path) || path == "/dev/zero") return;
    if (path.starts_with("/dev/") || is_nodes_own(path))
      add(pid, formatted("it maps a device or node-local file ({})", path),
          "unmap it before the migration");
  }

  // CRIU would have to move them too; a session's mounts are of the leader alone. Times are
  // CRIU's own doing: each process that it restores is in a namespace of them.
  void namespaces(pid_t pid) {
    constexpr std::array<std::pair<const char*, const char*>, 6> kKinds = {
        {{"mnt", "mounts (a session's, or a container's)"},
         {"pid_for_children", "process numbers (a container's)"},
         {"user", "users (a container's)"},
         {"net", "network (a container's)"},
         {"ipc", "System V objects (a container's)"},
         {"uts", "host name (a container's)"}}};
    for (const auto& [kind, meaning] : kKinds) {
      struct stat theirs{};
      struct stat ours{};
      bool differ = ::stat(formatted("{}/{}/ns/{}", proc_, pid, kind).c_str(), &theirs) == 0 &&
                    ::stat(formatted("/proc/self/ns/{}", kind).c_str(), &ours) == 0 &&
                    theirs.st_ino != ours.st_ino;
      if (differ && theirs.st_ino != own_network_ && theirs.st_ino != own_mounts_)
        add(pid, formatted("it has its own {}", meaning), "start it with `gestalt run`");
    }
  }

  void tracer(pid_t pid) {
    auto text = read_file(formatted("{}/{}/status", proc_, pid));
    constexpr std::string_view kKey = "\nTracerPid:\t";
    auto at = text ? text->find(kKey) : std::string::npos;
    if (at == std::string::npos || (*text)[at + kKey.size()] == '0') return;
    auto tracer = text->substr(at + kKey.size(), text->find('\n', at + 1) - at - kKey.size());
    add(pid, formatted("process {} traces it (a debugger, or strace)", tracer),
        "detach it before the migration");
  }

  void personality(pid_t pid) {
    auto own = read_personality(proc_, pid);
    if ((own & ~kMovablePersonality) != 0)
      add(pid, formatted("it has a personality that does not move ({:#x})", own),
          "start it without setarch(8), or with --addr-no-randomize alone");
    else if (own != read_personality(proc_, tree_.pids.front()))
      add(pid, formatted("its personality is not that of its job ({:#x})", own),
          "start the whole job by setarch(8)");
  }

  // Sets cannot be attributed to a process, only to their owner; losing one silently
  // would be worse than refusing once too often.
  void semaphores(pid_t pid) {
    auto ids = read_ids(proc_, pid);
    auto text = read_file(formatted("{}/sysvipc/sem", proc_));
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
        return add(pid, "its user has System V semaphores on this node, which do not move",
                   "remove them (ipcs -s, ipcrm), or keep the process on this node");
    }
  }

  static ino_t inode_of(int descriptor) {
    struct stat info{};
    return descriptor >= 0 && ::fstat(descriptor, &info) == 0 ? info.st_ino : 0;
  }

  const std::string& proc_;
  const ProcessTree& tree_;
  ino_t own_network_ = 0;
  ino_t own_mounts_ = 0;
  std::unordered_set<std::uint64_t> sockets_;  // of the unit
  SocketTables tables_;
  std::set<std::pair<pid_t, std::string>> said_;
  std::vector<Blocker> blockers_;
};

}  // namespace

std::vector<Blocker> find_blockers(const std::string& proc, const ProcessTree& tree,
                                   const UnitTies& ties) {
  auto blockers = own_deputies(proc, tree);
  std::ranges::copy(Inspection(proc, tree, ties).run(), std::back_inserter(blockers));
  if (ties.deputy) std::ranges::copy(deputy_blockers(proc, tree), std::back_inserter(blockers));
  return blockers;
}

Result<std::vector<Blocker>> find_blockers(const std::string& proc, const ProcessTree& tree,
                                           const Cgroup& group, const UnitTies& ties) {
  GESTALT_ASSIGN(auto grouped, group.processes());
  std::vector<Blocker> blockers;
  for (pid_t pid : find_strays(proc, tree, grouped)) blockers.push_back(stray_blocker(pid));
  std::ranges::copy(find_blockers(proc, tree, ties), std::back_inserter(blockers));
  return blockers;
}

std::uint64_t anonymous_bytes(const std::string& proc, const ProcessTree& tree) {
  std::uint64_t kib = 0;
  for (pid_t pid : tree.pids) {
    auto text = read_file(formatted("{}/{}/status", proc, pid));
    if (!text) continue;  // it has ended
    std::istringstream lines(*text);
    for (std::string key; lines >> key;) {
      std::uint64_t value = 0;
      if ((key == "RssAnon:" || key == "VmSwap:") && lines >> value) kib += value;
      lines.ignore(1 << 16, '\n');
    }
  }
  return kib * 1024;
}

std::vector<Blocker> destination_blockers(const std::string& proc, const ProcessTree& tree,
                                          const wire::MigrationDestination& destination,
                                          bool any_cpu) {
  std::vector<Blocker> blockers;
  pid_t root = tree.pids.front();
  auto needed = anonymous_bytes(proc, tree);
  auto available = destination.memory_available_bytes();
  if (available != 0 && needed > available)
    blockers.push_back({root,
                        formatted("it has {} MiB of memory, and {} has {} MiB available",
                                  needed >> 20, destination.node(), available >> 20),
                        "choose a node with more memory"});
  if (any_cpu || destination.missing_cpu_features().empty()) return blockers;
  std::string missing;
  for (const auto& name : destination.missing_cpu_features())
    missing += (missing.empty() ? "" : ", ") + name;
  blockers.push_back(
      {root,
       formatted("it may use what the CPUs of {} do not have ({})", destination.node(), missing),
       "choose a node with the same kind of CPU, or --any-cpu if you know that it does not"});
  return blockers;
}

Blocker stray_blocker(pid_t pid) {
  return {pid, "it left the process tree (its parent ended), but is of the same job",
          "end it, or start it as a job of its own"};
}

Result<void> refuse_blockers(const std::vector<Blocker>& blockers) {
  if (blockers.empty()) return {};
  std::string message = "cannot migrate";
  for (const auto& blocker : blockers)
    message += formatted("; process {}: {}", blocker.pid, blocker.what);
  std::string remedy = blockers.front().remedy;
  return fail(ErrorCode::kBlocked, message.substr(0, 4000), std::move(remedy));
}

}  // namespace gestalt
