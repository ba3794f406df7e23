#include "migrate/zero_copy.h"

#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>

#include <algorithm>
#include <charconv>
#include <cstring>

#include "common/fault.h"
#include "common/format.h"
#include "common/log.h"

namespace gestalt {
namespace {

constexpr std::size_t kMostCallsAtOnce = 4096;  // 544 KiB
constexpr std::size_t kFewCalls = 3;            // made one by one, if they pin little: a call
constexpr std::uint64_t kFewBytes = 64U << 20;  // that takes too long costs the keeper its life
constexpr std::uint64_t kGiveBytes = 256;       // at the scratch memory's beginning

// While it lives. Documentation/scheduler/sched-stats.rst.
double cpu_seconds_of(pid_t pid) {
  auto text = read_file(formatted("/proc/{}/schedstat", pid)).value_or("");
  std::uint64_t nanoseconds = 0;
  (void)std::from_chars(text.data(), text.data() + text.size(), nanoseconds);
  return static_cast<double>(nanoseconds) / 1e9;
}

// Makes calls on the process's memory through its keeper.
class Caller {
 public:
  Caller(ZeroCopyKeeper& keeper, pid_t pid, const ZeroCopyDevice& device, Deadline deadline)
      : keeper_(keeper), pid_(pid), device_(device), deadline_(deadline) {}

  Result<void> set_up(std::span<const ZeroCopyRange> ranges) {
    std::uint64_t bytes =
        kGiveBytes + std::min(ranges.size(), kMostCallsAtOnce) * sizeof(RegistrationCall);
    bytes = (bytes + kPageBytes - 1) / kPageBytes * kPageBytes;
    GESTALT_ASSIGN(scratch_, keeper_.map(bytes, PROT_READ | PROT_WRITE));
    GESTALT_TRY(fault_point(Fault::kZeroCopyMapped));
    GESTALT_ASSIGN(int descriptor, keeper_.give(device_.command_fd, scratch_));
    descriptor_ = static_cast<std::uint64_t>(descriptor);
    std::uint64_t pinned = 0;
    for (const auto& range : ranges) pinned += range.end - range.start;
    if (ranges.size() > kFewCalls || pinned > kFewBytes) load_loop();
    return fault_point(Fault::kZeroCopyGiven);
  }

  // At most kMostCallsAtOnce; `calls` are added, with their results as far as it came.
  Result<void> call(std::span<const ZeroCopyRange> ranges, std::vector<RegistrationCall>& calls) {
    std::size_t first = calls.size();
    std::uint64_t base = scratch_ + kGiveBytes;
    std::uint64_t at = base;
    for (const auto& range : ranges) {
      calls.push_back(RegistrationCall::make(at, device_, range.start, range.end));
      at += sizeof(RegistrationCall);
    }
    auto batch = std::span(calls).subspan(first);
    GESTALT_TRY(write_memory_of(keeper_.pid(), base, std::as_bytes(batch)));
    auto made = make_calls(base, at, batch);
    // Both have that memory, and either may have been killed.
    std::vector<RegistrationCall> answers(batch.begin(), batch.end());
    auto bytes = std::as_writable_bytes(std::span(answers));
    if (!read_memory_of(keeper_.pid(), base, bytes)) {
      GESTALT_TRY(read_memory_of(pid_, base, bytes));
    }
    for (std::size_t i = 0; i < batch.size(); ++i) {
      batch[i].response = answers[i].response;
      if (code_ != 0) batch[i].result = answers[i].result;
    }
    return made;
  }

 private:
  // Where executable memory is not to be had (SELinux), calls are made one by one.
  void load_loop() {
    auto code = keeper_.map(kPageBytes, PROT_READ | PROT_EXEC);
    if (code && keeper_.put_code(*code, registration_loop())) code_ = *code;
  }

  Result<void> make_calls(std::uint64_t from, std::uint64_t to, std::span<RegistrationCall> batch) {
    if (Clock::now() >= deadline_) return fail(ErrorCode::kTimeout, "no time to register pages");
    if (code_ != 0)
      return keeper_.run_code(code_, {descriptor_, RDMA_VERBS_IOCTL, from, to}, deadline_);
    for (auto& call : batch) {
      if (Clock::now() >= deadline_) return fail(ErrorCode::kTimeout, "no time to register pages");
      GESTALT_ASSIGN(call.result, keeper_.call(SYS_ioctl, {descriptor_, RDMA_VERBS_IOCTL, from}));
      from += sizeof call;
    }
    return {};
  }

