#include "daemon/leader_ghosts.h"

#include "common/cgroup.h"

namespace gestalt {
namespace {

// For a thousand ghosts, on a machine that is busy with many other things.
constexpr auto kUpdateTimeout = std::chrono::seconds(30);
constexpr std::size_t kAtOnce = 1000;
constexpr auto kKillTimeout = std::chrono::seconds(6);
// Of those that were taken, in one round.
constexpr std::size_t kRetriesAtOnce = 256;

std::uint64_t job_of(const ViewedTask& task) {
  return job_of_cgroup(task.contents[static_cast<std::size_t>(TaskFile::kCgroup)]);
}

// What the model needs to know who exists, and no more.
wire::ViewDelta reduced(const wire::ViewDelta& delta) {
  wire::ViewDelta out;
  out.set_node(delta.node());
  out.set_full(delta.full());
  out.set_last(delta.last());
  *out.mutable_gone() = delta.gone();
  for (const auto& task : delta.tasks()) {
    auto& copy = *out.add_tasks();
    copy.set_pid(task.pid());
    copy.set_uid(task.uid());
    copy.set_gid(task.gid());
    for (const auto& file : task.files()) {
      if (file.name() == "cgroup") *copy.add_files() = file;
      if (file.name() == "stat") copy.add_files()->set_name("stat");
    }
  }
  return out;
}

}  // namespace

void LeaderGhosts::attach(std::shared_ptr<Connection> keeper) {
  keeper_ = std::move(keeper);
  failed_.clear();
  all_ = true;
  touch(0);
}

void LeaderGhosts::detach(const std::shared_ptr<Connection>& keeper) {
  if (keeper_ == keeper) keeper_.reset();
}

bool LeaderGhosts::released(const ViewedTask& task) const {
  return released_pids_.contains(task.pid) || released_jobs_.contains(job_of(task));
}

void LeaderGhosts::add(const ViewedTask& task, wire::GhostUpdate& update) const {
  auto& ghost = *update.add_add();
  ghost.set_pid(task.pid);
  ghost.set_uid(task.uid);
  ghost.set_gid(task.gid);
}

void LeaderGhosts::on_delta(const wire::ViewDelta& delta) {
  apply(model_.apply(reduced(delta), Clock::now()));
  if (!delta.last()) return;
  for (std::size_t i = 0; i < kRetriesAtOnce && !failed_.empty(); ++i)
    touch(failed_.extract(failed_.begin()).value());
}

void LeaderGhosts::node_gone(const std::string& node) { apply(model_.remove_node(node)); }

void LeaderGhosts::apply(const ClusterModel::Changes& changes) {
  for (auto pid : changes.gone) {
    failed_.erase(pid);
    touch(pid);
  }
  for (auto pid : changes.appeared) touch(pid);
  for (auto serial : changes.owners)
    if (const ViewedTask* task = model_.by_serial(serial)) touch(task->pid);
}

void LeaderGhosts::clear() {
  model_ = ClusterModel();
  failed_.clear();
  all_ = true;
  touch(0);
}

void LeaderGhosts::touch(std::uint32_t pid) {
  if (pid != 0) changed_.insert(pid);
  if (std::exchange(works_, true)) return;
  // Soon, with what else the same message has changed.
  asio::co_spawn(context_, work(this), asio::detached);
}

// What the keeper should have of those that have changed, as it is now.
wire::GhostUpdate LeaderGhosts::take_update() {
  wire::GhostUpdate update;
  if (std::exchange(all_, false)) {
    changed_.clear();
    update.set_full(true);
    for (const auto& [pid, task] : model_.tasks())
      if (!released(task)) add(task, update);
    return update;
  }
  for (std::size_t i = 0; i < kAtOnce && !changed_.empty(); ++i) {
    auto pid = changed_.extract(changed_.begin()).value();
    const ViewedTask* task = model_.find(pid);
    if (task != nullptr && !released(*task))
      add(*task, update);
    else
      update.add_remove(pid);
  }
  return update;
}

Awaitable<> LeaderGhosts::work(LeaderGhosts* self) {
  co_await asio::post(self->context_, asio::use_awaitable);
  auto is_there = [self] { return self->keeper_ && self->keeper_->open(); };
  while (is_there() && (self->all_ || !self->changed_.empty()))
    co_await self->send(self->take_update());
  self->works_ = false;
  // The next keeper is told everything.
  if (!is_there()) self->changed_.clear();
}

Awaitable<> LeaderGhosts::send(wire::GhostUpdate update) {
  auto keeper = keeper_;
  if (!keeper) co_return;
  wire::Message message;
  *message.mutable_ghost_update() = std::move(update);
  auto report = co_await keeper->request(std::move(message), kUpdateTimeout);
  if (!report) {
    log::warning("ghosts not updated", log::field("error", report.error().text()));
    all_ = true;  // we do not know what it has done
    co_return;
  }
  for (const auto& failure : report->ghost_report().failures()) {
    log::info("no ghost", log::field("pid", failure.pid()),
              log::field("error", failure.error().message()));
    if (model_.find(failure.pid()) != nullptr) failed_.insert(failure.pid());
  }
}

// The kernel has let the sender do it to a ghost that has the process's owner. If the process
// has another one by now, the node refuses what that owner may not.
void LeaderGhosts::on_signal(const wire::GhostSignal& signal) {
  const ViewedTask* task = model_.find(signal.pid());
  if (task == nullptr) return;
  wire::Message message;
  auto& request = *message.mutable_node_kill_request();
  request.set_pid(signal.pid());
  request.set_signal(signal.signal());
  request.set_uid(task->uid);
  asio::co_spawn(context_, forward(this, task->node, std::move(message)), asio::detached);
}

Awaitable<> LeaderGhosts::forward(LeaderGhosts* self, std::string node, wire::Message message) {
  auto pid = message.node_kill_request().pid();
  auto sent = co_await self->ask_(std::move(node), std::move(message), kKillTimeout);
  if (!sent && sent.error().code != ErrorCode::kGone && sent.error().code != ErrorCode::kNotFound)
    log::warning("signal not forwarded", log::field("pid", pid),
                 log::field("error", sent.error().text()));
}

Awaitable<> LeaderGhosts::release(std::uint64_t job_id, std::uint32_t stand_in_pid) {
  released_jobs_.insert(job_id);
  released_pids_.insert(stand_in_pid);
  wire::GhostUpdate update;
  for (const auto& [pid, task] : model_.tasks())
    if (pid == stand_in_pid || job_of(task) == job_id) update.add_remove(pid);
  if (update.remove_size() > 0) co_await send(std::move(update));
}

void LeaderGhosts::let_back(std::uint64_t job_id, std::uint32_t stand_in_pid) {
  if (auto found = released_jobs_.find(job_id); found != released_jobs_.end())
    released_jobs_.erase(found);
  if (auto found = released_pids_.find(stand_in_pid); found != released_pids_.end())
    released_pids_.erase(found);
  for (const auto& [pid, task] : model_.tasks())
    if (pid == stand_in_pid || job_of(task) == job_id) touch(pid);
}

}  // namespace gestalt
