// Another process, stopped by ptrace(2) with all its threads for as long as this exists, in which
// system calls can be run meanwhile (migrate/injector.h). To its own parent it is not stopped, and
// what it waited for is waited for again. Should this process crash, it is let go of as well.
#pragma once

#include <sys/types.h>

#include <memory>

#include "common/result.h"
#include "migrate/injector.h"
#include "migrate/tracer_task.h"

namespace gestalt {

// One thread at a time may use it.
class HeldProcess {
 public:
  // kGone, kBlocked and kBusy as Injector::attach().
  [[nodiscard]] static Result<std::unique_ptr<HeldProcess>> hold(pid_t pid);
  ~HeldProcess();  // lets it go
  HeldProcess(const HeldProcess&) = delete;
  HeldProcess& operator=(const HeldProcess&) = delete;

  [[nodiscard]] pid_t pid() const { return pid_; }
  // The kernel's result: negative errno values too.
  [[nodiscard]] Result<std::int64_t> call(long number, const Injector::Arguments& arguments);

  // Memory of its own for arguments and results, of kScratchBytes.
  static constexpr std::size_t kScratchBytes = 4096;
  [[nodiscard]] std::uint64_t scratch() const { return scratch_; }
  [[nodiscard]] Result<void> put(std::size_t offset, const void* bytes, std::size_t count);
  [[nodiscard]] Result<void> get(std::size_t offset, void* bytes, std::size_t count);

 private:
  explicit HeldProcess(pid_t pid) : pid_(pid) {}
  [[nodiscard]] Result<void> make_scratch();

  pid_t pid_;
  std::uint64_t scratch_ = 0;
  Injector* main_ = nullptr;  // within the task
  TracerTask task_;
};

}  // namespace gestalt