  ZeroCopyKeeper& keeper_;
  pid_t pid_;
  const ZeroCopyDevice& device_;
  Deadline deadline_;
  std::uint64_t scratch_ = 0;
  std::uint64_t code_ = 0;
  std::uint64_t descriptor_ = 0;
};

}  // namespace

Result<ZeroCopySource> ZeroCopySource::prepare(pid_t pid, const ZeroCopyDevice& device, int group) {
  GESTALT_TRY(fault_point(Fault::kZeroCopyPrepare));
  GESTALT_ASSIGN(auto keeper, ZeroCopyKeeper::start(pid, group));
  GESTALT_TRY(fault_point(Fault::kZeroCopyPrepared));
  return ZeroCopySource(pid, device, std::move(keeper));
}

Result<void> ZeroCopySource::call_keeper(const std::vector<ZeroCopyRange>& ranges,
                                         Deadline deadline, std::vector<RegistrationCall>& calls) {
  if (ranges.empty()) return {};
  GESTALT_TRY(fault_point(Fault::kZeroCopyRegister));
  Caller caller(*keeper_, pid_, device_, deadline);
  GESTALT_TRY(caller.set_up(ranges));
  for (std::span<const ZeroCopyRange> rest(ranges); !rest.empty();) {
    auto batch = rest.first(std::min(rest.size(), kMostCallsAtOnce));
    GESTALT_TRY(caller.call(batch, calls));
    rest = rest.subspan(batch.size());
  }
  return fault_point(Fault::kZeroCopyCalled);
}

Result<ZeroCopyRegistration> ZeroCopySource::register_pages(const PageSet& wanted,
                                                            const ZeroCopyLimits& limits,
                                                            Deadline deadline) {
  auto started = Clock::now();
  GESTALT_ASSIGN(auto command, duplicate(device_.command_fd));
  ZeroCopyRegistration out(pid_, std::move(command), device_.driver);
  GESTALT_ASSIGN(auto plan, plan_zero_copy(pid_, wanted, limits));
  auto planned = Clock::now();
  std::vector<RegistrationCall> calls;
  calls.reserve(plan.ranges.size());
  auto called = call_keeper(plan.ranges, deadline, calls);
  if (!called) out.stats_.trouble = called.error().text();
  out.stats_.keeper_cpu_seconds = cpu_seconds_of(keeper_->pid());
  keeper_->end();
  out.left_over_ = keeper_->left_over();
  out.staged_ = wanted;
  out.stats_.refused = plan.refused;
  for (std::size_t i = 0; i < plan.ranges.size(); ++i) {
    const auto& range = plan.ranges[i];
    if (i < calls.size() && calls[i].is_registered()) {
      const auto& response = calls[i].response;
      out.regions_.push_back(
          {range.start, range.end, range.start, response.rkey, response.mr_handle});
      out.staged_.remove(range.start, range.end);
      out.stats_.pages += range.wanted_pages;
      out.stats_.bridged_pages += range.pages() - range.wanted_pages;
      continue;
    }
    out.stats_.refused[static_cast<std::size_t>(ZeroCopyRefusal::kKernel)] += range.wanted_pages;
    if (i < calls.size() && calls[i].result < 0)
      out.stats_.trouble =
          formatted("register memory: {}", std::strerror(static_cast<int>(-calls[i].result)));
  }
  out.stats_.regions = out.regions_.size();
  out.stats_.plan_seconds = seconds_between(started, planned);
  out.stats_.register_seconds = seconds_between(planned, Clock::now());
  if (auto fault = fault_point(Fault::kZeroCopyRegistered); !fault)
    out.stats_.trouble = fault.error().text();
  return out;
}

ZeroCopyRegistration& ZeroCopyRegistration::operator=(ZeroCopyRegistration&& other) noexcept {
  if (this == &other) return *this;
  release();
  pid_ = other.pid_;
  command_ = std::move(other.command_);
  driver_ = other.driver_;
  regions_ = std::exchange(other.regions_, {});
  staged_ = std::move(other.staged_);
  stats_ = std::move(other.stats_);
  left_over_ = std::exchange(other.left_over_, {});
  return *this;
}

void ZeroCopyRegistration::release() {
  if (regions_.empty()) return;
  (void)fault_point(Fault::kZeroCopyRelease);
  std::string trouble;
  std::size_t failed = 0;
  for (const auto& region : regions_) {
    auto done = deregister(command_.get(), driver_, region.handle);
    if (done) continue;
    ++failed;
    trouble = done.error().text();
  }
  if (failed > 0)
    log::error("memory stays registered", log::field("pid", pid_), log::field("regions", failed),
               log::field("error", trouble));
  regions_.clear();
}

Result<void> ZeroCopyRegistration::clean_up() {
  if (left_over_.empty()) return {};
  auto unmap = [this]() -> Result<void> {
    GESTALT_ASSIGN(auto process, Injector::attach(pid_));
    for (const auto& mapping : left_over_) {
      GESTALT_ASSIGN([[maybe_unused]] auto done,
                     process.call(SYS_munmap, {mapping.start, mapping.bytes}));
    }
    return {};
  };
  GESTALT_TRY(run_apart(unmap));
  left_over_.clear();
  return {};
}

}  // namespace gestalt
