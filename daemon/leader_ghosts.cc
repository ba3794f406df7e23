#include "daemon/leader_ghosts.h"

#include "common/cgroup.h"

namespace gestalt {
namespace {

constexpr auto kUpdateTimeout = std::chrono::seconds(5);
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
  wire::GhostUpdate update;
  update.set_full(true);
  for (const auto& [pid, task] : model_.tasks()) add(pid, update);
  post(std::move(update));
}

void LeaderGhosts::detach(const std::shared_ptr<Connection>& keeper) {
  if (keeper_ == keeper) keeper_.reset();
}

bool LeaderGhosts::released(const ViewedTask& task) const {
  return released_pids_.contains(task.pid) || released_jobs_.contains(job_of(task));
}

void LeaderGhosts::add(std::uint32_t pid, wire::GhostUpdate& update) const {
  const ViewedTask* task = model_.find(pid);
  if (task == nullptr || released(*task)) return;
  auto& ghost = *update.add_add();
  ghost.set_pid(pid);
  ghost.set_uid(task->uid);
  ghost.set_gid(task->gid);
}

void LeaderGhosts::on_delta(const wire::ViewDelta& delta) {
  apply(model_.apply(reduced(delta), Clock::now()));
  if (!delta.last() || failed_.empty()) return;
  wire::GhostUpdate again;
  for (auto it = failed_.begin();
       it != failed_.end() && static_cast<std::size_t>(again.add_size()) < kRetriesAtOnce;
       it = failed_.erase(it))
    add(*it, again);
  if (again.add_size() > 0) post(std::move(again));
}

void LeaderGhosts::node_gone(const std::string& node) { apply(model_.remove_node(node)); }

void LeaderGhosts::apply(const ClusterModel::Changes& changes) {
  wire::GhostUpdate update;
  for (auto pid : changes.gone) {
    failed_.erase(pid);
    if (model_.find(pid) == nullptr) update.add_remove(pid);
  }
  for (auto pid : changes.appeared) add(pid, update);
  for (auto serial : changes.owners)
    if (const ViewedTask* task = model_.by_serial(serial)) add(task->pid, update);
  if (update.add_size() > 0 || update.remove_size() > 0) post(std::move(update));
}

void LeaderGhosts::clear() {
  model_ = ClusterModel();
  failed_.clear();
  wire::GhostUpdate none;
  none.set_full(true);
  post(std::move(none));
}

void LeaderGhosts::post(wire::GhostUpdate update) {
  if (keeper_)
    asio::co_spawn(context_, LeaderGhosts::update(this, std::move(update)), asio::detached);
}

Awaitable<> LeaderGhosts::update(LeaderGhosts* self, wire::GhostUpdate update) {
  co_await self->send(std::move(update));
}

Awaitable<> LeaderGhosts::send(wire::GhostUpdate update) {
  auto keeper = keeper_;
  if (!keeper) co_return;
  wire::Message message;
  *message.mutable_ghost_update() = std::move(update);
  auto report = co_await keeper->request(std::move(message), kUpdateTimeout);
  if (!report) {
    log::warning("ghosts not updated", log::field("error", report.error().text()));
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
  wire::GhostUpdate update;
  for (const auto& [pid, task] : model_.tasks())
    if (pid == stand_in_pid || job_of(task) == job_id) add(pid, update);
  if (update.add_size() > 0) post(std::move(update));
}

}  // namespace gestalt
