// libgestalt-state-dump.so: preloaded into CRIU for a dump without anonymous memory, and where it
// works in a session. What it does, and why it is safe, stands in migrate/state_dump.h. In doubt
// every call is passed on as it is: then CRIU dumps more, which is always right.
//
// CRIU dumps from one thread. Plain C underneath: no exceptions, nothing of libstdc++.

#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#define EXPORTED extern "C" __attribute__((visibility("default")))

namespace {

// By the system call itself: the C library's openat may be the one below.
int open_by_kernel(int directory, const char* path, int flags, unsigned mode) {
  return static_cast<int>(::syscall(SYS_openat, directory, path, flags, mode));
}

// A whole file, with a NUL behind it.
struct Text {
  char* data = nullptr;
  size_t size = 0;

  Text() = default;
  Text(const Text&) = delete;
  Text& operator=(const Text&) = delete;
  ~Text() { ::free(data); }

  bool read_from(int fd) {
    constexpr size_t kMostBytes = size_t{1} << 30;
    size_t room = 0;
    while (true) {
      if (room - size < 65536) {
        room = room == 0 ? 262144 : room * 2;
        if (room > kMostBytes) return false;
        auto* larger = static_cast<char*>(::realloc(data, room + 1));
        if (larger == nullptr) return false;
        data = larger;
      }
      ssize_t count = ::read(fd, data + size, room - size);
      if (count < 0 && errno == EINTR) continue;
      if (count < 0) return false;
      if (count == 0) break;
      size += static_cast<size_t>(count);
    }
    data[size] = '\0';
    return true;
  }
  bool read_from(const char* path) {
    int fd = open_by_kernel(AT_FDCWD, path, O_RDONLY | O_CLOEXEC, 0);
    if (fd < 0) return false;
    bool good = read_from(fd);
    ::close(fd);
    return good;
  }
  bool read_of_process(int pid, const char* name) {
    char path[64];
    ::snprintf(path, sizeof path, "/proc/%d/%s", pid, name);
    return read_from(path);
  }
};

// Line by line; the line ends are taken out of the text.
char* next_line(char*& at) {
  if (at == nullptr || *at == '\0') return nullptr;
  char* line = at;
  char* end = ::strchr(at, '\n');
  at = end == nullptr ? nullptr : end + 1;
  if (end != nullptr) *end = '\0';
  return line;
}

// In a session /proc leads there (daemon/view/).
constexpr char kSessionProc[] = "/run/gestalt/proc";

// "…/PID/NAME" or, without a name, "…/PID". 0 if it is something else.
int pid_of_descriptor(int fd, const char* name) {
  char path[64];
  char link[256];
  ::snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
  ssize_t length = ::readlink(path, link, sizeof link - 1);
  if (length <= 0) return 0;
  link[length] = '\0';
  if (name != nullptr) {
    char* slash = ::strrchr(link, '/');
    if (slash == nullptr || ::strcmp(slash + 1, name) != 0) return 0;
    *slash = '\0';
  }
  char* slash = ::strrchr(link, '/');
  if (slash == nullptr) return 0;
  *slash = '\0';
  if (::strcmp(link, "/proc") != 0 && ::strcmp(link, kSessionProc) != 0) return 0;
  char* end = nullptr;
  long pid = ::strtol(slash + 1, &end, 10);
  return pid > 0 && *end == '\0' && pid < (1 << 30) ? static_cast<int>(pid) : 0;
}

struct Area {
  uint64_t start, end;
  bool lazy;  // CRIU's lazy restore will register it with userfaultfd
};

bool has_flag(const char* flags, const char* flag) { return ::strstr(flags, flag) != nullptr; }

// A line of maps, or the first line of an area in smaps.
bool parse_area(const char* line, Area& area) {
  char permissions[8];
  int name_at = 0;
  unsigned long start, end, offset, inode;
  char device[24];
  if (::sscanf(line, "%lx-%lx %7s %lx %23s %lu %n", &start, &end, permissions, &offset, device,
               &inode, &name_at) < 6)
    return false;
  const char* name = line + name_at;
  bool named_anonymous = *name == '\0' || ::strcmp(name, "[heap]") == 0 ||
                         ::strncmp(name, "[stack", 6) == 0 || ::strncmp(name, "[anon:", 6) == 0;
  area = {start, end, permissions[3] == 'p' && inode == 0 && named_anonymous};
  return start < end;
}

bool has_locked_memory(int pid) {
  Text status;
  if (!status.read_of_process(pid, "status")) return true;
  const char* line = ::strstr(status.data, "\nVmLck:");
  return line == nullptr || ::strtoul(line + 7, nullptr, 10) != 0;
}

// The areas of the process that CRIU is dumping now.
class Areas {
 public:
  void forget() { pid_ = 0; }

  // Whether all that is mapped in [start, end) is lazy, and something is.
  bool all_lazy(int pid, uint64_t start, uint64_t end) {
    if (pid != pid_ && !load(pid)) return false;
    if (any_in(start, end) == nullptr && !load(pid)) return false;
    const Area* area = any_in(start, end);
    if (area == nullptr) return false;
    for (; area != areas_ + count_ && area->start < end; ++area)
      if (!area->lazy) return false;
    return true;
  }

