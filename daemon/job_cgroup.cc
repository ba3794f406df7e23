#include "daemon/job_cgroup.h"

#include <unistd.h>

#include <cerrno>
#include <filesystem>
#include <format>
#include <vector>

#include "common/cgroup.h"
#include "common/fd.h"
#include "common/log.h"

namespace gestalt {
namespace {

namespace fs = std::filesystem;

bool remove_tree(const fs::path& directory) {
  std::error_code ignored;
  std::vector<fs::path> below;
  for (const auto& entry : fs::directory_iterator(directory, ignored))
    if (entry.is_directory(ignored)) below.push_back(entry.path());
  for (const auto& each : below) (void)remove_tree(each);
  return ::rmdir(directory.c_str()) == 0 || errno == ENOENT;
}

}  // namespace

std::string JobCgroups::directory(std::uint64_t job_id) const {
  return mount_ + "/" + job_cgroup_name(job_id);
}

Result<void> JobCgroups::kill(std::uint64_t job_id) const {
  if (mount_.empty()) return {};
  auto written = write_control_file(directory(job_id) + "/cgroup.kill", "1");
  if (!written && written.error().code == ErrorCode::kNotFound) return {};
  if (!written)
    log::error("job's cgroup not killed", log::field("job", job_id),
               log::field("error", written.error().text()));
  return written;
}

bool JobCgroups::remove(std::uint64_t job_id) const {
  return mount_.empty() || remove_tree(directory(job_id));
}

std::set<std::uint64_t> JobCgroups::all() const {
  std::set<std::uint64_t> out;
  if (mount_.empty()) return out;
  std::error_code ignored;
  for (const auto& entry : fs::directory_iterator(mount_ + "/gestalt", ignored))
    if (auto job_id = job_of_cgroup(entry.path().string()); job_id != 0) out.insert(job_id);
  return out;
}

std::set<std::uint64_t> JobCgroups::populated() const {
  auto out = all();
  std::erase_if(out, [this](std::uint64_t job_id) {
    auto events = read_file(directory(job_id) + "/cgroup.events", 4096);
    return !events || events->find("populated 1") == std::string::npos;
  });
  return out;
}

}  // namespace gestalt
