#include "daemon/sources/task_sources.h"

#include <unistd.h>

#include "common/log.h"
#include "daemon/sources/module_task_source.h"

namespace gestalt {

TaskSources::TaskSources(asio::io_context& context, TaskSourceChoice choice)
    : choice_(choice), events_(context), announcements_(context) {}

void TaskSources::start() {
  if (choice_ == TaskSourceChoice::kProc) {
    use_proc("node.task_source is \"proc\"");
    return;
  }
  if (auto opened = ModuleWatch::open()) {
    watch_.emplace(std::move(*opened));
    // Asio closes what it has.
    boost::system::error_code error;
    announcements_.assign(::dup(watch_->descriptor()), error);
    if (!error) asio::co_spawn(announcements_.get_executor(), watch(this), asio::detached);
  } else {
    log::warning("the module gestalt will not be noticed when it is loaded",
                 log::field("error", opened.error().text()));
  }
  choose();
}

void TaskSources::stop() {
  boost::system::error_code ignored;
  announcements_.close(ignored);
  events_.stop();
}

Awaitable<> TaskSources::watch(TaskSources* self) {
  while (true) {
    auto [error] = co_await self->announcements_.async_wait(
        asio::posix::stream_descriptor::wait_read, kAsResult);
    if (error) co_return;
    if (self->watch_->take()) self->choose();
  }
}

void TaskSources::choose() {
  auto client = ModuleClient::connect();
  if (!client) return use_proc(client.error().text());
  // Also in place of one before: that was another load of the module.
  bool had_one = module_ != nullptr;
  module_ = std::make_unique<ModuleTaskSource>(std::move(*client));
  reason_ = "the module gestalt is loaded";
  events_.choose(true, reason_);
  if (!had_one) log::info("tasks and load by the kernel module");
}

void TaskSources::use_proc(std::string reason) {
  if (module_ || reason_.empty())
    log::info("tasks and load by /proc", log::field("reason", reason));
  module_.reset();
  reason_ = std::move(reason);
  events_.choose(false, reason_);
}

const TaskSource& TaskSources::current() const {
  return module_ ? *module_ : static_cast<const TaskSource&>(proc_);
}

template <class Ask>
auto TaskSources::from_current(Ask ask) {
  if (module_) {
    auto answer = ask(*module_);
    if (answer || answer.error().code != ErrorCode::kUnavailable) return answer;
    use_proc(answer.error().text());
  }
  return ask(proc_);
}

Result<std::vector<TaskRecord>> TaskSources::list(const ClusterPids& where) {
  return from_current([&](TaskSource& source) { return source.list(where); });
}

Result<std::vector<TaskGlimpse>> TaskSources::glimpse(const ClusterPids& where) {
  return from_current([&](TaskSource& source) { return source.glimpse(where); });
}

Result<TaskCounts> TaskSources::count(const ClusterPids& where) {
  return from_current([&](TaskSource& source) { return source.count(where); });
}

Result<LoadSample> TaskSources::load() {
  return from_current([&](TaskSource& source) { return source.load(); });
}

}  // namespace gestalt
