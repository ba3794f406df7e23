// Which source is in use: the module while it is loaded, else /proc; changed over as it comes
// and goes.
#pragma once

#include <optional>

#include "daemon/asio.h"
#include "daemon/sources/module_client.h"
#include "daemon/sources/proc_task_source.h"
#include "daemon/sources/task_event_sources.h"

namespace gestalt {

// What the administrator wants: node.task_source.
enum class TaskSourceChoice { kAuto, kProc };

class TaskSources {
 public:
  TaskSources(asio::io_context& context, TaskSourceChoice choice);

  // Chooses, and watches for the module from now on.
  void start();
  void stop();

  [[nodiscard]] const char* name() const { return current().name(); }
  // Why it is not the other one.
  [[nodiscard]] const std::string& reason() const { return reason_; }
  [[nodiscard]] TaskEventSources& events() { return events_; }

  [[nodiscard]] Result<std::vector<TaskRecord>> list(const ClusterPids& where);
  [[nodiscard]] Result<std::vector<TaskGlimpse>> glimpse(const ClusterPids& where);
  [[nodiscard]] Result<TaskCounts> count(const ClusterPids& where);
  [[nodiscard]] Result<LoadSample> load();

 private:
  static Awaitable<> watch(TaskSources* self);
  void choose();
  void use_proc(std::string reason);
  [[nodiscard]] const TaskSource& current() const;
  // What `ask` makes of the current source; of /proc, should the module have gone.
  template <class Ask>
  [[nodiscard]] auto from_current(Ask ask);

  TaskSourceChoice choice_;
  ProcTaskSource proc_;
  std::unique_ptr<TaskSource> module_;
  std::string reason_;
  TaskEventSources events_;
  std::optional<ModuleWatch> watch_;
  asio::posix::stream_descriptor announcements_;
};

}  // namespace gestalt
