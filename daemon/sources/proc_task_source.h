// What /proc says: always there.
#pragma once

#include "daemon/sources/task_source.h"

namespace gestalt {

class ProcTaskSource final : public TaskSource {
 public:
  [[nodiscard]] const char* name() const override { return "proc"; }
  [[nodiscard]] Result<std::vector<TaskRecord>> list(const ClusterPids& where) override;
  [[nodiscard]] Result<std::vector<TaskGlimpse>> glimpse(const ClusterPids& where) override;
  [[nodiscard]] Result<TaskCounts> count(const ClusterPids& where) override;
  [[nodiscard]] Result<LoadSample> load() override;
};

struct Memory {
  std::uint64_t total_bytes = 0;
  std::uint64_t available_bytes = 0;
};
[[nodiscard]] Result<Memory> parse_meminfo(const std::string& text);

// One process; kGone if there is none (any more).
[[nodiscard]] Result<TaskRecord> read_task_record(const std::string& proc, pid_t pid);

}  // namespace gestalt
