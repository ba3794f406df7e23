#include "migrate/zero_copy_probe.h"

#include <sys/prctl.h>
#include <unistd.h>

#include <algorithm>
#include <csignal>
#include <filesystem>
#include <sstream>
#include <vector>

#include "common/fd.h"
#include "common/format.h"
#include "common/log.h"
#include "migrate/probe_child.h"
#include "migrate/zero_copy.h"
#include "migrate/zero_copy_loopback.h"

namespace gestalt {
namespace {

constexpr std::size_t kProbeBytes = 64U << 10;
constexpr auto kProbeTimeout = std::chrono::seconds(10);

void fill(char* memory) {
  for (std::size_t i = 0; i < kProbeBytes; ++i) memory[i] = static_cast<char>(i * 7 + (i >> 12));
}

// Each line: the device, and why it does not work.
std::string encode(const ZeroCopySupport& support) {
  std::string out;
  for (const auto& [device, reason] : support) out += formatted("{} {}\n", device, reason);
  return out;
}

}  // namespace

Result<void> try_zero_copy(const std::string& device) {
  ProbeChild child(kProbeBytes, [](char* memory) {
    (void)::prctl(PR_SET_PDEATHSIG, SIGKILL);
    fill(memory);
  });
  if (child.pid() < 0) return fail(ErrorCode::kSystem, "cannot start a child");
  GESTALT_ASSIGN(auto loopback, ZeroCopyLoopback::open(device));
  GESTALT_ASSIGN(auto source, ZeroCopySource::prepare(child.pid(), loopback->device()));
  PageSet wanted;
  wanted.add(child.start(), child.end());
  GESTALT_ASSIGN(auto registered, source.register_pages(wanted, {.min_region_pages = 1},
                                                        deadline_in(kProbeTimeout)));
  if (!registered.staged().empty())
    return fail(ErrorCode::kUnavailable,
                formatted("{} pages cannot be registered: {}", registered.staged().pages(),
                          registered.stats().trouble));
  std::vector<char> expected(kProbeBytes);
  std::vector<char> content(kProbeBytes);
  fill(expected.data());
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
  std::vector<std::string> names;
  int count = 0;
  ibv_device** devices = ::ibv_get_device_list(&count);
  for (int i = 0; i < count; ++i) names.emplace_back(::ibv_get_device_name(devices[i]));
  if (devices != nullptr) ::ibv_free_device_list(devices);
  auto support = renewed(known_zero_copy(), names, try_zero_copy);
  auto kept = replace_file(kZeroCopyFile, encode(support), 0644);
  if (!kept) log::warning("cannot keep an answer", log::field("error", kept.error().text()));
  return support;
}

ZeroCopySupport renewed(const ZeroCopySupport& known, const std::vector<std::string>& devices,
                        const std::function<Result<void>(const std::string&)>& try_device) {
  ZeroCopySupport out;
  for (const auto& device : devices) {
    std::string& reason = out[device];
    if (all_work(known, {device})) continue;
    auto tried = try_device(device);
    if (tried) continue;
    reason = tried.error().text();
    std::ranges::replace(reason, '\n', ' ');
    auto before = known.find(device);
    if (before != known.end() && before->second == reason) continue;  // has been said
    log::warning("no zero-copy source: pages will be copied before they are read",
                 log::field("device", device), log::field("reason", reason));
  }
  return out;
}

bool all_work(const ZeroCopySupport& known, const std::vector<std::string>& devices) {
  return std::ranges::all_of(devices, [&known](const std::string& device) {
    auto found = known.find(device);
    return found != known.end() && found->second.empty();
  });
}

// Not of class/infiniband: there a device is also before ib_uverbs has come.
std::vector<std::string> rdma_devices(const std::string& sysfs) {
  std::vector<std::string> out;
  std::error_code error;
  std::filesystem::directory_iterator entries(sysfs + "/class/infiniband_verbs", error);
  for (; !error && entries != std::filesystem::directory_iterator(); entries.increment(error)) {
    auto name = read_file(entries->path().string() + "/ibdev", 256);
    if (!name) continue;  // another file, or gone meanwhile
    out.push_back(name->substr(0, name->find('\n')));
  }
  std::ranges::sort(out);
  return out;
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
