#include "daemon/view/local_directories.h"

#include <dirent.h>
#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <charconv>

#include "common/fd.h"
#include "common/format.h"

namespace gestalt {
namespace {

constexpr std::uint64_t kThread = 1ULL << 42;
constexpr unsigned kIndexShift = 24;
constexpr std::uint64_t kIdMask = (1ULL << kIndexShift) - 1;
constexpr std::uint64_t kIndexMask = 0xffff;
// What leads to a file, not to its text: it must not lead through our links.
constexpr std::string_view kMagicLinks[] = {"cwd", "exe", "root"};

std::optional<std::uint32_t> id_in(std::string_view text) {
  std::uint32_t id = 0;
  auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), id);
  if (error != std::errc() || end != text.data() + text.size()) return std::nullopt;
  if (text[0] == '0' || id > kIdMask) return std::nullopt;
  return id;
}

std::vector<std::string> names_in(int native, const std::string& path) {
  std::vector<std::string> names;
  int fd = ::openat(native, path.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  DIR* listing = fd < 0 ? nullptr : ::fdopendir(fd);
  if (listing == nullptr) return names;
  while (const dirent* entry = ::readdir(listing))
    if (entry->d_name[0] != '.') names.emplace_back(entry->d_name);
  ::closedir(listing);
  return names;
}

}  // namespace

LocalDirectories::LocalDirectories(int native, std::string native_path)
    : native_(native), native_path_(std::move(native_path)), names_(names_in(native, "self")) {}

LocalDirectories::Place LocalDirectories::place_of(std::uint64_t inode) {
  return {.id = static_cast<std::uint32_t>(inode & kIdMask),
          .is_thread = (inode & kThread) != 0,
          .index = static_cast<std::uint32_t>((inode >> kIndexShift) & kIndexMask)};
}

std::uint64_t LocalDirectories::inode_of(const Place& place) {
  return kMark | (place.is_thread ? kThread : 0) |
         (static_cast<std::uint64_t>(place.index) << kIndexShift) | place.id;
}

// A thread's id leads to its process, too.
std::string LocalDirectories::path_of(const Place& place) {
  return place.is_thread ? formatted("{0}/task/{0}", place.id) : std::to_string(place.id);
}

bool LocalDirectories::is_directory(const Place& place) const {
  return place.index == 0 ||
         (!place.is_thread && place.index <= names_.size() && names_[place.index - 1] == "task");
}

std::optional<std::uint64_t> LocalDirectories::find_in_root(std::string_view name) const {
  if (name.size() < 2 || name[0] != '.') return std::nullopt;
  auto pid = id_in(name.substr(1));
  struct stat there{};
  if (!pid || ::fstatat(native_, std::to_string(*pid).c_str(), &there, 0) != 0) return std::nullopt;
  return inode_of({.id = *pid});
}

std::optional<std::uint64_t> LocalDirectories::find(std::uint64_t parent,
                                                    std::string_view name) const {
  Place place = place_of(parent);
  if (!is_directory(place)) return std::nullopt;
  struct stat there{};
  if (place.index != 0) {  // task
    auto id = id_in(name);
    auto path = formatted("{}/task/{}", place.id, name);
    if (!id || ::fstatat(native_, path.c_str(), &there, 0) != 0) return std::nullopt;
    return inode_of({.id = *id, .is_thread = true});
  }
  auto found = std::ranges::find(names_, name);
  auto path = formatted("{}/{}", path_of(place), name);
  if (found == names_.end() || ::fstatat(native_, path.c_str(), &there, AT_SYMLINK_NOFOLLOW) != 0)
    return std::nullopt;
  place.index = static_cast<std::uint32_t>(found - names_.begin()) + 1;
  return inode_of(place);
}

Result<struct stat> LocalDirectories::attributes(std::uint64_t inode) const {
  Place place = place_of(inode);
  struct stat out{};
  auto path = path_of(place);
  if (place.index > names_.size()) return fail(ErrorCode::kGone, "there is no such name");
  if (place.index != 0) path += "/" + names_[place.index - 1];
  if (::fstatat(native_, path.c_str(), &out, AT_SYMLINK_NOFOLLOW) != 0)
    return fail(ErrorCode::kGone, "it has ended");
  out.st_ino = inode;
  if (!is_directory(place)) out.st_mode = S_IFLNK | 0777;
  out.st_size = 0;
  return out;
}

std::vector<LocalDirectories::Entry> LocalDirectories::list(std::uint64_t directory) const {
  Place place = place_of(directory);
  std::vector<Entry> out;
  if (!is_directory(place)) return out;
  auto path = path_of(place) + (place.index == 0 ? "" : "/task");
  for (auto& name : names_in(native_, path)) {
    auto inode = place.index == 0 || id_in(name) ? find(directory, name) : std::nullopt;
    if (!inode) continue;
    auto mode = is_directory(place_of(*inode)) ? S_IFDIR | 0555 : S_IFLNK | 0777;
    out.push_back({.name = std::move(name), .inode = *inode, .mode = static_cast<mode_t>(mode)});
  }
  return out;
}

Result<std::string> LocalDirectories::target(std::uint64_t link, uid_t caller) const {
  Place place = place_of(link);
  if (place.index == 0 || place.index > names_.size() || is_directory(place))
    return fail(ErrorCode::kInvalidArgument, "it is no link");
  const auto& name = names_[place.index - 1];
  auto path = formatted("{}/{}", path_of(place), name);
  if (!std::ranges::contains(kMagicLinks, name)) return formatted("{}/{}", native_path_, path);
  struct stat owner{};
  if (::fstatat(native_, path.c_str(), &owner, AT_SYMLINK_NOFOLLOW) != 0)
    return fail(ErrorCode::kGone, "it has ended");
  if (caller != 0 && caller != owner.st_uid)
    return fail(ErrorCode::kPermission, "it is another user's");
  std::string text(4095, '\0');
  auto length = ::readlinkat(native_, path.c_str(), text.data(), text.size());
  if (length < 0) return fail_errno(errno, "read the link");
  text.resize(static_cast<std::size_t>(length));
  return text;
}

}  // namespace gestalt
