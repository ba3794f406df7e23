#include "daemon/load.h"

#include <sched.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <sstream>

#include "common/cgroup.h"
#include "common/fd.h"
#include "common/format.h"
#include "common/proc.h"

namespace gestalt {
namespace {

double affinity_cpus() {
  cpu_set_t set;
  CPU_ZERO(&set);
  if (::sched_getaffinity(0, sizeof set, &set) != 0) return 1;
  return CPU_COUNT(&set);
}

}  // namespace

double parse_cpu_max(const std::string& text) {
  std::istringstream fields(text);
  double quota = 0;
  double period = 0;
  fields >> quota >> period;
  return fields && quota > 0 && period > 0 ? quota / period : 0;
}

double usable_cpus() {
  double cpus = affinity_cpus();
  auto mount = cgroup2_mount();
  auto path = cgroup_path("/proc", ::getpid());
  if (mount && path) {
    std::filesystem::path group = *path;
    for (bool more = true; more; group = group.parent_path()) {
      more = group.has_relative_path();
      auto text = read_file(*mount + group.string() + "/cpu.max", 4096);
      double limit = text ? parse_cpu_max(*text) : 0;
      if (limit > 0) cpus = std::min(cpus, limit);
    }
  }
  return std::max(cpus, 0.01);
}

wire::Heartbeat load_message(double cpus, const Result<LoadSample>& load,
                             const Result<TaskCounts>& counts) {
  wire::Heartbeat message;
  message.set_cpus(cpus);
  if (load) {
    message.set_load_average_1(load->load_average_1);
    message.set_memory_total_bytes(load->memory_total_bytes);
    message.set_memory_available_bytes(load->memory_available_bytes);
  }
  if (counts) {
    message.set_tasks(counts->processes);
    message.set_load(counts->active);
  }
  return message;
}

std::string load_file_text(const std::string& node, const wire::Heartbeat& load) {
  return formatted(
      "node={}\ncpus={:.2f}\nload={:.0f}\nload_average_1={:.2f}\nmemory_total_bytes={}\n"
      "memory_available_bytes={}\ntasks={}\njobs={}\n",
      node, load.cpus(), load.load(), load.load_average_1(), load.memory_total_bytes(),
      load.memory_available_bytes(), load.tasks(), load.jobs());
}

}  // namespace gestalt