 private:
  // The first that ends after `start`, if it begins before `end`.
  const Area* any_in(uint64_t start, uint64_t end) const {
    size_t low = 0;
    size_t high = count_;
    while (low < high) {
      size_t middle = (low + high) / 2;
      if (areas_[middle].end <= start)
        low = middle + 1;
      else
        high = middle;
    }
    return low < count_ && areas_[low].start < end ? &areas_[low] : nullptr;
  }

  bool add(const Area& area) {
    if (count_ == room_) {
      size_t room = room_ == 0 ? 256 : room_ * 2;
      auto* larger = static_cast<Area*>(::realloc(areas_, room * sizeof(Area)));
      if (larger == nullptr) return false;
      areas_ = larger;
      room_ = room;
    }
    areas_[count_++] = area;
    return true;
  }

  // smaps only where memory is locked: reading it walks all pages.
  bool load(int pid) {
    pid_ = 0;
    count_ = 0;
    bool with_flags = has_locked_memory(pid);
    Text text;
    if (!text.read_of_process(pid, with_flags ? "smaps" : "maps")) return false;
    char* at = text.data;
    bool candidate = false;
    while (char* line = next_line(at)) {
      Area area;
      if (parse_area(line, area)) {
        candidate = area.lazy;
        area.lazy = candidate && !with_flags;  // or not before its flags are seen
        if (!add(area)) return false;
      } else if (!with_flags) {
        return false;
      } else if (::strncmp(line, "VmFlags:", 8) == 0 && count_ > 0) {
        areas_[count_ - 1].lazy = candidate && !has_flag(line, " lo") && !has_flag(line, " ht");
      }
    }
    pid_ = pid;
    return true;
  }

  int pid_ = 0;
  Area* areas_ = nullptr;
  size_t count_ = 0;
  size_t room_ = 0;
};

Areas the_areas;

// CRIU 4.2's question for the pages that it has to dump.
bool asks_for_pages_to_dump(const pm_scan_arg& scan) {
  constexpr uint64_t kExcluded = PAGE_IS_PFNZERO | PAGE_IS_FILE;
  return scan.size == sizeof scan && scan.flags == 0 && scan.category_inverted == kExcluded &&
         scan.category_mask == kExcluded &&
         scan.category_anyof_mask == (PAGE_IS_PRESENT | PAGE_IS_SWAPPED);
}

// --- smaps -------------------------------------------------------------------

// Whether the stored smaps has the areas that the process has now, and no locked ones.
bool is_still_true(int pid, Text& stored) {
  Text maps;
  if (has_locked_memory(pid) || !maps.read_of_process(pid, "maps")) return false;
  char* at = stored.data;
  char* maps_at = maps.data;
  while (char* line = next_line(at)) {
    Area area;
    if (parse_area(line, area)) {
      const char* now = next_line(maps_at);
      if (now == nullptr || ::strcmp(now, line) != 0) return false;
    } else if (::strncmp(line, "VmFlags:", 8) == 0 && has_flag(line, " lo")) {
      return false;
    }
  }
  return next_line(maps_at) == nullptr;
}

// -1: the real one is to be opened. A stored one that is of no use any more is removed, so
// that nobody compares with it later what CRIU has read afresh.
int open_stored_smaps(int directory, int flags) {
  const char* store = ::getenv("GESTALT_SMAPS");
  int pid = pid_of_descriptor(directory, nullptr);
  if (store == nullptr || pid == 0) return -1;
  char path[512];
  int length = ::snprintf(path, sizeof path, "%s/smaps-%d", store, pid);
  if (length < 0 || static_cast<size_t>(length) >= sizeof path) return -1;
  int fd = open_by_kernel(AT_FDCWD, path, flags, 0);
  if (fd < 0) return -1;
  Text stored;
  if (stored.read_from(fd) && is_still_true(pid, stored) && ::lseek(fd, 0, SEEK_SET) == 0)
    return fd;
  ::close(fd);
  (void)::unlink(path);
  return -1;
}

int open_maybe_stored(int directory, const char* path, int flags, unsigned mode) {
  int saved_errno = errno;
  if (path != nullptr && ::strcmp(path, "smaps") == 0) {
    the_areas.forget();  // a dump begins
    int fd = open_stored_smaps(directory, flags);
    errno = saved_errno;
    if (fd >= 0) return fd;
  }
  return open_by_kernel(directory, path, flags, mode);
}

// What CRIU's code within the process reads by /proc/self only to learn its control group
// namespace, which all processes of a node share. Under a single view that is no number
// (docs/view.md), and CRIU would mount a procfs of its own in the process's directory, if it may.
int status_of(int directory, const char* path, struct stat* out, int flags) {
  if (path != nullptr && ::strcmp(path, "ns/cgroup") == 0 &&
      ::getenv("GESTALT_SESSION") != nullptr) {
    errno = ENOENT;
    return -1;
  }
  return static_cast<int>(::syscall(SYS_newfstatat, directory, path, out, flags));
}

// Where a process comes home the terminal is its session's, and keeps its settings and its
// foreground group: CRIU would give it those from the image (migrate/home_place.h).
bool changes_terminal(unsigned long request) {
  switch (request) {
    case TIOCSPGRP:
    case TIOCSWINSZ:
    case TIOCSLCKTRMIOS:
    case TCSETS:
    case TCSETSW:
    case TCSETSF:
      return ::getenv("GESTALT_AT_HOME") != nullptr;
    default:
      return false;
  }
}

// Where a process comes home, what was a pipe there may be a file here, whose offset others share.
// CRIU opens the ends of pipes anew, by their descriptors' names. -1: it is to do that.
int shared_file(const char* path) {
  constexpr char kOwn[] = "/proc/self/fd/";
  struct stat info{};
  if (::strncmp(path, kOwn, sizeof kOwn - 1) != 0 || ::getenv("GESTALT_AT_HOME") == nullptr)
    return -1;
  int fd = ::atoi(path + sizeof kOwn - 1);
  if (::fstat(fd, &info) != 0 || !S_ISREG(info.st_mode)) return -1;
  return ::dup(fd);
}

// In place of real ids that were set before the exec: with these the loader would take
// CRIU for a set-user-id program, and load nothing for its environment's sake.
__attribute__((constructor)) void take_real_ids() {
  const char* text = ::getenv("GESTALT_REAL_IDS");
  unsigned uid = 0;
  unsigned gid = 0;
  if (text == nullptr) return;
  if (::sscanf(text, "%u:%u", &uid, &gid) != 2 || ::setresgid(gid, 0, 0) != 0 ||
      ::setresuid(uid, 0, 0) != 0)
    ::_exit(125);
}

}  // namespace

