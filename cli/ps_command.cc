#include <pwd.h>

#include <algorithm>
#include <map>
#include <vector>

#include "cli/client.h"
#include "cli/commands.h"
#include "cli/exit_codes.h"
#include "cli/json_output.h"
#include "cli/report.h"
#include "cli/table.h"
#include "cli/text.h"
#include "common/format.h"
#include "common/ipv4.h"

namespace gestalt::cli {
namespace {

// Names of users, each looked up once: with a directory service that may take long.
class UserNames {
 public:
  const std::string& name(uid_t uid) {
    auto [entry, is_new] = names_.try_emplace(uid);
    if (is_new) {
      const passwd* user = ::getpwuid(uid);  // NOLINT(concurrency-mt-unsafe)
      entry->second = user != nullptr ? std::string(user->pw_name) : formatted("{}", uid);
    }
    return entry->second;
  }

 private:
  std::map<uid_t, std::string> names_;
};

std::vector<const wire::Task*> sorted_by_pid(const wire::TaskListReply& reply) {
  std::vector<const wire::Task*> tasks;
  for (const auto& task : reply.tasks()) tasks.push_back(&task);
  std::ranges::sort(tasks, {}, [](const wire::Task* task) { return task->pid(); });
  return tasks;
}

std::string tasks_json(const std::vector<const wire::Task*>& tasks) {
  UserNames users;
  JsonList list;
  for (const auto* task : tasks) list.push_back(task_object(*task, users.name(task->uid())));
  return render_json(list);
}

std::string reason_against(const wire::Task& task) {
  if (!task.inspected()) return migratable(task) ? "?" : "not a job's root";
  if (task.blockers().empty()) return "-";
  auto more = task.blockers_size() - 1;
  const auto& first = task.blockers(0).what();
  return more > 0 ? formatted("{} (and {} more)", first, more) : first;
}

std::string tasks_table(const std::vector<const wire::Task*>& tasks, const PsOptions& options) {
  bool all_columns = options.all_columns;
  using enum Table::Align;
  std::vector<Table::Column> columns{{"PID", kRight}, {"NODE"}, {"USER"}, {"S"}};
  if (all_columns)
    columns.insert(columns.end(),
                   {{"PPID", kRight}, {"THREADS", kRight}, {"JOB", kRight}, {"MOVES"}});
  columns.insert(columns.end(), {{"RSS", kRight}, {"CPU", kRight}, {"AGE", kRight}});
  bool addresses =
      std::ranges::any_of(tasks, [](const auto* task) { return task->network_address() != 0; });
  if (addresses) columns.push_back({"ADDRESS"});
  if (options.preflight) columns.push_back({"BLOCKER"});
  columns.push_back({"COMMAND"});
  Table table(std::move(columns));
  UserNames users;
  for (const auto* task : tasks) {
    std::vector<std::string> row{formatted("{}", task->pid()), task->node(),
                                 users.name(task->uid()), task->state()};
    if (all_columns) {
      row.push_back(formatted("{}", task->parent_pid()));
      row.push_back(formatted("{}", task->threads()));
      row.push_back(task->job_id() == 0 ? "-" : formatted("{}", task->job_id()));
      row.push_back(migratable(*task) ? "yes" : "no");
    }
    row.push_back(human_bytes(task->resident_bytes()));
    row.push_back(human_duration(task->cpu_seconds()));
    row.push_back(human_duration(task->started_seconds_ago()));
    if (addresses)
      row.push_back(task->network_address() != 0 ? ipv4_text(task->network_address()) : "-");
    if (options.preflight) row.push_back(reason_against(*task));
    row.push_back(task->command());
    table.add_row(row);
  }
  return table.render(output_width());
}

}  // namespace

int ps(const PsOptions& options) {
  Call call;
  call.request.mutable_task_list_request()->set_all_nodes(true);
  call.request.mutable_task_list_request()->set_preflight(options.preflight);
  return call_daemon(std::move(call), [&options](const wire::Message& message) {
    const auto& reply = message.task_list_reply();
    auto tasks = sorted_by_pid(reply);
    auto printed = print_out(options.json ? tasks_json(tasks) : tasks_table(tasks, options));
    if (!printed) return report(printed.error(), kExitFailed);
    for (const auto& node : reply.silent_nodes())
      warn(formatted("node {} did not answer in time: its processes are missing above", node));
    return kExitOk;
  });
}

}  // namespace gestalt::cli
