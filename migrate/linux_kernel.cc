#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <sys/ioctl.h>
#include <sys/uio.h>
#include <unistd.h>

#include <cerrno>

#include "common/fd.h"
#include "common/format.h"
#include "migrate/kernel.h"

namespace gestalt {
namespace {

Result<PlaceOutcome> outcome_of(int error_number, const char* what) {
  switch (error_number) {
    case EEXIST:
      return PlaceOutcome::kPresent;
    case EAGAIN:
      return PlaceOutcome::kRetry;
    case ENOENT:
      return PlaceOutcome::kNoMapping;
    case ESRCH:
      return PlaceOutcome::kGone;
    default:
      return fail_errno(error_number, what);
  }
}

class LinuxKernel final : public Kernel {
 public:
  Result<std::size_t> read_memory(pid_t pid, std::uint64_t address,
                                  std::span<std::byte> into) override {
    std::size_t done = 0;
    while (done < into.size()) {
      iovec local{into.data() + done, into.size() - done};
      iovec remote{reinterpret_cast<void*>(address + done), into.size() - done};
      ssize_t count = ::process_vm_readv(pid, &local, 1, &remote, 1, 0);
      if (count < 0 && errno == ESRCH)
        return fail(ErrorCode::kGone, formatted("process {} has ended", pid));
      if (count < 0 && errno != EFAULT)
        return fail_errno(errno, formatted("read the memory of process {} at {:#x}", pid, address));
      if (count <= 0) count = read_forbidden(pid, address + done, into.subspan(done));
      if (count <= 0) break;
      done += static_cast<std::size_t>(count);
    }
    return done / 4096 * 4096;
  }

  // A mapping that the process itself may not read (PROT_NONE) still has pages.
  static ssize_t read_forbidden(pid_t pid, std::uint64_t address, std::span<std::byte> into) {
    auto memory = open_file(formatted("/proc/{}/mem", pid), O_RDONLY);
    if (!memory) return -1;
    return ::pread(memory->get(), into.data(), into.size(), static_cast<off_t>(address));
  }

  Result<PlaceOutcome> place_pages(int uffd, std::uint64_t address,
                                   std::span<const std::byte> pages,
                                   std::uint64_t& placed_bytes) override {
    uffdio_copy copy{};
    copy.dst = address;
    copy.src = reinterpret_cast<std::uint64_t>(pages.data());
    copy.len = pages.size();
    bool done = ::ioctl(uffd, UFFDIO_COPY, &copy) == 0;
    int error_number = errno;
    placed_bytes = copy.copy > 0 ? static_cast<std::uint64_t>(copy.copy) : 0;
    if (done) return PlaceOutcome::kPlaced;
    return outcome_of(error_number, "place pages by userfaultfd");
  }

  Result<PlaceOutcome> place_zero(int uffd, std::uint64_t address, std::uint64_t bytes,
                                  std::uint64_t& placed_bytes) override {
    uffdio_zeropage zero{};
    zero.range.start = address;
    zero.range.len = bytes;
    bool done = ::ioctl(uffd, UFFDIO_ZEROPAGE, &zero) == 0;
    int error_number = errno;
    placed_bytes = zero.zeropage > 0 ? static_cast<std::uint64_t>(zero.zeropage) : 0;
    if (done) return PlaceOutcome::kPlaced;
    return outcome_of(error_number, "place zero pages by userfaultfd");
  }

  void wake(int uffd, std::uint64_t address, std::uint64_t bytes) override {
    uffdio_range range{address, bytes};
    (void)::ioctl(uffd, UFFDIO_WAKE, &range);
  }

  Result<UserfaultEvent> read_event(int uffd) override {
    uffd_msg message;
    ssize_t count = ::read(uffd, &message, sizeof message);
    if (count < 0 && errno == EAGAIN) return fail(ErrorCode::kTimeout, "no userfault event");
    if (count != sizeof message)
      return fail_errno(count < 0 ? errno : EIO, "read a userfault event");
    UserfaultEvent event;
    switch (message.event) {
      case UFFD_EVENT_PAGEFAULT:
        event.type = UserfaultEvent::Type::kPageFault;
        event.address = message.arg.pagefault.address;
        break;
      case UFFD_EVENT_FORK:
        event.type = UserfaultEvent::Type::kFork;
        event.fork_uffd = static_cast<int>(message.arg.fork.ufd);
        break;
      case UFFD_EVENT_REMAP:
        event.type = UserfaultEvent::Type::kRemap;
        event.address = message.arg.remap.from;
        event.target = message.arg.remap.to;
        event.end = event.address + message.arg.remap.len;
        break;
      case UFFD_EVENT_REMOVE:
      case UFFD_EVENT_UNMAP:
        event.type = message.event == UFFD_EVENT_UNMAP ? UserfaultEvent::Type::kUnmap
                                                       : UserfaultEvent::Type::kRemove;
        event.address = message.arg.remove.start;
        event.end = message.arg.remove.end;
        break;
      default:
        break;
    }
    return event;
  }
};

}  // namespace

Kernel& linux_kernel() {
  static LinuxKernel kernel;
  return kernel;
}

}  // namespace gestalt
