#include "migrate/dirty_tracker.h"

#include <sched.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <cstring>

#include "migrate/soft_dirty_tracker.h"
#include "migrate/uffd_wp_tracker.h"

namespace gestalt {
namespace {

// A child of ours that sleeps, with two pages of which this process can write the first.
class ProbeChild {
 public:
  ProbeChild() {
    void* memory =
        ::mmap(nullptr, 2 * kPageBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED) return;
    std::memset(memory, 1, 2 * kPageBytes);
    pages_ = reinterpret_cast<std::uint64_t>(memory);
    // No exit signal: a wait(2) for any child, elsewhere in this process, passes it over.
    pid_ = static_cast<pid_t>(::syscall(SYS_clone, 0, nullptr, nullptr, nullptr, nullptr));
    while (pid_ == 0) (void)::pause();
  }
  ProbeChild(const ProbeChild&) = delete;
  ProbeChild& operator=(const ProbeChild&) = delete;
  ~ProbeChild() {
    if (pid_ > 0) {
      (void)::kill(pid_, SIGKILL);
      (void)::waitpid(pid_, nullptr, __WALL);
    }
    if (pages_ != 0) (void)::munmap(reinterpret_cast<void*>(pages_), 2 * kPageBytes);
  }

  [[nodiscard]] pid_t pid() const { return pid_; }
  [[nodiscard]] bool write_first() const {
    char byte = 2;
    iovec local{&byte, 1};
    iovec remote{reinterpret_cast<void*>(pages_), 1};
    return ::process_vm_writev(pid_, &local, 1, &remote, 1, 0) == 1;
  }
  [[nodiscard]] bool has_both(const Result<PageSet>& set) const {
    return set && set->contains(pages_, pages_ + 2 * kPageBytes);
  }
  [[nodiscard]] bool has_none(const Result<PageSet>& set) const {
    return set && set->pages_in(pages_, pages_ + 2 * kPageBytes) == 0;
  }
  [[nodiscard]] bool has_first(const Result<PageSet>& set) const {
    return set && set->contains(pages_) && !set->contains(pages_ + kPageBytes);
  }

 private:
  pid_t pid_ = -1;
  std::uint64_t pages_ = 0;
};

bool uffd_wp_works() {
  ProbeChild child;
  if (child.pid() < 0) return false;
  UffdWpTracker tracker;
  return child.has_both(tracker.harvest(child.pid())) &&
         child.has_none(tracker.harvest(child.pid())) && child.write_first() &&
         child.has_first(tracker.harvest_frozen(child.pid()));
}

bool soft_dirty_works() {
  ProbeChild child;
  if (child.pid() < 0) return false;
  // It sleeps, which is as good as frozen.
  return clear_soft_dirty(child.pid()) && child.has_none(read_soft_dirty(child.pid(), false)) &&
         child.write_first() && child.has_first(read_soft_dirty(child.pid(), false)) &&
         child.has_both(read_soft_dirty(child.pid(), true));
}

}  // namespace

std::string_view name_of(TrackerKind kind) {
  switch (kind) {
    case TrackerKind::kNone:
      return "none";
    case TrackerKind::kSoftDirty:
      return "soft-dirty";
    case TrackerKind::kUserfaultWriteProtect:
      return "uffd-wp";
  }
  return "?";
}

TrackerKind probe_tracker() {
  static const TrackerKind kind = uffd_wp_works()      ? TrackerKind::kUserfaultWriteProtect
                                  : soft_dirty_works() ? TrackerKind::kSoftDirty
                                                       : TrackerKind::kNone;
  return kind;
}

Result<std::unique_ptr<DirtyTracker>> make_dirty_tracker(TrackerKind kind, Cgroup& group) {
  switch (kind) {
    case TrackerKind::kUserfaultWriteProtect:
      return std::make_unique<UffdWpTracker>();
    case TrackerKind::kSoftDirty:
      return std::make_unique<SoftDirtyTracker>(group);
    case TrackerKind::kNone:
      break;
  }
  return fail(ErrorCode::kBlocked, "this kernel cannot tell which pages a process writes",
              "Linux 6.7 or later, or one with CONFIG_MEM_SOFT_DIRTY");
}

}  // namespace gestalt
