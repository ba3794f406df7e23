#include "common/cgroup.h"

#include <fcntl.h>
#include <linux/magic.h>
#include <poll.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <unistd.h>

#include <algorithm>
#include <charconv>
#include <sstream>

#include "common/format.h"
#include "common/proc.h"

namespace gestalt {
namespace {

constexpr const char* kUsualMount = "/sys/fs/cgroup";

}  // namespace

Result<std::string> cgroup2_mount() {
  // Where it nearly always is; the list of mounts may be long.
  struct statfs there{};
  if (::statfs(kUsualMount, &there) == 0 && there.f_type == CGROUP2_SUPER_MAGIC) return kUsualMount;
  GESTALT_ASSIGN(auto text, read_file("/proc/self/mountinfo"));
  std::istringstream lines(text);
  for (std::string line; std::getline(lines, line);) {
    auto dash = line.find(" - ");
    if (dash == std::string::npos ||
        !std::string_view(line).substr(dash + 3).starts_with("cgroup2 "))
      continue;
    // mountinfo: id parent major:minor root MOUNTPOINT ...
    std::istringstream fields(line);
    std::string skipped;
    std::string mount_point;
    fields >> skipped >> skipped >> skipped >> skipped >> mount_point;
    return mount_point;
  }
  return fail(ErrorCode::kUnavailable, "the cgroup2 hierarchy is not mounted",
              "mount -t cgroup2 none /sys/fs/cgroup");
}

std::string job_cgroup_name(std::uint64_t job_id) { return formatted("gestalt/job-{}", job_id); }

std::uint64_t job_of_cgroup(std::string_view path) {
  constexpr std::string_view kMarker = "gestalt/job-";
  auto found = path.rfind(kMarker);
  if (found == std::string_view::npos) return 0;
  auto digits = path.substr(found + kMarker.size());
  std::uint64_t job_id = 0;
  std::from_chars(digits.data(), digits.data() + digits.size(), job_id);
  return job_id;
}

Result<void> move_to_cgroup(int directory, pid_t pid) {
  GESTALT_ASSIGN(auto file, open_at(directory, "cgroup.procs", O_WRONLY));
  auto text = std::to_string(pid);
  if (::write(file.get(), text.data(), text.size()) < 0)
    return fail_errno(errno, formatted("move process {} to another control group", pid));
  return {};
}

Result<Cgroup> Cgroup::create(const std::string& name) {
  GESTALT_ASSIGN(auto path, cgroup2_mount());
  // A group that is left over from before, and empty, has a history (common/child.cc).
  (void)::rmdir((path + "/" + name).c_str());
  std::istringstream parts(name);
  for (std::string part; std::getline(parts, part, '/');) {
    path += "/" + part;
    if (::mkdir(path.c_str(), 0755) != 0 && errno != EEXIST)
      return fail_errno(errno, formatted("make control group {}", path));
  }
  GESTALT_ASSIGN(auto directory, open_file(path, O_RDONLY | O_DIRECTORY));
  return Cgroup(std::move(path), std::move(directory));
}

Result<Cgroup> Cgroup::of(pid_t pid) {
  GESTALT_ASSIGN(auto path, cgroup2_mount());
  GESTALT_ASSIGN(auto below, cgroup_path("/proc", pid));
  path += below;
  GESTALT_ASSIGN(auto directory, open_file(path, O_RDONLY | O_DIRECTORY));
  return Cgroup(std::move(path), std::move(directory));
}

Result<void> Cgroup::add(pid_t pid) {
  auto moved = move_to_cgroup(directory_.get(), pid);
  if (!moved) return std::unexpected(std::move(moved).error().in(path_));
  return {};
}

Result<void> Cgroup::write(const char* file, const char* text) {
  GESTALT_ASSIGN(auto fd, open_at(directory_.get(), file, O_WRONLY));
  if (::write(fd.get(), text, 1) != 1)
    return fail_errno(errno, formatted("write {} to {}/{}", text, path_, file));
  return {};
}

// cgroup.events raises POLLPRI when one of its lines changes.
Result<void> Cgroup::wait_event(const char* line, Deadline deadline) {
  GESTALT_ASSIGN(auto fd, open_at(directory_.get(), "cgroup.events", O_RDONLY));
  while (true) {
    char buffer[256];
    ssize_t count = ::pread(fd.get(), buffer, sizeof buffer, 0);
    if (count < 0) return fail_errno(errno, formatted("read {}/cgroup.events", path_));
    if (std::string_view(buffer, static_cast<std::size_t>(count)).contains(line)) return {};
    if (Clock::now() >= deadline)
      return fail(ErrorCode::kTimeout, formatted("{} did not reach \"{}\" in time", path_, line));
    pollfd entry{fd.get(), POLLPRI, 0};
    (void)::poll(&entry, 1, std::min(remaining_milliseconds(deadline), 100));
  }
}

Result<void> Cgroup::freeze(Deadline deadline) {
  GESTALT_TRY(write("cgroup.freeze", "1"));
  return wait_event("frozen 1", deadline);
}

Result<void> Cgroup::thaw(Deadline deadline) {
  GESTALT_TRY(write("cgroup.freeze", "0"));
  return wait_event("frozen 0", deadline);
}

bool Cgroup::frozen() const {
  auto text = read_file_at(directory_.get(), "cgroup.events", 256);
  return text && text->contains("frozen 1");
}

Result<void> Cgroup::kill() { return write("cgroup.kill", "1"); }

void Cgroup::yield_to_others() const {
  auto all = threads();
  if (!all) return;
  for (pid_t thread : *all) (void)::setpriority(PRIO_PROCESS, static_cast<id_t>(thread), 19);
}

Result<std::vector<pid_t>> Cgroup::ids(const char* file) const {
  GESTALT_ASSIGN(auto text, read_file_at(directory_.get(), file));
  std::istringstream lines(text);
  std::vector<pid_t> out;
  for (pid_t id = 0; lines >> id;) out.push_back(id);
  return out;
}

Result<std::vector<pid_t>> Cgroup::processes() const { return ids("cgroup.procs"); }

Result<std::vector<pid_t>> Cgroup::threads() const { return ids("cgroup.threads"); }

Result<void> Cgroup::wait_empty(Deadline deadline) { return wait_event("populated 0", deadline); }

Result<void> Cgroup::remove() {
  if (::rmdir(path_.c_str()) != 0 && errno != ENOENT)
    return fail_errno(errno, formatted("remove control group {}", path_));
  return {};
}

}  // namespace gestalt
