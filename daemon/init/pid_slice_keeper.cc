#include "daemon/init/pid_slice_keeper.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <charconv>

#include "common/format.h"
#include "common/log.h"

namespace gestalt {
namespace {

constexpr auto kFastest = milliseconds(10);
constexpr auto kSlowest = milliseconds(50);
// While the module keeps the slice, and says so when it goes.
constexpr auto kIdle = std::chrono::seconds(1);
// Forks that may happen while the poller is late by a scheduler's whim.
constexpr double kMinimumBand = 1024;
constexpr double kLateness = 8;

}  // namespace

Result<PidSliceKeeper> PidSliceKeeper::open() {
  GESTALT_ASSIGN(auto fd, open_file("/proc/sys/kernel/ns_last_pid", O_RDWR));
  return PidSliceKeeper(std::move(fd));
}

Result<std::uint32_t> PidSliceKeeper::read() const {
  char buffer[32];
  ssize_t count = ::pread(last_pid_.get(), buffer, sizeof buffer, 0);
  if (count <= 0) return fail_errno(errno, "read ns_last_pid");
  std::uint32_t value = 0;
  std::from_chars(buffer, buffer + count, value);
  return value;
}

// The next pid is the slice's first one that is free.
Result<void> PidSliceKeeper::rewind() {
  auto text = std::to_string(first_ - 1);
  if (::pwrite(last_pid_.get(), text.data(), text.size(), 0) < 0)
    return fail_errno(errno, "write ns_last_pid");
  previous_ = first_ - 1;
  return {};
}

Result<void> PidSliceKeeper::set_slice(std::uint32_t first, std::uint32_t last) {
  constexpr std::uint32_t kPidMax = 1U << 22;
  if (first < 2 || last <= first + 2 * kMinimumBand || last >= kPidMax)
    return fail(ErrorCode::kInvalidArgument, formatted("no pid slice: {} to {}", first, last));
  if (first == first_ && last == last_) return {};
  first_ = first;
  last_ = last;
  polled_ = Clock::now();
  GESTALT_ASSIGN(auto current, read());
  previous_ = current;
  if (current < first - 1 || current > last) GESTALT_TRY(rewind());
  module_.reset();
  look_for_module();
  return {};
}

void PidSliceKeeper::look_for_module() {
  if (!has_slice() || (module_ && module_->slice())) return;
  bool had_it = module_.has_value();
  module_.reset();
  auto client = ModuleClient::connect();
  if (client) {
    if (auto set = client->set_slice(first_, last_); set) {
      module_.emplace(std::move(*client));
      log::info("pid slice kept by the kernel module");
      return;
    } else {
      log::warning("the kernel module does not keep the pid slice",
                   log::field("error", set.error().text()));
    }
  }
  if (had_it) log::info("pid slice kept by ns_last_pid");
}

Clock::duration PidSliceKeeper::poll() {
  if (!has_slice()) return kSlowest;
  if (module_ && module_->slice()) return kIdle;
  if (module_) look_for_module();
  if (module_) return kIdle;
  auto current = read();
  if (!current) {
    log::error("pid slice", log::field("error", current.error().text()));
    return kSlowest;
  }
  auto now = Clock::now();
  double seconds = std::max(seconds_between(polled_, now), 0.001);
  double forks = *current >= previous_ ? static_cast<double>(*current - previous_) : 0;
  forks_per_second_ = std::max(forks / seconds, forks_per_second_ * 0.9);
  polled_ = now;
  previous_ = *current;
  double band = kMinimumBand + kLateness * forks_per_second_ * 0.01;
  band = std::min(band, static_cast<double>(last_ - first_) / 2);
  bool outside = *current + 1 < first_ || static_cast<double>(*current) > last_ - band;
  if (outside) {
    if (auto done = rewind(); !done)
      log::error("pid slice", log::field("error", done.error().text()));
  }
  // Slow while a whole slow period of the present rate fits before the band.
  double room = static_cast<double>(last_) - band - static_cast<double>(previous_);
  return forks_per_second_ * 0.05 * kLateness < room && forks_per_second_ < 1000 ? kSlowest
                                                                                 : kFastest;
}

}  // namespace gestalt
