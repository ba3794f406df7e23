#include "migrate/tcp_probe.h"

#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <charconv>
#include <filesystem>
#include <set>
#include <string>

#include "common/fd.h"
#include "common/format.h"

namespace gestalt {
namespace {

int option(int socket, int level, int name) {
  int value = 0;
  socklen_t length = sizeof value;
  return ::getsockopt(socket, level, name, &value, &length) == 0 ? value : -1;
}

// The end of a repair makes the kernel send a window probe, and forgets SO_REUSEADDR.
void probe(int socket) {
  if (option(socket, SOL_SOCKET, SO_PROTOCOL) != IPPROTO_TCP) return;
  int reuse = option(socket, SOL_SOCKET, SO_REUSEADDR);
  int repair = TCP_REPAIR_ON;
  if (reuse < 0 || ::setsockopt(socket, IPPROTO_TCP, TCP_REPAIR, &repair, sizeof repair) != 0)
    return;  // it listens, or is closed
  repair = TCP_REPAIR_OFF;
  (void)::setsockopt(socket, IPPROTO_TCP, TCP_REPAIR, &repair, sizeof repair);
  (void)::setsockopt(socket, SOL_SOCKET, SO_REUSEADDR, &reuse, sizeof reuse);
}

}  // namespace

void probe_tcp_peers(const std::vector<pid_t>& pids) {
  std::set<ino_t> seen;
  for (pid_t pid : pids) {
    Fd process(static_cast<int>(::syscall(SYS_pidfd_open, pid, 0)));
    if (!process) continue;
    std::error_code error;
    for (std::filesystem::directory_iterator entry(formatted("/proc/{}/fd", pid), error), end;
         !error && entry != end; entry.increment(error)) {
      struct stat info{};
      if (::stat(entry->path().c_str(), &info) != 0 || !S_ISSOCK(info.st_mode) ||
          !seen.insert(info.st_ino).second)
        continue;
      std::string name = entry->path().filename();
      int number = -1;
      (void)std::from_chars(name.data(), name.data() + name.size(), number);
      if (Fd socket(static_cast<int>(::syscall(SYS_pidfd_getfd, process.get(), number, 0))); socket)
        probe(socket.get());
    }
  }
}

}  // namespace gestalt
