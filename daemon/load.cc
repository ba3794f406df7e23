#include "daemon/load.h"

#include <sched.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <sstream>

#include "common/cgroup.h"
#include "common/fd.h"
#include "common/proc.h"

namespace gestalt {
namespace {

double affinity_cpus() {
  cpu_set_t set;
  CPU_ZERO(&set);
  if (::sched_getaffinity(0, sizeof set, &set) != 0) return 1;
  return CPU_COUNT(&set);
}

double load_average() {
  double value = 0;
  if (auto text = read_file("/proc/loadavg", 4096)) std::istringstream(*text) >> value;
  return value;
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

Result<Memory> parse_meminfo(const std::string& text) {
  std::istringstream lines(text);
  Memory memory;
  std::string key;
  std::uint64_t kilobytes = 0;
  std::string rest;
  while (lines >> key >> kilobytes && std::getline(lines, rest)) {
    if (key == "MemTotal:") memory.total_bytes = kilobytes * 1024;
    if (key == "MemAvailable:") memory.available_bytes = kilobytes * 1024;
  }
  if (memory.total_bytes == 0) return fail(ErrorCode::kProtocol, "meminfo without MemTotal");
  return memory;
}

wire::Heartbeat measure_load(double cpus, const std::string& cluster_proc, TaskCounter& tasks) {
  wire::Heartbeat load;
  load.set_cpus(cpus);
  load.set_load_average_1(load_average());
  if (auto text = read_file("/proc/meminfo")) {
    if (auto memory = parse_meminfo(*text)) {
      load.set_memory_total_bytes(memory->total_bytes);
      load.set_memory_available_bytes(memory->available_bytes);
    }
  }
  if (cluster_proc.empty()) return load;
  if (auto counts = tasks.count(cluster_proc)) {
    load.set_tasks(counts->processes);
    load.set_load(counts->active);
  }
  return load;
}

std::string load_file_text(const std::string& node, const wire::Heartbeat& load) {
  return std::format(
      "node={}\ncpus={:.2f}\nload={:.0f}\nload_average_1={:.2f}\nmemory_total_bytes={}\n"
      "memory_available_bytes={}\ntasks={}\njobs={}\n",
      node, load.cpus(), load.load(), load.load_average_1(), load.memory_total_bytes(),
      load.memory_available_bytes(), load.tasks(), load.jobs());
}

}  // namespace gestalt
