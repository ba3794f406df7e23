// What a view knows of the other nodes: their files and processes, as last told. Not
// thread-safe.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <unordered_map>
#include <vector>

#include "common/clock.h"
#include "common/proto/control.pb.h"
#include "daemon/view/merged_files.h"
#include "daemon/view/task_text.h"

namespace gestalt {

enum class TaskFile : std::uint8_t { kStat, kStatus, kStatm, kCmdline, kCgroup, kEnviron };
inline constexpr std::size_t kTaskFiles = 6;

struct ViewedTask {
  std::uint64_t serial = 0;  // another for each process that ever had this pid
  std::uint32_t pid = 0;
  std::uint32_t uid = 0;
  std::uint32_t gid = 0;
  // Of what is for those who may trace the process.
  std::uint32_t private_uid = 0;
  std::uint32_t private_gid = 0;
  std::string node;
  // As the node has them. An environment is often that of many processes; none: empty.
  std::string contents[kTaskFiles - 1];
  std::shared_ptr<const std::string> environment;
  std::uint8_t too_large = 0;  // a bit for each file that was not told: it is to be fetched

  [[nodiscard]] bool is_told(TaskFile file) const {
    return ((too_large >> static_cast<unsigned>(file)) & 1U) == 0;
  }
};

struct ViewedNode {
  bool merged = false;  // false: told of its processes, but not a part of the system (yet)
  bool suspect = false;
  std::uint32_t index = 0;
  std::uint32_t first_cpu = 0;
  std::uint32_t cpus = 0;
  std::uint64_t boot_unix_nanoseconds = 0;
  Clock::time_point read;  // the last complete round
  std::map<std::string, std::string, std::less<>> files;
  std::set<std::uint32_t> pids;
  std::set<std::uint32_t> confirmed;  // in a full round: those that still exist
  bool in_full_round = false;
};

class ClusterModel {
 public:
  // What must not be taken from caches any more.
  struct Changes {
    struct File {
      std::uint64_t serial = 0;
      TaskFile file{};
    };
    std::vector<File> files;
    std::vector<std::uint64_t> owners;  // serials whose uid or gid has changed
    std::vector<std::uint32_t> appeared;
    std::vector<std::uint32_t> gone;
    bool machine = false;  // the number or the place of CPUs
  };

  ClusterModel() = default;
  ClusterModel(ClusterModel&&) = default;
  ClusterModel& operator=(ClusterModel&&) = default;

  // CLOCK_REALTIME less CLOCK_BOOTTIME of the leader, and its CPUs.
  void set_leader(std::string name, std::uint64_t boot_unix_nanoseconds, std::uint32_t cpus);

  [[nodiscard]] Changes apply(wire::ViewDelta delta, Clock::time_point now);
  [[nodiscard]] Changes set_nodes(const wire::ViewNodes& nodes);
  [[nodiscard]] Changes remove_node(const std::string& name);

  [[nodiscard]] const std::string& leader() const { return leader_; }
  // Every node that answers has told all it has.
  [[nodiscard]] bool complete() const;
  [[nodiscard]] const ViewedTask* find(std::uint32_t pid) const;
  [[nodiscard]] const ViewedTask* by_serial(std::uint64_t serial) const;
  // By pid.
  [[nodiscard]] const std::map<std::uint32_t, ViewedTask>& tasks() const { return tasks_; }
  // All but the leader, in the order of their CPUs.
  [[nodiscard]] std::vector<std::pair<std::string, const ViewedNode*>> nodes() const;

  // Of a file that is told, in the leader's terms. `traced`: for one who might trace the process,
  // which the kernel tells more.
  [[nodiscard]] std::string content(const ViewedTask& task, TaskFile file, bool traced) const;
  // Of a file that was fetched: "stat", "task/7/status", anything.
  [[nodiscard]] std::string localize(const ViewedTask& task, std::string_view path,
                                     std::string content) const;

 private:
  void number_cpus(Changes& changes);
  void update_file(ViewedTask& known, wire::TaskFile file, Changes* changes) const;
  [[nodiscard]] std::shared_ptr<const std::string> environment_of(const ViewedTask& task,
                                                                  wire::TaskFile& file) const;
  void update(ViewedNode& node, const std::string& name, wire::ViewTask task, Changes& changes);
  void remove_task(std::uint32_t pid, const std::string& node, Changes& changes);
  void finish_full_round(ViewedNode& node, const std::string& name, Changes& changes);
  [[nodiscard]] TaskPlace place_of(const ViewedTask& task) const;

  std::string leader_;
  std::uint64_t leader_boot_ = 0;
  std::uint32_t leader_cpus_ = 1;
  std::vector<std::string> order_;
  bool nodes_known_ = false;
  std::map<std::string, ViewedNode> nodes_;
  std::map<std::uint32_t, ViewedTask> tasks_;
  std::unordered_map<std::uint64_t, const ViewedTask*> serials_;  // asked for most
  std::uint64_t next_serial_ = 1;
};

}  // namespace gestalt
