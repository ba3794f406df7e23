#include "daemon/leader_ghosts.h"

#include <algorithm>
#include <charconv>
#include <csignal>

#include "common/cgroup.h"
#include "common/format.h"
#include "common/proc.h"

namespace gestalt {
namespace {

// For a thousand ghosts, on a machine that is busy with many other things.
constexpr auto kUpdateTimeout = std::chrono::seconds(30);
constexpr std::size_t kAtOnce = 1000;
constexpr auto kKillTimeout = std::chrono::seconds(6);
// Of those that were taken, in one round.
constexpr std::size_t kRetriesAtOnce = 256;
constexpr auto kTryAgain = std::chrono::milliseconds(200);
// A process that moves is somewhere sooner than that.
constexpr auto kFoundSomewhere = std::chrono::seconds(60);
// After that, what nobody has told of is not there.
constexpr auto kAllAreKnown = std::chrono::seconds(20);
// A node tells of a stopped process sooner.
constexpr auto kStopIsSeen = std::chrono::seconds(3);

struct Brief {
  bool stopped = false;
  std::uint32_t group = 0;
  std::uint32_t parent = 0;
  std::string name;
};

// Of a process' stat: what is of interest here, and changes seldom.
std::string brief_stat(const std::string& text) {
  auto stat = parse_stat(text);
  if (!stat) return "S 0 0 ";
  char state = stat->state == 'T' ? 'T' : 'S';
  return formatted("{} {} {} {}", state, stat->group_id, stat->parent_pid, stat->comm);
}

Brief brief_of(const ViewedTask& task) {
  const auto& text = task.contents[static_cast<std::size_t>(TaskFile::kStat)];
  auto space = text.find(' ', 2);
  if (space == std::string::npos) return {};
  auto second = text.find(' ', space + 1);
  if (second == std::string::npos) return {};
  Brief out{.stopped = text[0] == 'T', .name = text.substr(second + 1)};
  (void)std::from_chars(text.data() + 2, text.data() + space, out.group);
  (void)std::from_chars(text.data() + space + 1, text.data() + second, out.parent);
  return out;
}

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
      if (file.name() != "stat") continue;
      auto& stat = *copy.add_files();
      stat.set_name("stat");
      stat.set_content(brief_stat(file.content()));
    }
  }
  return out;
}

void fill(const wire::GhostSignal& signal, const ViewedTask& task, wire::NodeKillRequest& request) {
  request.set_pid(signal.pid());
  request.set_signal(signal.signal());
  request.set_uid(task.uid);
  request.set_keeper(signal.keeper());
  request.set_sequence(signal.sequence());
}

}  // namespace

void LeaderGhosts::attach(std::shared_ptr<Connection> keeper) {
  keeper_ = std::move(keeper);
  attached_ = Clock::now();
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
  auto brief = brief_of(task);
  ghost.set_group(brief.group);
  ghost.set_name(std::move(brief.name));
  ghost.set_stopped(brief.stopped);
}

void LeaderGhosts::on_delta(const wire::ViewDelta& delta) {
  apply(model_.apply(reduced(delta), Clock::now()));
  if (!delta.last()) return;
  for (std::size_t i = 0; i < kRetriesAtOnce && !failed_.empty(); ++i)
    touch(failed_.extract(failed_.begin()).value());
  look_at_stopped();
}

