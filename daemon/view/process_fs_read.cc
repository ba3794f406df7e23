// ProcessFs: directories and contents.
#include <dirent.h>
#include <fcntl.h>
#include <sys/stat.h>

#include <algorithm>
#include <charconv>

#include "daemon/view/process_entries.h"
#include "daemon/view/process_fs.h"

namespace gestalt {
namespace {

constexpr std::uint64_t kNames = 0x1000;
constexpr std::uint64_t kLocal = 1ULL << 40;
constexpr std::uint64_t kRemote = 1ULL << 41;
constexpr double kForever = 3600;
constexpr std::size_t kManyTasks = 500;
constexpr int kReadsOfAListing = 16;

std::vector<std::uint32_t> native_pids(int native) {
  std::vector<std::uint32_t> pids;
  int fd = ::openat(native, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  DIR* listing = fd < 0 ? nullptr : ::fdopendir(fd);
  if (listing == nullptr) return pids;
  while (const dirent* entry = ::readdir(listing)) {
    std::string_view name = entry->d_name;
    std::uint32_t pid = 0;
    auto [end, error] = std::from_chars(name.data(), name.data() + name.size(), pid);
    if (error == std::errc() && end == name.data() + name.size()) pids.push_back(pid);
  }
  ::closedir(listing);
  return pids;
}

}  // namespace

// In the order of their pids, as procfs has them; remote ones hide the ghosts that hold
// their pids here.
ProcessFs::Listing ProcessFs::list_root(const fuse_ctx& caller) const {
  Listing out;
  for (std::size_t i = 0; i < names_.size(); ++i)
    out.push_back({.name = names_[i], .inode = kNames + i, .mode = node_of(kNames + i).mode});
  auto pids = native_pids(options_.native.get());
  std::ranges::sort(pids);
  auto local = pids.begin();
  auto add_local_below = [&](std::uint64_t limit) {
    for (; local != pids.end() && *local < limit; ++local) {
      auto name = std::to_string(*local);
      if (options_.hidepid == 2 && !is_local(name, caller)) continue;
      out.push_back({.name = "." + name, .inode = kLocal | *local, .mode = S_IFDIR | 0555});
      out.push_back({.name = std::move(name), .inode = kLocal | *local, .mode = S_IFDIR | 0555});
    }
  };
  for (const auto& [pid, task] : model_.tasks()) {
    add_local_below(pid);
    if (local != pids.end() && *local == pid) ++local;
    if (!visible(task, caller)) continue;
    out.push_back({.name = std::to_string(pid),
                   .inode = kRemote | (task.serial << 8),
                   .mode = S_IFDIR | 0555,
                   .with_attributes = true});
  }
  add_local_below(UINT64_MAX);
  return out;
}

ProcessFs::Listing ProcessFs::list_process(fuse_ino_t inode, const Node& node) const {
  Listing out;
  auto entries = process_entries();
  if (node.kind == Node::Kind::kProcess) {
    for (std::size_t i = 0; i < entries.size(); ++i)
      if (!node.in_task || entries[i].in_task)
        out.push_back({.name = std::string(entries[i].name),
                       .inode = inode + i + 1,
                       .mode = entries[i].mode});
  } else if (node.kind == Node::Kind::kEntry) {  // attr
    out.push_back({.name = "current", .inode = inode + 1, .mode = S_IFREG | 0444});
  } else {  // task/TID
    for (const auto& entry : entries)
      if (entry.in_task)
        out.push_back({.name = std::string(entry.name), .inode = 1, .mode = entry.mode});
  }
  return out;
}

void ProcessFs::opendir(fuse_req_t request, fuse_ino_t inode, fuse_file_info* file) {
  Node node = node_of(inode);
  if (wants_handle(node, *fuse_req_ctx(request), file->flags))
    return (void)fuse_reply_err(request, ESTALE);
  Listing listing;
  auto name = node.kind == Node::Kind::kEntry ? process_entries()[node.index].name : "";
  bool is_thread = node.kind == Node::Kind::kDynamic && node.path.starts_with("task/") &&
                   std::ranges::count(node.path, '/') == 1;
  if (node.kind == Node::Kind::kRoot) {
    note_listing();
    listing = list_root(*fuse_req_ctx(request));
  } else if (node.kind == Node::Kind::kLocalDirectory) {
    for (auto& entry : local_directories_.list(inode))
      listing.push_back({.name = std::move(entry.name), .inode = entry.inode, .mode = entry.mode});
  } else if (node.kind == Node::Kind::kProcess || name == "attr" || is_thread) {
    listing = list_process(inode, node);
  } else if (node.kind == Node::Kind::kEntry || node.kind == Node::Kind::kDynamic) {
    return list_remote(request, node, *file);
  } else if (node.kind != Node::Kind::kName) {
    return (void)fuse_reply_err(request, ENOENT);
  }
  auto owned = std::make_unique<Listing>(std::move(listing));
  file->fh = reinterpret_cast<std::uint64_t>(owned.get());
  if (fuse_reply_open(request, file) == 0) (void)owned.release();
}

void ProcessFs::note_listing() {
  auto tasks = model_.tasks().size();
  if (tasks < 2 * listed_tasks_ + kManyTasks) return;
  listed_tasks_ = tasks;
  watches_reads_ = true;
  reads_.clear();
}

// What the kernel reads by us, nobody has read before.
void ProcessFs::note_read(const Node& node) {
  if (!watches_reads_ || node.kind != Node::Kind::kEntry || node.in_task) return;
  if (++reads_[node.index] < kReadsOfAListing) return;
  watches_reads_ = false;
  std::uint64_t entries = 0;
  for (auto [index, count] : reads_)
    if (count >= kReadsOfAListing / 2 && index < 64) entries |= 1ULL << index;
  if (options_.on_cold_listing) options_.on_cold_listing(entries);
}

void ProcessFs::list_remote(fuse_req_t request, const Node& node, fuse_file_info file) {
  fetch(node, wire::ViewFetch::DIRECTORY, fuse_req_ctx(request)->uid,
        [request, file](const Result<wire::ViewFetched>& answer) mutable {
          if (!answer) return (void)fuse_reply_err(request, ENOENT);
          auto listing = std::make_unique<Listing>();
          for (const auto& entry : answer->entries()) {
            bool sane = !entry.name().empty() && entry.name().size() < 256 &&
                        !entry.name().contains('/') && !entry.name().contains('\0');
            if (sane) listing->push_back({.name = entry.name(), .inode = 1, .mode = entry.mode()});
          }
          file.fh = reinterpret_cast<std::uint64_t>(listing.get());
          if (fuse_reply_open(request, &file) == 0) (void)listing.release();
        });
}

void ProcessFs::readdir(fuse_req_t request, std::size_t size, off_t offset,
                        const fuse_file_info& file, bool plus) {
  const auto& listing = *reinterpret_cast<const Listing*>(file.fh);
  std::string buffer(size, '\0');
  std::size_t used = 0;
  for (auto i = static_cast<std::size_t>(offset); i < listing.size(); ++i) {
    const auto& each = listing[i];
    std::size_t needed = 0;
    auto next = static_cast<off_t>(i + 1);
    if (plus) {
      fuse_entry_param entry{};  // without an inode: no more than a name
      entry.attr.st_ino = each.inode;
      entry.attr.st_mode = each.mode;
      Node node = each.with_attributes ? node_of(each.inode) : Node{};
      if (node.kind != Node::Kind::kNone) {
        entry.ino = each.inode;
        entry.attr = attributes(each.inode, node);
        entry.entry_timeout = entry.attr_timeout = kForever;
      }
      needed = fuse_add_direntry_plus(request, buffer.data() + used, size - used, each.name.c_str(),
                                      &entry, next);
    } else {
      struct stat attributes{};
      attributes.st_ino = each.inode;
      attributes.st_mode = each.mode;
      needed = fuse_add_direntry(request, buffer.data() + used, size - used, each.name.c_str(),
                                 &attributes, next);
    }
    if (needed > size - used) break;
    used += needed;
  }
  fuse_reply_buf(request, buffer.data(), used);
}

void ProcessFs::read(fuse_req_t request, fuse_ino_t inode, std::size_t size, off_t offset) {
  auto reply = [=](const std::string& text) {
    auto start = std::min(static_cast<std::size_t>(offset), text.size());
    fuse_reply_buf(request, text.data() + start, std::min(size, text.size() - start));
  };
  Node node = node_of(inode);
  if (node.kind == Node::Kind::kNone) return (void)fuse_reply_err(request, ESRCH);
  note_read(node);
  if (const auto* made = text(inode, node)) return reply(*made);
  if (!is_fetched(node)) return (void)fuse_reply_err(request, EINVAL);
  auto reader = fuse_req_ctx(request)->uid;
  fetch_content(inode, node, reader, [request, reply](const Result<const Fetched*>& fetched) {
    if (!fetched) return (void)fuse_reply_err(request, ESRCH);
    reply((*fetched)->content);
  });
}

}  // namespace gestalt
