#include "daemon/view/cluster_model.h"

#include <unistd.h>

#include <algorithm>
#include <array>
#include <format>
#include <optional>

namespace gestalt {
namespace {

constexpr std::array<std::string_view, kTaskFiles> kNames = {"stat",    "status", "statm",
                                                             "cmdline", "cgroup", "environ"};
constexpr std::uint32_t kPidLimit = 1U << 22;
// Beyond what a round of an honest node can bring.
constexpr std::size_t kMaxTasksOfNode = 1U << 20;
constexpr std::size_t kMaxFilesOfNode = 64;
constexpr std::uint32_t kMaxCpusOfNode = 8192;

std::optional<std::size_t> file_index(std::string_view name) {
  auto found = std::ranges::find(kNames, name);
  if (found == kNames.end()) return std::nullopt;
  return static_cast<std::size_t>(found - kNames.begin());
}

wire::TaskFile too_large(const std::string& name) {
  wire::TaskFile file;
  file.set_name(name);
  file.set_too_large(true);
  return file;
}

// As /proc/stat counts them: that is what every tool of the node itself shows.
std::uint32_t count_cpus(std::string_view stat) {
  std::uint32_t count = 0;
  for (std::size_t at = 0; at < stat.size();) {
    auto end = std::min(stat.find('\n', at), stat.size());
    auto line = stat.substr(at, end - at);
    if (line.size() > 3 && line.starts_with("cpu") && line[3] >= '0' && line[3] <= '9') ++count;
    at = end + 1;
  }
  return std::min(count, kMaxCpusOfNode);
}

}  // namespace

void ClusterModel::set_leader(std::string name, std::uint64_t boot_unix_nanoseconds,
                              std::uint32_t cpus) {
  leader_ = std::move(name);
  leader_boot_ = boot_unix_nanoseconds;
  leader_cpus_ = std::max(cpus, 1U);
  Changes ignored;
  number_cpus(ignored);
}

ClusterModel::Changes ClusterModel::apply(wire::ViewDelta delta, Clock::time_point now) {
  Changes changes;
  if (delta.node().empty()) return changes;
  ViewedNode& node = nodes_[delta.node()];
  if (delta.full()) {
    node.in_full_round = true;
    node.confirmed.clear();
  }
  if (delta.boot_unix_nanoseconds() != 0) {
    // Clocks drift a little; start times must not dance with them.
    auto difference =
        static_cast<std::int64_t>(delta.boot_unix_nanoseconds() - node.boot_unix_nanoseconds);
    if (std::abs(difference) > 1'000'000'000)
      node.boot_unix_nanoseconds = delta.boot_unix_nanoseconds();
  }
  for (auto& file : *delta.mutable_files()) {
    if (node.files.size() >= kMaxFilesOfNode && !node.files.contains(file.name())) continue;
    auto name = std::move(*file.mutable_name());
    node.files[name] = std::move(*file.mutable_content());
    if (name != "stat") continue;
    auto cpus = count_cpus(node.files[name]);
    if (std::exchange(node.cpus, cpus) != cpus) number_cpus(changes);
  }
  for (auto& task : *delta.mutable_tasks()) update(node, delta.node(), std::move(task), changes);
  for (auto pid : delta.gone()) remove_task(pid, delta.node(), changes);
  if (delta.last()) {
    finish_full_round(node, delta.node(), changes);
    node.read = now;
  }
  return changes;
}

void ClusterModel::update(ViewedNode& node, const std::string& name, wire::ViewTask task,
                          Changes& changes) {
  auto pid = task.pid();
  if (pid == 0 || pid >= kPidLimit) return;
  if (node.in_full_round) node.confirmed.insert(pid);
  auto found = tasks_.find(pid);
  bool is_new = found == tasks_.end() || found->second.node != name;
  bool whole =
      std::ranges::any_of(task.files(), [](const auto& file) { return file.name() == "stat"; });
  if (is_new) {
    if (!whole || node.pids.size() >= kMaxTasksOfNode) return;
    if (found != tasks_.end()) remove_task(pid, found->second.node, changes);
    ViewedTask fresh;
    fresh.serial = next_serial_++;
    fresh.pid = pid;
    fresh.node = name;
    found = tasks_.insert_or_assign(pid, std::move(fresh)).first;
    serials_[found->second.serial] = &found->second;
    node.pids.insert(pid);
    changes.appeared.push_back(pid);
  }
  ViewedTask& known = found->second;
  if (!is_new &&
      (known.uid != task.uid() || known.gid != task.gid() ||
       known.private_uid != task.private_uid() || known.private_gid != task.private_gid()))
    changes.owners.push_back(known.serial);
  known.uid = task.uid();
  known.gid = task.gid();
  known.private_uid = task.private_uid();
  known.private_gid = task.private_gid();
  for (auto& file : *task.mutable_files())
    update_file(known, std::move(file), is_new ? nullptr : &changes);
}

void ClusterModel::update_file(ViewedTask& known, wire::TaskFile file, Changes* changes) const {
  auto index = file_index(file.name());
  if (!index) return;
  auto kind = static_cast<TaskFile>(*index);
  auto bit = static_cast<std::uint8_t>(1U << *index);
  bool was_told = known.is_told(kind);
  bool is_other = true;
  if (file.too_large()) {
    known.too_large |= bit;
  } else if (kind == TaskFile::kEnviron) {
    auto environment = environment_of(known, file);
    if (!environment) return update_file(known, too_large(file.name()), changes);
    is_other = !known.environment || *known.environment != *environment;
    if (is_other) known.environment = std::move(environment);
  } else {
    auto& content = known.contents[*index];
    is_other = content != file.content();
    if (is_other) content = std::move(*file.mutable_content());
  }
  if (!file.too_large()) known.too_large = static_cast<std::uint8_t>(known.too_large & ~bit);
  if (changes != nullptr && (is_other || !was_told)) changes->files.push_back({known.serial, kind});
}

// Nothing if it is said to be another's who has none.
std::shared_ptr<const std::string> ClusterModel::environment_of(const ViewedTask& task,
                                                                wire::TaskFile& file) const {
  if (file.same_as_pid() == 0)
    return std::make_shared<std::string>(std::move(*file.mutable_content()));
  const ViewedTask* twin = find(file.same_as_pid());
  bool good = twin != nullptr && twin->node == task.node && twin->private_uid == task.private_uid &&
              twin->is_told(TaskFile::kEnviron);
  return good ? twin->environment : nullptr;
}

void ClusterModel::remove_task(std::uint32_t pid, const std::string& node, Changes& changes) {
  auto found = tasks_.find(pid);
  if (found == tasks_.end() || found->second.node != node) return;
  nodes_[node].pids.erase(pid);
  serials_.erase(found->second.serial);
  tasks_.erase(found);
  changes.gone.push_back(pid);
}

void ClusterModel::finish_full_round(ViewedNode& node, const std::string& name, Changes& changes) {
  if (!std::exchange(node.in_full_round, false)) return;
  std::vector<std::uint32_t> missing;
  std::ranges::set_difference(node.pids, node.confirmed, std::back_inserter(missing));
  for (auto pid : missing) remove_task(pid, name, changes);
  node.confirmed.clear();
}

ClusterModel::Changes ClusterModel::set_nodes(const wire::ViewNodes& nodes) {
  Changes changes;
  order_.clear();
  nodes_known_ = true;
  if (nodes.nodes_size() > 0) leader_ = nodes.nodes(0).name();
  for (auto& [name, node] : nodes_) node.merged = false;
  for (const auto& each : nodes.nodes()) {
    if (each.name() == leader_ || std::ranges::contains(order_, each.name())) continue;
    order_.push_back(each.name());
    nodes_[each.name()].merged = true;
    nodes_[each.name()].suspect = each.suspect();
  }
  number_cpus(changes);
  return changes;
}

ClusterModel::Changes ClusterModel::remove_node(const std::string& name) {
  Changes changes;
  auto found = nodes_.find(name);
  if (found == nodes_.end()) return changes;
  auto pids = found->second.pids;
  for (auto pid : pids) remove_task(pid, name, changes);
  nodes_.erase(found);
  std::erase(order_, name);
  number_cpus(changes);
  changes.machine = true;
  return changes;
}

// The leader's come first, then the nodes' in their order.
void ClusterModel::number_cpus(Changes& changes) {
  std::uint32_t next = leader_cpus_;
  std::uint32_t index = 1;
  for (const auto& name : order_) {
    ViewedNode& node = nodes_[name];
    if (node.first_cpu != next || node.index != index) {
      changes.machine = true;
      for (auto pid : node.pids) {
        auto task = tasks_.find(pid);
        if (task == tasks_.end()) continue;
        changes.files.push_back({task->second.serial, TaskFile::kStat});
        changes.files.push_back({task->second.serial, TaskFile::kStatus});
      }
    }
    node.first_cpu = next;
    node.index = index++;
    next += node.cpus;
  }
}

bool ClusterModel::complete() const {
  return nodes_known_ && std::ranges::all_of(nodes_, [](const auto& entry) {
           const ViewedNode& node = entry.second;
           return !node.merged || node.suspect || node.read != Clock::time_point();
         });
}

const ViewedTask* ClusterModel::find(std::uint32_t pid) const {
  auto found = tasks_.find(pid);
  return found == tasks_.end() ? nullptr : &found->second;
}

const ViewedTask* ClusterModel::by_serial(std::uint64_t serial) const {
  auto found = serials_.find(serial);
  return found == serials_.end() ? nullptr : found->second;
}

std::vector<std::pair<std::string, const ViewedNode*>> ClusterModel::nodes() const {
  std::vector<std::pair<std::string, const ViewedNode*>> out;
  for (const auto& name : order_)
    if (auto found = nodes_.find(name); found != nodes_.end())
      out.emplace_back(name, &found->second);
  return out;
}

TaskPlace ClusterModel::place_of(const ViewedTask& task) const {
  TaskPlace place{.node = task.node};
  auto node = nodes_.find(task.node);
  if (node == nodes_.end()) return place;
  place.node_index = node->second.index;
  place.first_cpu = node->second.first_cpu;
  place.cpus = node->second.cpus;
  static const auto ticks_per_second = static_cast<std::int64_t>(::sysconf(_SC_CLK_TCK));
  auto nanoseconds = static_cast<std::int64_t>(node->second.boot_unix_nanoseconds - leader_boot_);
  if (node->second.boot_unix_nanoseconds != 0)
    place.boot_difference_ticks = nanoseconds / (1'000'000'000 / ticks_per_second);
  return place;
}

std::string ClusterModel::content(const ViewedTask& task, TaskFile file, bool traced) const {
  if (file == TaskFile::kEnviron) return task.environment ? *task.environment : std::string();
  const std::string& raw = task.contents[static_cast<std::size_t>(file)];
  switch (file) {
    case TaskFile::kStat: {
      auto text = localize_stat(raw, place_of(task));
      return traced ? text : without_addresses(std::move(text));
    }
    case TaskFile::kStatus:
      return localize_status(raw, place_of(task));
    case TaskFile::kCgroup:
      return node_cgroup(raw, task.node);
    default:
      return raw;
  }
}

std::string ClusterModel::localize(const ViewedTask& task, std::string_view path,
                                   std::string content) const {
  auto name = path.substr(path.rfind('/') + 1);
  if (name == "stat") return localize_stat(content, place_of(task));
  if (name == "status") return localize_status(content, place_of(task));
  if (name == "cgroup") return node_cgroup(content, task.node);
  return content;
}

}  // namespace gestalt
