#include "daemon/task_fetch.h"

#include <dirent.h>
#include <fcntl.h>
#include <linux/openat2.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <memory>

#include "common/fd.h"
#include "common/format.h"

namespace gestalt {
namespace {

constexpr std::size_t kMaxPathBytes = 512;
constexpr std::size_t kMaxContentBytes = 4U << 20;  // below the frame limit
constexpr int kMaxEntries = 65'536;

// Nothing that is large, or that changes something when it is read.
Result<void> check_path(const std::string& path) {
  auto refuse = [&] {
    return fail(ErrorCode::kInvalidArgument, formatted("no path in /proc/PID: \"{}\"", path));
  };
  if (path.size() > kMaxPathBytes || path.starts_with('/') || path.contains('\0')) return refuse();
  auto name = path.substr(path.rfind('/') + 1);
  if (name == "mem" || name == "pagemap" || name == "clear_refs") return refuse();
  return {};
}

Result<Fd> open_beneath(int directory, const std::string& path, std::uint64_t flags) {
  open_how how{};
  how.flags = flags | O_CLOEXEC | ((flags & O_PATH) != 0 ? 0U : O_NONBLOCK);
  how.resolve = RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS | RESOLVE_NO_MAGICLINKS;
  Fd fd(static_cast<int>(
      ::syscall(SYS_openat2, directory, path.empty() ? "." : path.c_str(), &how, sizeof how)));
  if (fd) return fd;
  if (errno == ENOENT || errno == ESRCH) return fail(ErrorCode::kGone, "it does not exist");
  return fail_errno(errno, formatted("open {}", path));
}

// Everybody's, as fs/proc/base.c has it. The rest is for those who may trace the process.
bool is_public(const wire::ViewFetch& request) {
  constexpr std::array<std::string_view, 20> kPublic = {
      "",         "autogroup", "cgroup",    "cmdline",       "comm",     "cpuset",    "limits",
      "loginuid", "oom_adj",   "oom_score", "oom_score_adj", "sched",    "schedstat", "sessionid",
      "stat",     "statm",     "status",    "task",          "children", "uid_map"};
  if (request.kind() == wire::ViewFetch::LINK) return false;
  auto path = std::string_view(request.path());
  auto name = path.substr(path.rfind('/') + 1);
  bool of_process_or_thread =
      !path.contains('/') || (path.starts_with("task/") && std::ranges::count(path, '/') <= 2);
  return of_process_or_thread && std::ranges::contains(kPublic, name);
}

Result<void> check_reader(int process, const wire::ViewFetch& request) {
  if (request.uid() == 0 || is_public(request)) return {};
  struct stat owner{};
  if (::fstatat(process, "environ", &owner, AT_SYMLINK_NOFOLLOW) != 0)
    return fail(ErrorCode::kGone, "the process has ended");
  if (owner.st_uid == request.uid()) return {};
  return fail(ErrorCode::kPermission, formatted("process {} is not yours", request.pid()));
}

struct CloseDirectory {
  void operator()(DIR* directory) const { (void)::closedir(directory); }
};

std::uint32_t type_mode(unsigned char type) {
  return type == DT_DIR ? S_IFDIR : type == DT_LNK ? S_IFLNK : S_IFREG;
}

Result<wire::ViewFetched> list(int process, const std::string& path) {
  GESTALT_ASSIGN(auto fd, open_beneath(process, path, O_RDONLY | O_DIRECTORY));
  std::unique_ptr<DIR, CloseDirectory> listing(::fdopendir(fd.get()));
  if (!listing) return fail_errno(errno, "list a directory");
  (void)fd.release();
  wire::ViewFetched out;
  while (const dirent* entry = ::readdir(listing.get())) {
    std::string_view name = entry->d_name;
    if (name == "." || name == "..") continue;
    if (out.entries_size() == kMaxEntries) {
      out.set_truncated(true);
      break;
    }
    auto& each = *out.add_entries();
    each.set_name(std::string(name));
    each.set_mode(type_mode(entry->d_type));
  }
  return out;
}

Result<wire::ViewFetched> read_content(int process, const std::string& path) {
  GESTALT_ASSIGN(auto fd, open_beneath(process, path, O_RDONLY));
  wire::ViewFetched out;
  std::string& content = *out.mutable_content();
  std::size_t size = 0;
  while (true) {
    content.resize(std::min(kMaxContentBytes, std::max<std::size_t>(size * 2, 16384)));
    ssize_t count = ::read(fd.get(), content.data() + size, content.size() - size);
    if (count < 0 && errno == ESRCH) return fail(ErrorCode::kGone, "the process has ended");
    if (count < 0) return fail_errno(errno, formatted("read {}", path));
    if (count == 0) break;
    size += static_cast<std::size_t>(count);
    if (size == kMaxContentBytes) {
      out.set_truncated(true);
      break;
    }
  }
  content.resize(size);
  return out;
}

Result<wire::ViewFetched> read_link(int process, const std::string& path) {
  auto slash = path.rfind('/');
  auto parent = slash == std::string::npos ? std::string() : path.substr(0, slash);
  auto name = slash == std::string::npos ? path : path.substr(slash + 1);
  if (name.empty() || name == "..") return fail(ErrorCode::kInvalidArgument, "no link");
  GESTALT_ASSIGN(auto directory, open_beneath(process, parent, O_PATH | O_DIRECTORY));
  std::string target(4096, '\0');
  ssize_t count = ::readlinkat(directory.get(), name.c_str(), target.data(), target.size());
  if (count < 0 && (errno == ENOENT || errno == ESRCH))
    return fail(ErrorCode::kGone, "it does not exist");
  if (count < 0) return fail_errno(errno, formatted("read the link {}", path));
  target.resize(static_cast<std::size_t>(count));
  wire::ViewFetched out;
  out.set_content(std::move(target));
  return out;
}

}  // namespace

Result<wire::ViewFetched> fetch_of_task(const std::string& proc, const wire::ViewFetch& request) {
  GESTALT_TRY(check_path(request.path()));
  auto process = open_file(formatted("{}/{}", proc, request.pid()), O_PATH | O_DIRECTORY);
  if (!process) return fail(ErrorCode::kGone, formatted("there is no process {}", request.pid()));
  GESTALT_TRY(check_reader(process->get(), request));
  switch (request.kind()) {
    case wire::ViewFetch::DIRECTORY:
      return list(process->get(), request.path());
    case wire::ViewFetch::LINK:
      return read_link(process->get(), request.path());
    default:
      return read_content(process->get(), request.path());
  }
}

}  // namespace gestalt