// A stopped ghost takes no signals. If its process goes on, or never stopped, it is to go on.
void LeaderGhosts::look_at_stopped() {
  std::erase_if(stopped_, [this](const auto& entry) {
    const ViewedTask* task = model_.find(entry.first);
    if (task == nullptr) return true;
    if (brief_of(*task).stopped || Clock::now() - entry.second < kStopIsSeen) return false;
    touch(entry.first);
    return true;
  });
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
  for (const auto& file : changes.files)
    if (const ViewedTask* task = model_.by_serial(file.serial);
        task != nullptr && file.file == TaskFile::kStat)
      touch(task->pid);
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
  auto deputies = deputies_();
  auto wanted = [&](const ViewedTask& task) {
    return !deputies.contains(task.pid) && !released(task);
  };
  if (std::exchange(all_, false)) {
    changed_.clear();
    update.set_full(true);
    for (const auto& [pid, task] : model_.tasks())
      if (wanted(task)) add(task, update);
    return update;
  }
  for (std::size_t i = 0; i < kAtOnce && !changed_.empty(); ++i) {
    auto pid = changed_.extract(changed_.begin()).value();
    const ViewedTask* task = model_.find(pid);
    if (task != nullptr && wanted(*task))
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
void LeaderGhosts::on_signals(const wire::GhostSignals& signals) {
  std::map<std::string, std::vector<wire::GhostSignal>> by_node;
  for (const auto& signal : signals.signals()) {
    if (signal.signal() == SIGSTOP) stopped_[signal.pid()] = Clock::now();
    if (!known_signals_.emplace(signal.keeper(), signal.sequence()).second) continue;
    auto& queue = signals_[signal.pid()];
    queue.push_back(signal);
    if (queue.size() > 1) continue;
    const ViewedTask* task = model_.find(signal.pid());
    by_node[task != nullptr ? task->node : ""].push_back(signal);
  }
  for (auto& [node, those] : by_node) {
    if (!node.empty() && those.size() > 1) {
      // No child's end is seen before its parent has the signal.
      std::ranges::stable_sort(those, {}, [this](const auto& each) { return depth(each.pid()); });
      asio::co_spawn(context_, deliver_together(this, node, std::move(those)), asio::detached);
      continue;
    }
    for (const auto& each : those)
      asio::co_spawn(context_, deliver_all(this, each.pid()), asio::detached);
  }
}

int LeaderGhosts::depth(std::uint32_t pid) const {
  constexpr int kDeepest = 1000;
  int depth = 0;
  for (const ViewedTask* task = model_.find(pid); task != nullptr && depth < kDeepest; ++depth)
    task = model_.find(brief_of(*task).parent);
  return depth;
}

Awaitable<> LeaderGhosts::deliver_together(LeaderGhosts* self, std::string node,
                                           std::vector<wire::GhostSignal> signals) {
  wire::Message message;
  std::vector<std::uint32_t> asked;
  for (const auto& signal : signals) {
    const ViewedTask* task = self->model_.find(signal.pid());
    if (task == nullptr || task->node != node) continue;
    fill(signal, *task, *message.mutable_node_kill_batch()->add_kills());
    asked.push_back(signal.pid());
  }
  auto answer = co_await self->ask_(node, std::move(message), kKillTimeout);
  if (answer && answer->has_node_kill_batch_reply()) {
    const auto& reply = answer->node_kill_batch_reply();
    for (int i = 0; i < std::min(reply.done_size(), static_cast<int>(asked.size())); ++i)
      if (reply.done(i)) self->done(asked[static_cast<std::size_t>(i)]);
  }
  for (const auto& signal : signals)
    asio::co_spawn(self->context_, deliver_all(self, signal.pid()), asio::detached);
}

Awaitable<> LeaderGhosts::deliver_all(LeaderGhosts* self, std::uint32_t pid) {
  auto& queue = self->signals_[pid];
  while (!queue.empty()) {
    co_await self->deliver(queue.front());
    self->done(pid);
  }
  self->signals_.erase(pid);
}

// A node that does not answer is waited for until it is given up with all its processes.
Awaitable<> LeaderGhosts::deliver(wire::GhostSignal signal) {
  auto begun = Clock::now();
  while (true) {
    const ViewedTask* task = model_.find(signal.pid());
    if (task == nullptr && Clock::now() - attached_ > kAllAreKnown) co_return;
    if (task != nullptr) {
      wire::Message message;
      fill(signal, *task, *message.mutable_node_kill_request());
      auto sent = co_await ask_(task->node, std::move(message), kKillTimeout);
      if (sent || sent.error().code == ErrorCode::kGone) co_return;
      bool moved =
          sent.error().code == ErrorCode::kNotFound && Clock::now() - begun < kFoundSomewhere;
      bool again = moved || sent.error().code == ErrorCode::kTimeout ||
                   sent.error().code == ErrorCode::kUnavailable;
      if (!again) {
        log::warning("signal not delivered", log::field("pid", signal.pid()),
                     log::field("signal", signal.signal()),
                     log::field("error", sent.error().text()));
        co_return;
      }
    }
    co_await sleep_for(kTryAgain);
  }
}

void LeaderGhosts::done(std::uint32_t pid) {
  auto& queue = signals_[pid];
  auto signal = std::move(queue.front());
  queue.pop_front();
  known_signals_.erase({signal.keeper(), signal.sequence()});
  if (!keeper_ || !keeper_->open()) return;
  wire::Message message;
  message.mutable_ghost_signals_done()->add_sequences(signal.sequence());
  (void)keeper_->send(message);
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
