#include "daemon/view/machine_fs.h"

#include <dirent.h>
#include <sys/stat.h>

#include <algorithm>
#include <set>

#include "common/format.h"

namespace gestalt {
namespace {

constexpr double kTimeoutSeconds = 1;
constexpr auto kFresh = std::chrono::milliseconds(500);
constexpr std::string_view kNodes = "gestalt/nodes";

bool is_merged(std::string_view path) { return std::ranges::contains(merged_file_names(), path); }

std::string parent_of(const std::string& path) {
  auto slash = path.rfind('/');
  return slash == std::string::npos ? std::string() : path.substr(0, slash);
}

std::uint32_t count_cpus(std::string_view stat) {
  std::uint32_t count = 0;
  for (auto at = stat.find("\ncpu"); at != std::string_view::npos; at = stat.find("\ncpu", at + 1))
    ++count;
  return std::max(count, 1U);
}

}  // namespace

std::vector<std::string> MachineFs::names_in_proc() {
  std::set<std::string> names{"gestalt"};
  for (auto name : merged_file_names()) names.emplace(name.substr(0, name.find('/')));
  return {names.begin(), names.end()};
}

MachineFs::MachineFs(const ClusterModel& model, MachineFsOptions options)
    : model_(model), options_(std::move(options)), paths_{""} {}

std::uint64_t MachineFs::inode_of(const std::string& path) {
  if (path.empty()) return FUSE_ROOT_ID;
  auto [found, is_new] = inodes_.try_emplace(path, paths_.size() + 1);
  if (is_new) paths_.push_back(path);
  return found->second;
}

std::vector<NodeFiles> MachineFs::nodes() {
  leader_files_.clear();
  for (auto name : merged_file_names())
    if (auto text = read_file_at(options_.native.get(), std::string(name)))
      leader_files_.emplace(name, std::move(*text));
  std::vector<NodeFiles> out;
  out.push_back({.name = options_.leader,
                 .first_cpu = 0,
                 .cpus = count_cpus(leader_files_["stat"]),
                 .files = &leader_files_});
  for (const auto& [name, node] : model_.nodes())
    out.push_back(
        {.name = name, .first_cpu = node->first_cpu, .cpus = node->cpus, .files = &node->files});
  return out;
}

void MachineFs::refresh() {
  if (Clock::now() - refreshed_ < kFresh) return;
  tree_ = build_sys_tree(nodes());
  auto add = [&](std::string path, SysEntry entry) {
    for (auto parent = parent_of(path); !parent.empty(); parent = parent_of(parent))
      tree_.try_emplace(parent, SysEntry{.kind = SysEntry::Kind::kDirectory, .text = {}});
    tree_.insert_or_assign(std::move(path), std::move(entry));
  };
  for (auto name : merged_file_names())
    add(std::string(name), {.kind = SysEntry::Kind::kFile, .text = {}});
  add(std::string(kNodes), {.kind = SysEntry::Kind::kFile, .text = {}});
  // What else is in a directory of which we merge a part.
  std::set<std::string> directories;
  for (auto name : merged_file_names())
    if (auto parent = parent_of(std::string(name)); !parent.empty()) directories.insert(parent);
  for (const auto& directory : directories) {
    // /proc/net is a link to self/net.
    auto native = directory == "net" ? std::string("self/net") : directory;
    auto fd = open_at(options_.native.get(), directory == "net" ? "1/net" : native,
                      O_RDONLY | O_DIRECTORY);
    DIR* listing = fd ? ::fdopendir(fd->get()) : nullptr;
    if (listing == nullptr) continue;
    (void)fd->release();
    while (const dirent* entry = ::readdir(listing)) {
      if (entry->d_name[0] == '.') continue;
      auto path = formatted("{}/{}", directory, entry->d_name);
      if (tree_.contains(path)) continue;
      add(path, {.kind = SysEntry::Kind::kSymlink,
                 .text = formatted("{}/{}/{}", options_.native_path, native, entry->d_name)});
    }
    ::closedir(listing);
  }
  refreshed_ = Clock::now();
}

const SysEntry* MachineFs::entry_of(std::uint64_t inode) {
  static const SysEntry root{.kind = SysEntry::Kind::kDirectory, .text = {}};
  if (inode == FUSE_ROOT_ID) return &root;
  if (inode > paths_.size()) return nullptr;
  refresh();
  auto found = tree_.find(paths_[inode - 1]);
  return found == tree_.end() ? nullptr : &found->second;
}

struct stat MachineFs::attributes(std::uint64_t inode, const SysEntry& entry) const {
  struct stat out{};
  out.st_ino = inode;
  out.st_nlink = 1;
  switch (entry.kind) {
    case SysEntry::Kind::kDirectory:
      out.st_mode = S_IFDIR | 0555;
      out.st_nlink = 2;
      break;
    case SysEntry::Kind::kSymlink:
      out.st_mode = S_IFLNK | 0777;
      out.st_size = static_cast<off_t>(entry.text.size());
      break;
    case SysEntry::Kind::kFile:
      out.st_mode = S_IFREG | 0444;
      if (!entry.text.empty()) out.st_size = 4096;  // as in sysfs
      break;
  }
  return out;
}

std::string MachineFs::nodes_text() const {
  std::string text =
      formatted("{} index=0 first_cpu=0 age_seconds=0.0 state=online\n", model_.leader());
  for (const auto& [name, node] : model_.nodes())
    text +=
        formatted("{} index={} first_cpu={} cpus={} tasks={} age_seconds={:.1f} state={}\n", name,
                  node->index, node->first_cpu, node->cpus, node->pids.size(),
                  seconds_between(node->read, Clock::now()), node->suspect ? "suspect" : "online");
  return text;
}

std::string MachineFs::content(const std::string& path) {
  if (path == kNodes) return nodes_text();
  if (is_merged(path)) return merge_file(path, nodes());
  auto found = tree_.find(path);
  return found == tree_.end() ? std::string() : found->second.text;
}

void MachineFs::lookup(fuse_req_t request, fuse_ino_t parent, std::string_view name) {
  if (parent > paths_.size()) return (void)fuse_reply_err(request, ENOENT);
  refresh();
  const auto& directory = paths_[parent - 1];
  auto path = directory.empty() ? std::string(name) : formatted("{}/{}", directory, name);
  auto found = tree_.find(path);
  if (found == tree_.end()) return (void)fuse_reply_err(request, ENOENT);
  fuse_entry_param out{};
  out.ino = inode_of(path);
  out.attr = attributes(out.ino, found->second);
  out.entry_timeout = out.attr_timeout = kTimeoutSeconds;
  fuse_reply_entry(request, &out);
}

void MachineFs::getattr(fuse_req_t request, fuse_ino_t inode) {
  const SysEntry* entry = entry_of(inode);
  if (entry == nullptr) return (void)fuse_reply_err(request, ENOENT);
  auto out = attributes(inode, *entry);
  fuse_reply_attr(request, &out, kTimeoutSeconds);
}

void MachineFs::readlink(fuse_req_t request, fuse_ino_t inode) {
  const SysEntry* entry = entry_of(inode);
  if (entry == nullptr || entry->kind != SysEntry::Kind::kSymlink)
    return (void)fuse_reply_err(request, EINVAL);
  fuse_reply_readlink(request, entry->text.c_str());
}

void MachineFs::open(fuse_req_t request, fuse_ino_t inode, fuse_file_info* file) {
  const SysEntry* entry = entry_of(inode);
  if (entry == nullptr) return (void)fuse_reply_err(request, ENOENT);
  auto text = std::make_unique<std::optional<std::string>>();
  file->fh = reinterpret_cast<std::uint64_t>(text.get());
  file->direct_io = 1;
  file->noflush = 1;
  if (fuse_reply_open(request, file) == 0) (void)text.release();
}

// As in procfs: who begins anew, as top does each time without opening it again, gets it as it
// is now; who reads on gets the rest of what he has begun with.
void MachineFs::read(fuse_req_t request, fuse_ino_t inode, std::size_t size, off_t offset,
                     std::uint64_t opened) {
  auto& text = *reinterpret_cast<std::optional<std::string>*>(opened);
  if (offset == 0 || !text) {
    if (entry_of(inode) == nullptr) return (void)fuse_reply_err(request, ENOENT);
    text = content(paths_[inode - 1]);
  }
  auto start = std::min(static_cast<std::size_t>(offset), text->size());
  fuse_reply_buf(request, text->data() + start, std::min(size, text->size() - start));
}

void MachineFs::readdir(fuse_req_t request, fuse_ino_t inode, std::size_t size, off_t offset) {
  if (inode > paths_.size()) return (void)fuse_reply_err(request, ENOENT);
  refresh();
  std::string prefix = paths_[inode - 1].empty() ? "" : paths_[inode - 1] + "/";
  std::string buffer(size, '\0');
  std::size_t used = 0;
  off_t number = 0;
  for (auto it = tree_.lower_bound(prefix); it != tree_.end(); ++it) {
    if (!it->first.starts_with(prefix)) break;
    auto name = it->first.substr(prefix.size());
    if (name.empty() || name.contains('/') || number++ < offset) continue;
    auto attributes_of = attributes(inode_of(it->first), it->second);
    auto needed = fuse_add_direntry(request, buffer.data() + used, size - used, name.c_str(),
                                    &attributes_of, number);
    if (needed > size - used) break;
    used += needed;
  }
  fuse_reply_buf(request, buffer.data(), used);
}

const fuse_lowlevel_ops& MachineFs::operations() {
  static const fuse_lowlevel_ops operations = [] {
    fuse_lowlevel_ops out{};
    out.lookup = [](fuse_req_t request, fuse_ino_t parent, const char* name) {
      call<&MachineFs::lookup>(request, parent, std::string_view(name));
    };
    out.getattr = [](fuse_req_t request, fuse_ino_t inode, fuse_file_info*) {
      call<&MachineFs::getattr>(request, inode);
    };
    out.readlink = [](fuse_req_t request, fuse_ino_t inode) {
      call<&MachineFs::readlink>(request, inode);
    };
    out.open = [](fuse_req_t request, fuse_ino_t inode, fuse_file_info* file) {
      call<&MachineFs::open>(request, inode, file);
    };
    out.read = [](fuse_req_t request, fuse_ino_t inode, std::size_t size, off_t offset,
                  fuse_file_info* file) {
      call<&MachineFs::read>(request, inode, size, offset, file->fh);
    };
    out.release = [](fuse_req_t request, fuse_ino_t, fuse_file_info* file) {
      delete reinterpret_cast<std::optional<std::string>*>(file->fh);
      fuse_reply_err(request, 0);
    };
    out.readdir = [](fuse_req_t request, fuse_ino_t inode, std::size_t size, off_t offset,
                     fuse_file_info*) { call<&MachineFs::readdir>(request, inode, size, offset); };
    return out;
  }();
  return operations;
}

Result<void> MachineFs::serve(EventLoop& loop, Fd device, std::function<void()> on_end) {
  GESTALT_ASSIGN(channel_,
                 FuseChannel::open(loop, std::move(device), operations(), this, std::move(on_end)));
  return {};
}

}  // namespace gestalt
