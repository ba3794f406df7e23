#include "daemon/sources/task_events.h"

#include <sys/stat.h>

#include <algorithm>
#include <cerrno>

#include "common/format.h"
#include "common/proc.h"

namespace gestalt {

Result<PidNamespace> pid_namespace_of(const std::string& proc, pid_t pid) {
  struct stat status = {};
  auto path = formatted("{}/{}/ns/pid", proc, pid);
  if (::stat(path.c_str(), &status) != 0) return fail_errno(errno, "look at " + path);
  GESTALT_ASSIGN(auto ids, read_ids(proc, pid));
  auto levels = std::max<std::size_t>(ids.namespace_pids.size(), 1);
  return PidNamespace{.inode = static_cast<std::uint32_t>(status.st_ino),
                      .level = static_cast<std::uint32_t>(levels - 1)};
}

bool concerns(const TaskNews& news, const PidNamespace& where) {
  if (news.lost) return true;
  return std::ranges::any_of(news.events, [&](const TaskEvent& event) {
    return event.namespace_inode == 0 || where.inode == 0 || event.namespace_inode == where.inode ||
           event.namespace_level > where.level;
  });
}

}  // namespace gestalt
