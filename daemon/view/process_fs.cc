#include "daemon/view/process_fs.h"

#include <dirent.h>
#include <fcntl.h>
#include <sys/stat.h>

#include <algorithm>
#include <charconv>
#include <cstring>

#include "common/format.h"
#include "daemon/view/process_entries.h"

namespace gestalt {
namespace {

// Inode numbers say what they stand for:
//   1                                the root
//   kNames + index                   a name in /proc
//   kLocal | pid                     a process of the leader
//   kRemote | serial << 8 | place    another node's; place 0: /proc/PID, n: its n-th entry,
//                                    126: attr/current; 128 more: the same in task/PID
//   kDynamic | id                    what only the node knows of: fd/3, task/7/stat
//   LocalDirectories::kMark | …      .PID and what is in it
constexpr std::uint64_t kNames = 0x1000;
constexpr std::uint64_t kLocal = 1ULL << 40;
constexpr std::uint64_t kRemote = 1ULL << 41;
constexpr std::uint64_t kDynamic = 1ULL << 42;
constexpr std::uint64_t kLabelPlace = 126;
constexpr std::uint64_t kInTask = 128;

constexpr double kForever = 3600;
constexpr double kFetchedSeconds = 0.5;
constexpr auto kFetchedFresh = std::chrono::milliseconds(500);
constexpr std::size_t kFetchedKept = 512;
constexpr int kHandleMilliseconds = 200;     // for the kernel to walk a path again
constexpr time_t kSomeTime = 1'000'000'000;  // mtime: constant while a content is

std::optional<std::uint32_t> number(std::string_view text) {
  std::uint32_t value = 0;
  auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (text.empty() || text[0] == '0' || error != std::errc() || end != text.data() + text.size())
    return std::nullopt;
  return value;
}

int errno_of(const Error& error) {
  switch (error.code) {
    case ErrorCode::kGone:
    case ErrorCode::kNotFound:
      return ENOENT;
    case ErrorCode::kPermission:
      return EACCES;
    case ErrorCode::kTimeout:
    case ErrorCode::kUnavailable:
      return ESRCH;  // what readers of /proc expect of a process that is not there
    default:
      return EIO;
  }
}

}  // namespace

ProcessFs::ProcessFs(const ClusterModel& model, ProcessFsOptions options, Fetch fetch)
    : model_(model),
      options_(std::move(options)),
      fetch_(std::move(fetch)),
      local_directories_(options_.native.get(), options_.native_path) {
  int fd = ::openat(options_.native.get(), ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (DIR* listing = fd < 0 ? nullptr : ::fdopendir(fd)) {
    while (const dirent* entry = ::readdir(listing)) {
      std::string name = entry->d_name;
      if (name[0] != '.' && (name[0] < '0' || name[0] > '9')) names_.push_back(std::move(name));
    }
    ::closedir(listing);
  }
  names_.emplace_back("gestalt");
  for (const auto& name : names_)
    is_machine_.push_back(name == "gestalt" || std::ranges::contains(options_.machine_names, name));
}

ProcessFs::Node ProcessFs::node_of(std::uint64_t inode) const {
  Node node;
  if (inode == FUSE_ROOT_ID) {
    node.kind = Node::Kind::kRoot;
    node.mode = S_IFDIR | 0555;
  } else if (LocalDirectories::is_one(inode)) {
    auto there = local_directories_.attributes(inode);
    if (!there) return node;
    node.kind = Node::Kind::kLocalDirectory;
    node.mode = there->st_mode;
  } else if ((inode & kDynamic) != 0) {
    auto found = dynamic_.find(inode);
    if (found == dynamic_.end()) return node;
    node.task = model_.by_serial(found->second.serial);
    if (node.task == nullptr) return node;
    node.kind = Node::Kind::kDynamic;
    node.path = found->second.path;
    node.mode = found->second.mode;
  } else if ((inode & kRemote) != 0) {
    node.task = model_.by_serial((inode & ~kRemote) >> 8);
    if (node.task == nullptr) return node;
    auto place = inode & 0xff;
    node.in_task = place >= kInTask;
    if (node.in_task) node.path = formatted("task/{}", node.task->pid);
    place %= kInTask;
    mode_t directory = options_.hidepid > 0 ? 0500 : 0555;
    node.kind = Node::Kind::kProcess;
    node.mode = S_IFDIR | directory;
    if (place == 0) return node;
    node.kind = place == kLabelPlace ? Node::Kind::kLabel : Node::Kind::kEntry;
    node.mode = S_IFREG | 0444;
    if (place == kLabelPlace) return node;
    node.index = place - 1;
    if (node.index >= process_entries().size()) return Node{};
    if (!node.path.empty()) node.path += '/';
    node.path += process_entries()[node.index].name;
    node.mode = process_entries()[node.index].mode;
  } else if ((inode & kLocal) != 0) {
    node.kind = Node::Kind::kLocal;
    node.pid = static_cast<std::uint32_t>(inode & ~kLocal);
    node.mode = S_IFLNK | 0777;
  } else if (inode >= kNames && inode - kNames < names_.size()) {
    node.kind = Node::Kind::kName;
    node.index = inode - kNames;
    // sysctl(8) wants a directory there: the real one is bound over it.
    node.mode = names_[node.index] == "sys" ? S_IFDIR | 0555 : S_IFLNK | 0777;
  }
  return node;
}

bool ProcessFs::is_fetched(const Node& node) const {
  if (!S_ISREG(node.mode)) return false;
  if (node.kind == Node::Kind::kDynamic) return true;
  if (node.kind != Node::Kind::kEntry) return false;
  const auto& entry = process_entries()[node.index];
  return entry.pushed ? !node.task->is_told(*entry.pushed) : !entry.made_here;
}

// The size of a file is asked for, then mostly its content: that is made once.
const std::string* ProcessFs::text(std::uint64_t inode, const Node& node) const {
  if (last_inode_ != inode) {
    auto made = content(node);
    if (!made) return nullptr;
    last_text_ = std::move(*made);
    last_inode_ = inode;
  }
  return &last_text_;
}

std::optional<std::string> ProcessFs::content(const Node& node) const {
  if (node.kind == Node::Kind::kLabel) return node.task->node + "\n";
  if (node.kind != Node::Kind::kEntry) return std::nullopt;
  const auto& entry = process_entries()[node.index];
  bool traced = options_.viewer == 0 || options_.viewer == node.task->private_uid;
  if (entry.pushed && !node.task->is_told(*entry.pushed)) return std::nullopt;
  if (entry.pushed) return model_.content(*node.task, *entry.pushed, traced);
  if (entry.name == "wchan") return "0";  // as for those who may not trace
  if (entry.name == "comm")
    return std::string(comm_of_stat(node.task->contents[static_cast<int>(TaskFile::kStat)])) + "\n";
  return std::nullopt;
}

struct stat ProcessFs::attributes(std::uint64_t inode, const Node& node) const {
  using Attributes = struct stat;
  if (node.kind == Node::Kind::kLocalDirectory)
    return local_directories_.attributes(inode).value_or(Attributes{});
  struct stat out{};
  out.st_ino = inode;
  out.st_mode = node.mode;
  out.st_nlink = S_ISDIR(node.mode) ? 2 : 1;
  out.st_blksize = 4096;
  out.st_mtim.tv_sec = out.st_atim.tv_sec = out.st_ctim.tv_sec = kSomeTime;
  if (node.task != nullptr) {
    bool is_private = S_ISLNK(node.mode) || (node.mode & S_IROTH) == 0;
    is_private = is_private && node.kind != Node::Kind::kProcess;
    out.st_uid = is_private ? node.task->private_uid : node.task->uid;
    out.st_gid = is_private ? node.task->private_gid : node.task->gid;
  }
  if (const auto* made = text(inode, node)) out.st_size = static_cast<off_t>(made->size());
  if (!is_fetched(node)) return out;
  if (auto found = fetched_.find(inode); found != fetched_.end()) {
    out.st_size = static_cast<off_t>(found->second.content.size());
    out.st_mtim.tv_nsec = static_cast<long>(found->second.version % 1'000'000'000);
  }
  return out;
}

bool ProcessFs::visible(const ViewedTask& task, const fuse_ctx& caller) const {
  return options_.hidepid < 2 || caller.uid == 0 || task.uid == options_.viewer;
}

bool ProcessFs::is_local(std::string_view pid, const fuse_ctx& caller) const {
  struct stat owner{};
  if (::fstatat(options_.native.get(), std::string(pid).c_str(), &owner, 0) != 0) return false;
  return options_.hidepid < 2 || caller.uid == 0 || owner.st_uid == options_.viewer;
}

std::uint64_t ProcessFs::intern(const ViewedTask& task, std::string path, mode_t mode) {
  auto [found, is_new] = dynamic_ids_.try_emplace({task.serial, path}, next_dynamic_ | kDynamic);
  if (is_new) {
    ++next_dynamic_;
    dynamic_[found->second] = {
        .serial = task.serial, .path = std::move(path), .mode = mode, .lookups = 0};
  }
  return found->second;
}

void ProcessFs::forget(fuse_ino_t inode, std::uint64_t count) {
  auto found = dynamic_.find(inode);
  if (found == dynamic_.end()) return;
  found->second.lookups -= std::min(found->second.lookups, count);
  if (found->second.lookups > 0) return;
  dynamic_ids_.erase({found->second.serial, found->second.path});
  fetched_.erase(inode);
  dynamic_.erase(found);
}

// ------------------------------------------------------------------- lookups

void ProcessFs::reply_entry(fuse_req_t request, std::uint64_t inode, bool may_change) {
  Node node = node_of(inode);
  fuse_entry_param entry{};
  entry.ino = inode;
  entry.attr = attributes(inode, node);
  entry.entry_timeout = kForever;
  entry.attr_timeout = is_fetched(node) ? 0 : kForever;
  if (auto found = dynamic_.find(inode); found != dynamic_.end()) {
    ++found->second.lookups;
    entry.entry_timeout = kFetchedSeconds;
  }
  if (node.kind == Node::Kind::kLocalDirectory)
    entry.entry_timeout = entry.attr_timeout = kFetchedSeconds;
  if (may_change) entry.entry_timeout = entry.attr_timeout = 0;
  if (fuse_reply_entry(request, &entry) != 0) forget(inode, 1);
}

void ProcessFs::lookup(fuse_req_t request, fuse_ino_t parent, std::string_view name) {
  Node node = node_of(parent);
  switch (node.kind) {
    case Node::Kind::kRoot:
      return lookup_in_root(request, name);
    case Node::Kind::kProcess:
    case Node::Kind::kEntry:
      return lookup_in_process(request, node, name);
    case Node::Kind::kDynamic:
      return lookup_dynamic(request, node, name);
    case Node::Kind::kLocalDirectory:
      if (auto found = local_directories_.find(parent, name)) return reply_entry(request, *found);
      return (void)fuse_reply_err(request, ENOENT);
    default:
      fuse_reply_err(request, ENOENT);
  }
}

void ProcessFs::lookup_in_root(fuse_req_t request, std::string_view name) {
  if (auto pid = number(name)) {
    const ViewedTask* task = model_.find(*pid);
    if (task != nullptr) {
      if (!visible(*task, *fuse_req_ctx(request))) return (void)fuse_reply_err(request, ENOENT);
      if (leads_to_ghost(*fuse_req_ctx(request), *pid))
        return reply_entry(request, kLocal | *pid, true);
      return reply_entry(request, kRemote | (task->serial << 8));
    }
    if (!is_local(name, *fuse_req_ctx(request))) return (void)fuse_reply_err(request, ENOENT);
    local_seen_.insert(*pid);
    return reply_entry(request, kLocal | *pid);
  }
  if (auto directory = local_directories_.find_in_root(name)) {
    auto pid = name.substr(1);
    if (model_.find(number(pid).value_or(0)) != nullptr || !is_local(pid, *fuse_req_ctx(request)))
      return (void)fuse_reply_err(request, ENOENT);
    return reply_entry(request, *directory);
  }
  auto found = std::ranges::find(names_, name);
  if (found == names_.end()) return (void)fuse_reply_err(request, ENOENT);
  reply_entry(request, kNames + static_cast<std::uint64_t>(found - names_.begin()));
}

// pidfd_send_signal(2) takes the directory of a process in procfs for a process, and killall(1)
// relies on it. Ours is no such thing, but the ghost's is. Who opens /proc/PID, and neither to
// list it (opendir(3) has O_NONBLOCK) nor as what must not be a link, gets that one: ESTALE has
// the kernel walk the path again and ask us anew (Documentation/filesystems/path-lookup.rst), and
// then the name is a link for this thread.
bool ProcessFs::wants_handle(const Node& node, const fuse_ctx& caller, int flags) {
  constexpr int kOthers = O_NONBLOCK | O_NOFOLLOW;
  if (node.kind != Node::Kind::kProcess || node.in_task || options_.hidepid != 0) return false;
  if ((flags & O_DIRECTORY) == 0 || (flags & kOthers) != 0) return false;
  auto now = Clock::now();
  std::erase_if(handles_, [now](const auto& entry) {
    return now - entry.second.since > std::chrono::milliseconds(kHandleMilliseconds);
  });
  auto before = handles_.find(caller.pid);
  bool in_vain = before != handles_.end() && before->second.pid == node.task->pid;
  if (in_vain || caller.pid == 0) return false;
  struct stat ghost{};
  if (::fstatat(options_.native.get(), std::to_string(node.task->pid).c_str(), &ghost, 0) != 0)
    return false;
  // Once to see that the directory is not what it was, once to find the link.
  handles_[caller.pid] = {.pid = node.task->pid, .lookups = 2, .since = now};
  return true;
}

bool ProcessFs::leads_to_ghost(const fuse_ctx& caller, std::uint32_t pid) {
  auto found = handles_.find(caller.pid);
  if (found == handles_.end() || found->second.pid != pid || found->second.lookups == 0)
    return false;
  --found->second.lookups;
  return true;
}

void ProcessFs::lookup_in_process(fuse_req_t request, const Node& parent, std::string_view name) {
  std::uint64_t base = kRemote | (parent.task->serial << 8) | (parent.in_task ? kInTask : 0);
  if (parent.kind == Node::Kind::kProcess) {
    auto index = find_process_entry(name);
    if (!index || (parent.in_task && !process_entries()[*index].in_task))
      return (void)fuse_reply_err(request, ENOENT);
    return reply_entry(request, base + *index + 1);
  }
  auto directory = process_entries()[parent.index].name;
  if (directory == "attr") {
    if (name != "current") return (void)fuse_reply_err(request, ENOENT);
    return reply_entry(request, base + kLabelPlace);
  }
  if (directory == "task" && name == std::to_string(parent.task->pid))
    return reply_entry(request, (base & ~std::uint64_t{0xff}) | kInTask);
  lookup_dynamic(request, parent, name);
}

// Whether it exists, the node says when it is asked for more; of threads it must be known now.
void ProcessFs::lookup_dynamic(fuse_req_t request, const Node& parent, std::string_view name) {
  std::string path = parent.path + "/" + std::string(name);
  auto slash = parent.path.rfind('/');
  auto directory = std::string_view(parent.path).substr(slash == std::string::npos ? 0 : slash + 1);
  if (directory == "fd" || directory == "ns")
    return reply_entry(request, intern(*parent.task, std::move(path), S_IFLNK | 0700));
  if (directory == "fdinfo")
    return reply_entry(request, intern(*parent.task, std::move(path), S_IFREG | 0400));
  if (directory == "task") {
    if (!number(name)) return (void)fuse_reply_err(request, ENOENT);
    Node thread = parent;
    thread.path = path + "/stat";
    auto serial = parent.task->serial;
    return fetch(thread, wire::ViewFetch::FILE, fuse_req_ctx(request)->uid,
                 [this, request, serial, path](const Result<wire::ViewFetched>& answer) {
                   const ViewedTask* task = model_.by_serial(serial);
                   if (!answer || task == nullptr) return (void)fuse_reply_err(request, ENOENT);
                   reply_entry(request, intern(*task, path, S_IFDIR | 0555));
                 });
  }
  auto index = find_process_entry(name);
  if (!parent.path.starts_with("task/") || !index || !process_entries()[*index].in_task)
    return (void)fuse_reply_err(request, ENOENT);
  reply_entry(request, intern(*parent.task, std::move(path), process_entries()[*index].mode));
}

// ---------------------------------------------------------------- attributes

void ProcessFs::getattr(fuse_req_t request, fuse_ino_t inode) {
  Node node = node_of(inode);
  if (node.kind == Node::Kind::kNone) return (void)fuse_reply_err(request, ESRCH);
  if (inode == FUSE_ROOT_ID && !ready_) return held_.push_back(request);
  if (!is_fetched(node)) {
    auto out = attributes(inode, node);
    bool changes = node.kind == Node::Kind::kLocalDirectory;
    return (void)fuse_reply_attr(request, &out, changes ? kFetchedSeconds : kForever);
  }
  auto reader = fuse_req_ctx(request)->uid;
  fetch_content(inode, node, reader, [this, request, inode](const Result<const Fetched*>& fetched) {
    Node now = node_of(inode);
    // Who has no right to read it may still know that it is there.
    (void)fetched;
    if (now.kind == Node::Kind::kNone) return (void)fuse_reply_err(request, ESRCH);
    auto out = attributes(inode, now);
    fuse_reply_attr(request, &out, kFetchedSeconds);
  });
}

void ProcessFs::readlink(fuse_req_t request, fuse_ino_t inode) {
  Node node = node_of(inode);
  if (node.kind == Node::Kind::kLocal) {
    auto target = formatted("{}/{}", options_.native_path, node.pid);
    return (void)fuse_reply_readlink(request, target.c_str());
  }
  if (node.kind == Node::Kind::kName) {
    // Always the same, whoever asks: "self" is resolved where it leads.
    const auto& name = names_[node.index];
    auto target = name == "mounts" ? "self/mounts"
                                   : formatted("{}/{}",
                                               is_machine_[node.index] ? options_.machine_path
                                                                       : options_.native_path,
                                               name);
    return (void)fuse_reply_readlink(request, target.c_str());
  }
  auto caller = fuse_req_ctx(request)->uid;
  if (node.kind == Node::Kind::kLocalDirectory) {
    auto target = local_directories_.target(inode, caller);
    if (target) {
      fuse_reply_readlink(request, target->c_str());
    } else {
      fuse_reply_err(request, errno_of(target.error()));
    }
    if (invalidator_) invalidator_->inode(inode);  // it may change
    return;
  }
  if (node.task == nullptr) return (void)fuse_reply_err(request, ESRCH);
  if (caller != 0 && caller != node.task->private_uid) return (void)fuse_reply_err(request, EACCES);
  fetch(node, wire::ViewFetch::LINK, caller,
        [this, request, inode](const Result<wire::ViewFetched>& answer) {
          if (!answer) {
            fuse_reply_err(request, errno_of(answer.error()));
          } else {
            fuse_reply_readlink(request, answer->content().substr(0, 4095).c_str());
          }
          // The kernel would keep it for ever, as it is to do with all other links.
          if (invalidator_) invalidator_->inode(inode);
        });
}

void ProcessFs::set_ready() {
  ready_ = true;
  for (auto request : std::exchange(held_, {})) getattr(request, FUSE_ROOT_ID);
}

// ------------------------------------------------------------------- changes

void ProcessFs::changed(const ClusterModel::Changes& changes) {
  last_inode_ = 0;
  if (!invalidator_) return;
  for (const auto& [serial, file] : changes.files) {
    std::uint64_t base = kRemote | (serial << 8);
    auto place = static_cast<std::uint64_t>(file) + 1;  // the entries begin with them
    invalidator_->inode(base + place);
    invalidator_->inode(base + kInTask + place);
    if (file != TaskFile::kStat) continue;
    auto comm = *find_process_entry("comm") + 1;
    invalidator_->inode(base + comm);
    invalidator_->inode(base + kInTask + comm);
  }
  for (auto serial : changes.owners)
    for (std::uint64_t place = 0; place <= process_entries().size(); ++place)
      invalidator_->inode((kRemote | (serial << 8)) + place);
  for (auto pid : changes.gone) invalidator_->entry(FUSE_ROOT_ID, std::to_string(pid));
  for (auto pid : changes.appeared)
    if (local_seen_.erase(pid) > 0) invalidator_->entry(FUSE_ROOT_ID, std::to_string(pid));
}

// ------------------------------------------------------------------ fetching

void ProcessFs::fetch(const Node& node, wire::ViewFetch::Kind kind, uid_t reader,
                      OnFetched on_fetched) {
  wire::ViewFetch request;
  request.set_pid(node.task->pid);
  request.set_node(node.task->node);
  request.set_path(node.path);
  request.set_kind(kind);
  request.set_uid(reader);
  fetch_(request, std::move(on_fetched));
}

void ProcessFs::fetch_content(std::uint64_t inode, const Node& node, uid_t reader,
                              std::function<void(Result<const Fetched*>)> on_content) {
  if (auto found = fetched_.find(inode);
      found != fetched_.end() && Clock::now() - found->second.at < kFetchedFresh)
    return on_content(&found->second);
  fetch(node, wire::ViewFetch::FILE, reader,
        [this, inode, on_content = std::move(on_content)](Result<wire::ViewFetched> answer) {
          if (!answer) return on_content(std::unexpected(std::move(answer).error()));
          Node now = node_of(inode);
          if (now.task == nullptr) return on_content(fail(ErrorCode::kGone, "it has ended"));
          drop_old_contents();
          Fetched& known = fetched_[inode];
          auto text = model_.localize(*now.task, now.path, answer->content());
          if (known.version == 0 || known.content != text) known.version = next_version_++;
          known.content = std::move(text);
          known.at = Clock::now();
          on_content(&known);
        });
}

void ProcessFs::drop_old_contents() {
  if (fetched_.size() < kFetchedKept) return;
  auto limit = Clock::now() - std::chrono::seconds(5);
  std::erase_if(fetched_, [&](const auto& entry) { return entry.second.at < limit; });
}

// ------------------------------------------------------------------- serving

const fuse_lowlevel_ops& ProcessFs::operations() {
  static const fuse_lowlevel_ops operations = [] {
    fuse_lowlevel_ops out{};
    out.init = [](void*, fuse_conn_info* connection) {
      fuse_set_feature_flag(connection, FUSE_CAP_READDIRPLUS);
      fuse_set_feature_flag(connection, FUSE_CAP_READDIRPLUS_AUTO);
      fuse_set_feature_flag(connection, FUSE_CAP_CACHE_SYMLINKS);
      fuse_set_feature_flag(connection, FUSE_CAP_PARALLEL_DIROPS);
      fuse_set_feature_flag(connection, FUSE_CAP_NO_OPEN_SUPPORT);
      fuse_set_feature_flag(connection, FUSE_CAP_AUTO_INVAL_DATA);
      fuse_unset_feature_flag(connection, FUSE_CAP_NO_OPENDIR_SUPPORT);
    };
    out.lookup = [](fuse_req_t request, fuse_ino_t parent, const char* name) {
      call<&ProcessFs::lookup>(request, parent, std::string_view(name));
    };
    out.getattr = [](fuse_req_t request, fuse_ino_t inode, fuse_file_info*) {
      call<&ProcessFs::getattr>(request, inode);
    };
    out.readlink = [](fuse_req_t request, fuse_ino_t inode) {
      call<&ProcessFs::readlink>(request, inode);
    };
    out.forget = [](fuse_req_t request, fuse_ino_t inode, std::uint64_t count) {
      static_cast<ProcessFs*>(fuse_req_userdata(request))->forget(inode, count);
      fuse_reply_none(request);
    };
    out.forget_multi = [](fuse_req_t request, std::size_t count, fuse_forget_data* forgets) {
      for (std::size_t i = 0; i < count; ++i)
        static_cast<ProcessFs*>(fuse_req_userdata(request))
            ->forget(forgets[i].ino, forgets[i].nlookup);
      fuse_reply_none(request);
    };
    // From then on the kernel opens without us, and keeps what it has read.
    out.open = [](fuse_req_t request, fuse_ino_t, fuse_file_info*) {
      fuse_reply_err(request, ENOSYS);
    };
    out.read = [](fuse_req_t request, fuse_ino_t inode, std::size_t size, off_t offset,
                  fuse_file_info*) { call<&ProcessFs::read>(request, inode, size, offset); };
    out.opendir = [](fuse_req_t request, fuse_ino_t inode, fuse_file_info* file) {
      call<&ProcessFs::opendir>(request, inode, file);
    };
    out.readdir = [](fuse_req_t request, fuse_ino_t, std::size_t size, off_t offset,
                     fuse_file_info* file) {
      static_cast<ProcessFs*>(fuse_req_userdata(request))
          ->readdir(request, size, offset, *file, false);
    };
    out.readdirplus = [](fuse_req_t request, fuse_ino_t, std::size_t size, off_t offset,
                         fuse_file_info* file) {
      static_cast<ProcessFs*>(fuse_req_userdata(request))
          ->readdir(request, size, offset, *file, true);
    };
    out.releasedir = [](fuse_req_t request, fuse_ino_t, fuse_file_info* file) {
      delete reinterpret_cast<Listing*>(file->fh);
      fuse_reply_err(request, 0);
    };
    return out;
  }();
  return operations;
}

Result<void> ProcessFs::serve(EventLoop& loop, Fd device, std::function<void()> on_end) {
  GESTALT_ASSIGN(channel_,
                 FuseChannel::open(loop, std::move(device), operations(), this, std::move(on_end)));
  invalidator_ = std::make_unique<Invalidator>(channel_->session());
  return {};
}

}  // namespace gestalt
