#include "migrate/zero_copy_probe.h"

#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <csignal>
#include <cstring>
#include <sstream>
#include <vector>

#include "common/fd.h"
#include "common/log.h"
#include "migrate/zero_copy.h"
#include "migrate/zero_copy_loopback.h"

namespace gestalt {
namespace {

constexpr std::size_t kProbeBytes = 64U << 10;
constexpr auto kProbeTimeout = std::chrono::seconds(10);

// Sleeps, with some pages that are its own.
class SleepingChild {
 public:
  SleepingChild() {
    auto ready = make_pipe();
    void* memory =
        ::mmap(nullptr, kProbeBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (!ready || memory == MAP_FAILED) return;
    start_ = reinterpret_cast<std::uint64_t>(memory);
    pid_ = ::fork();
    if (pid_ == 0) {
      (void)::prctl(PR_SET_PDEATHSIG, SIGKILL);
      fill(static_cast<char*>(memory));
      (void)!::write(ready->write.get(), "", 1);
      while (true) (void)::pause();
    }
    std::byte byte{};
    if (pid_ > 0) (void)read_exact(ready->read.get(), {&byte, 1}, deadline_in(kProbeTimeout));
  }
  SleepingChild(const SleepingChild&) = delete;
  SleepingChild& operator=(const SleepingChild&) = delete;
  ~SleepingChild() {
    if (pid_ > 0) {
      (void)::kill(pid_, SIGKILL);
      (void)::waitpid(pid_, nullptr, 0);
    }
    if (start_ != 0) (void)::munmap(reinterpret_cast<void*>(start_), kProbeBytes);
  }
  [[nodiscard]] pid_t pid() const { return pid_; }
  [[nodiscard]] std::uint64_t start() const { return start_; }

  static void fill(char* memory) {
    for (std::size_t i = 0; i < kProbeBytes; ++i) memory[i] = static_cast<char>(i * 7 + (i >> 12));
  }

 private:
  pid_t pid_ = -1;
  std::uint64_t start_ = 0;
};

// Each line: the device, and why it does not work.
std::string encode(const ZeroCopySupport& support) {
  std::string out;
  for (const auto& [device, reason] : support) out += std::format("{} {}\n", device, reason);
  return out;
}

}  // namespace

Result<void> try_zero_copy(const std::string& device) {
  SleepingChild child;
  if (child.pid() < 0) return fail(ErrorCode::kSystem, "cannot start a child");
  GESTALT_ASSIGN(auto loopback, ZeroCopyLoopback::open(device));
  GESTALT_ASSIGN(auto source, ZeroCopySource::prepare(child.pid(), loopback->device()));
  PageSet wanted;
  wanted.add(child.start(), child.start() + kProbeBytes);
  GESTALT_ASSIGN(auto registered, source.register_pages(wanted, {.min_region_pages = 1},
                                                        deadline_in(kProbeTimeout)));
  if (!registered.staged().empty())
    return fail(ErrorCode::kUnavailable,
                std::format("{} pages cannot be registered: {}", registered.staged().pages(),
                            registered.stats().trouble));
  std::vector<char> expected(kProbeBytes);
  std::vector<char> content(kProbeBytes);
  SleepingChild::fill(expected.data());
  auto bytes = std::as_writable_bytes(std::span(content));
  GESTALT_ASSIGN(auto buffer, loopback->register_buffer(bytes));
  for (const auto& region : registered.regions())
    GESTALT_TRY(
        loopback->read(region.remote_address, region.rkey, buffer,
                       bytes.subspan(region.start - child.start(), region.end - region.start),
                       deadline_in(kProbeTimeout)));
  if (content != expected)
    return fail(ErrorCode::kSystem, "other pages than the process's were read");
  return {};
}

ZeroCopySupport probe_zero_copy() {
  if (::access(kZeroCopyFile, F_OK) == 0) return known_zero_copy();
  ZeroCopySupport support;
  int count = 0;
  ibv_device** devices = ::ibv_get_device_list(&count);
  for (int i = 0; i < count; ++i) support[::ibv_get_device_name(devices[i])];
  if (devices != nullptr) ::ibv_free_device_list(devices);
  for (auto& [device, reason] : support) {
    auto tried = try_zero_copy(device);
    if (tried) continue;
    reason = tried.error().text();
    std::ranges::replace(reason, '\n', ' ');
    log::warning("no zero-copy source: pages will be copied before they are read",
                 log::field("device", device), log::field("reason", reason));
  }
  auto kept = replace_file(kZeroCopyFile, encode(support), 0644);
  if (!kept) log::warning("cannot keep an answer", log::field("error", kept.error().text()));
  return support;
}

ZeroCopySupport known_zero_copy() {
  ZeroCopySupport out;
  std::istringstream lines(read_file(kZeroCopyFile).value_or(""));
  for (std::string line; std::getline(lines, line);) {
    auto space = line.find(' ');
    if (space == std::string::npos) continue;
    out[line.substr(0, space)] = line.substr(space + 1);
  }
  return out;
}

}  // namespace gestalt
