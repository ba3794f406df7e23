#include "migrate/zero_copy_unit.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <format>

#include "common/cgroup.h"
#include "common/fd.h"
#include "common/log.h"
#include "common/proc.h"

namespace gestalt {
namespace {

// Making the keeper takes as long as copying some hundred pages.
constexpr std::uint64_t kLeastPages = 256;

// The directory of this process's own group, which is not the unit's.
Result<Fd> own_group() {
  GESTALT_ASSIGN(auto mount, cgroup2_mount());
  GESTALT_ASSIGN(auto path, cgroup_path("/proc", ::getpid()));
  return open_file(mount + path, O_RDONLY | O_DIRECTORY);
}

}  // namespace

void ZeroCopyUnit::prepare(const std::vector<pid_t>& pids, std::shared_ptr<RdmaDomain> domain) {
  domain_ = std::move(domain);
  auto group = own_group();
  auto driver = find_driver(domain_->context()->cmd_fd);
  if (!group || !driver) {
    log::warning("pages will be staged",
                 log::field("why", (group ? driver.error() : group.error()).text()));
    return;
  }
  ZeroCopyDevice device{.command_fd = domain_->context()->cmd_fd,
                        .protection_domain = domain_->pd()->handle,
                        .driver = *driver};
  for (pid_t pid : pids) {
    auto stat = read_stat("/proc", pid);
    if (!stat || stat->resident_pages < kLeastPages) continue;
    auto source = ZeroCopySource::prepare(pid, device, group->get());
    if (source)
      sources_.emplace(pid, std::move(*source));
    else
      log::info("pages will be staged", log::field("pid", pid),
                log::field("why", source.error().text()));
  }
}

std::vector<RemoteRange> ZeroCopyUnit::register_pages(
    const std::map<std::uint32_t, PageSet>& wanted, std::size_t most, Deadline deadline) {
  std::vector<RemoteRange> out;
  for (auto& [pid, source] : sources_) {
    auto pages = wanted.find(static_cast<std::uint32_t>(pid));
    if (pages == wanted.end() || out.size() >= most) continue;
    ZeroCopyLimits limits;
    limits.max_regions = std::min<std::uint64_t>(limits.max_regions, most - out.size());
    auto registration = source.register_pages(pages->second, limits, deadline);
    if (!registration) {
      log::warning("pages are staged", log::field("pid", pid),
                   log::field("why", registration.error().text()));
      continue;
    }
    for (const auto& region : registration->regions())
      out.push_back({.pid = static_cast<std::uint32_t>(pid),
                     .start = region.start,
                     .end = region.end,
                     .remote_address = region.remote_address,
                     .rkey = region.rkey});
    pages_ += registration->stats().pages;
    if (!registration->stats().trouble.empty())
      log::info("pages are staged", log::field("pid", pid),
                log::field("why", registration->stats().trouble));
    registrations_.push_back(std::move(*registration));
  }
  sources_.clear();
  return out;
}

void ZeroCopyUnit::release() {
  sources_.clear();
  for (auto& registration : registrations_) registration.release();
}

void ZeroCopyUnit::clean_up() {
  for (auto& registration : registrations_) {
    if (!registration.needs_clean_up()) continue;
    if (auto done = registration.clean_up(); !done)
      log::warning("memory of the keeper stays in the process",
                   log::field("error", done.error().text()));
  }
}

}  // namespace gestalt