EXPORTED int ioctl(int fd, unsigned long request, ...) {
  va_list list;
  va_start(list, request);
  void* argument = va_arg(list, void*);
  va_end(list);
  if (changes_terminal(request)) return 0;
  if (request == PAGEMAP_SCAN && argument != nullptr) {
    auto& scan = *static_cast<pm_scan_arg*>(argument);
    int saved_errno = errno;
    int pid = asks_for_pages_to_dump(scan) ? pid_of_descriptor(fd, "pagemap") : 0;
    bool lazy = pid != 0 && pid != ::getpid() && the_areas.all_lazy(pid, scan.start, scan.end);
    errno = saved_errno;
    if (lazy) {
      scan.walk_end = scan.end;
      return 0;
    }
  }
  return static_cast<int>(::syscall(SYS_ioctl, fd, request, argument));
}

namespace {

// Whatever is below /proc: there natively, without the single view's way to it.
int open_native(const char* path, int flags, unsigned mode) {
  int shared = shared_file(path);
  if (shared >= 0) return shared;
  char native[512];
  bool is_proc = ::strncmp(path, "/proc", 5) == 0 && (path[5] == '\0' || path[5] == '/') &&
                 ::getenv("GESTALT_SESSION") != nullptr;
  if (is_proc) {
    int length = ::snprintf(native, sizeof native, "%s%s", kSessionProc, path + 5);
    if (length > 0 && static_cast<size_t>(length) < sizeof native) path = native;
  }
  return open_by_kernel(AT_FDCWD, path, flags, mode);
}

}  // namespace

EXPORTED int open64(const char* path, int flags, ...) {
  va_list list;
  va_start(list, flags);
  unsigned mode = (flags & (O_CREAT | O_TMPFILE)) != 0 ? va_arg(list, unsigned) : 0;
  va_end(list);
  return open_native(path, flags, mode);
}

// What open64 is with _FORTIFY_SOURCE where the flags are not known to the compiler.
EXPORTED int __open64_2(const char* path, int flags) { return open_native(path, flags, 0); }

EXPORTED int openat(int directory, const char* path, int flags, ...) {
  va_list list;
  va_start(list, flags);
  unsigned mode = (flags & (O_CREAT | O_TMPFILE)) != 0 ? va_arg(list, unsigned) : 0;
  va_end(list);
  return open_maybe_stored(directory, path, flags, mode);
}

EXPORTED int fstatat(int directory, const char* path, struct stat* out, int flags) noexcept {
  return status_of(directory, path, out, flags);
}

EXPORTED int fstatat64(int directory, const char* path, struct stat64* out, int flags) noexcept {
  static_assert(sizeof(struct stat) == sizeof(struct stat64));
  return status_of(directory, path, reinterpret_cast<struct stat*>(out), flags);
}

EXPORTED int openat64(int directory, const char* path, int flags, ...) {
  va_list list;
  va_start(list, flags);
  unsigned mode = (flags & (O_CREAT | O_TMPFILE)) != 0 ? va_arg(list, unsigned) : 0;
  va_end(list);
  return open_maybe_stored(directory, path, flags, mode);
}
