// What the kernel module says.
#pragma once

#include <unordered_map>

#include "daemon/sources/module_client.h"
#include "daemon/sources/task_source.h"

namespace gestalt {

class ModuleTaskSource final : public TaskSource {
 public:
  explicit ModuleTaskSource(ModuleClient client) : client_(std::move(client)) {}

  [[nodiscard]] const char* name() const override { return "kmod"; }
  [[nodiscard]] Result<std::vector<TaskRecord>> list(const ClusterPids& where) override;
  [[nodiscard]] Result<std::vector<TaskGlimpse>> glimpse(const ClusterPids& where) override;
  [[nodiscard]] Result<TaskCounts> count(const ClusterPids& where) override;
  [[nodiscard]] Result<LoadSample> load() override;

 private:
  [[nodiscard]] std::uint64_t job_of(const ClusterPids& where, const gestalt_task& task);

  ModuleClient client_;
  // Control groups by their number, which the kernel gives out once: whose job they hold.
  std::unordered_map<std::uint64_t, std::uint64_t> jobs_;
};

}  // namespace gestalt
