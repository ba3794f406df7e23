// One address space at the destination while its pages are still being put in. Every
// member but the constructor needs lock(); placing happens under it too, so that what
// the task does meanwhile (unmap, mremap, MADV_DONTNEED: events that wait for us to read
// them) can never let an old page reappear.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <span>

#include "common/clock.h"
#include "common/fd.h"
#include "migrate/fault_around.h"
#include "migrate/kernel.h"
#include "migrate/page_set.h"
#include "migrate/page_store.h"

namespace gestalt {

class AddressSpace {
 public:
  // `remote`: pages at the source, to be fetched; `local`: pages in `store`.
  AddressSpace(Kernel& kernel, std::uint32_t pid, PageSet remote, PageSet local,
               std::shared_ptr<PageStore> store, std::uint32_t max_prefetch_pages);

  [[nodiscard]] std::unique_lock<std::mutex> lock() { return std::unique_lock(mutex_); }
  // For bulk work: lets a thread that serves a fault go first.
  [[nodiscard]] std::unique_lock<std::mutex> lock_politely();
  // While one exists, lock_politely() waits.
  class Urgent {
   public:
    explicit Urgent(AddressSpace& space) : space_(space) { ++space_.urgent_; }
    Urgent(const Urgent&) = delete;
    Urgent& operator=(const Urgent&) = delete;
    ~Urgent() { --space_.urgent_; }

   private:
    AddressSpace& space_;
  };

  [[nodiscard]] std::uint32_t pid() const { return pid_; }
  [[nodiscard]] int uffd() const { return uffd_.get(); }
  // `on_close` is called when it is closed.
  void set_uffd(Fd uffd, std::function<void()> on_close) {
    uffd_ = std::move(uffd);
    on_close_ = std::move(on_close);
  }
  // Nothing is registered any more; the kernel handles all faults.
  void close();
  [[nodiscard]] bool closed() const { return closed_; }

  PageSet remote;     // to be requested
  PageSet in_flight;  // requested
  PageSet local;      // in the store
  FaultAround around;
  std::map<std::uint64_t, Clock::time_point> waiting;  // pages that tasks wait for
  [[nodiscard]] bool complete() const {
    return remote.empty() && in_flight.empty() && local.empty();
  }

  // The address at the source of what is at `address` now; `bytes` is cut to the part
  // that moved in one piece.
  [[nodiscard]] std::uint64_t source_address(std::uint64_t address, std::uint64_t& bytes) const;
  // Tasks that wait for a page of it are woken, and take the fault again.
  void removed(std::uint64_t start, std::uint64_t end);
  void moved(std::uint64_t start, std::uint64_t end, std::uint64_t target);
  // A copy for a forked child.
  [[nodiscard]] std::shared_ptr<AddressSpace> fork(Fd uffd, std::function<void()> on_close) const;

  enum class Placed {
    kAll,        // or there already
    kNoMapping,  // nothing is registered at `address`
    kChanging,   // an event waits to be read: release the lock, try again
    kGone,       // the process has ended
  };
  // Places pages (null: zero pages) from `address` on, as many as lie in one mapping;
  // `done_bytes` is how far it came. Wakes who waits. The sets are left to the caller.
  [[nodiscard]] Result<Placed> place(std::uint64_t address, std::uint64_t bytes,
                                     const std::byte* data, std::uint64_t& done_bytes);
  [[nodiscard]] PageStore& store() { return *store_; }
  // False once a fork shares the store: its pages are then kept until the end.
  [[nodiscard]] bool owns_store() const { return store_.use_count() <= kStoreOwners; }

 private:
  void stop_waiting(std::uint64_t start, std::uint64_t end);

  static constexpr long kStoreOwners = 2;  // this and the sink's table
  struct Move {
    std::uint64_t end = 0;
    std::uint64_t source = 0;
  };
  Kernel& kernel_;
  std::uint32_t pid_;
  Fd uffd_;
  std::function<void()> on_close_;
  bool closed_ = false;
  std::shared_ptr<PageStore> store_;
  std::uint32_t max_prefetch_pages_;
  std::map<std::uint64_t, Move> moves_;  // by start
  std::mutex mutex_;
  std::atomic<int> urgent_ = 0;
};

}  // namespace gestalt
