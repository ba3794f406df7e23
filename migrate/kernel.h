// The seam to the kernel's memory interfaces, so that tests can make them fail.
#pragma once

#include <sys/types.h>

#include <cstddef>
#include <cstdint>
#include <span>
#include <variant>

#include "common/result.h"

namespace gestalt {

struct UserfaultEvent {
  enum class Type { kPageFault, kFork, kRemap, kRemove, kUnmap, kOther };
  Type type = Type::kOther;
  std::uint64_t address = 0;  // faulting address, or start of the range
  std::uint64_t end = 0;      // kRemove, kUnmap; kRemap: length from `address`
  std::uint64_t target = 0;   // kRemap
  int fork_uffd = -1;         // kFork: the child's, to be owned by the reader
};

// What became of a page that was put into a process.
enum class PlaceOutcome {
  kPlaced,
  kPresent,    // somebody was quicker; whoever waited has been woken
  kRetry,      // the address space is changing: read the pending event first
  kNoMapping,  // nothing is registered there: not yet, or not any more
  kGone,       // no such process any more
};

// All members may be called from several threads at once.
class Kernel {
 public:
  virtual ~Kernel() = default;
  // Reads another process's memory, whole pages; how many bytes there were in front of
  // the first page that cannot be read. kGone: no such process. process_vm_readv(2).
  [[nodiscard]] virtual Result<std::size_t> read_memory(pid_t pid, std::uint64_t address,
                                                        std::span<std::byte> into) = 0;
  // UFFDIO_COPY of whole pages; `placed_bytes` is how far it came. userfaultfd(2).
  [[nodiscard]] virtual Result<PlaceOutcome> place_pages(int uffd, std::uint64_t address,
                                                         std::span<const std::byte> pages,
                                                         std::uint64_t& placed_bytes) = 0;
  // UFFDIO_ZEROPAGE.
  [[nodiscard]] virtual Result<PlaceOutcome> place_zero(int uffd, std::uint64_t address,
                                                        std::uint64_t bytes,
                                                        std::uint64_t& placed_bytes) = 0;
  // UFFDIO_WAKE.
  virtual void wake(int uffd, std::uint64_t address, std::uint64_t bytes) = 0;
  // The next event of a non-blocking uffd; kTimeout when there is none.
  [[nodiscard]] virtual Result<UserfaultEvent> read_event(int uffd) = 0;
};

[[nodiscard]] Kernel& linux_kernel();

}  // namespace gestalt
