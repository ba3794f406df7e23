#include "daemon/agent_view.h"

#include <algorithm>

namespace gestalt {
namespace {

constexpr double kShortestSeconds = 0.1;
constexpr double kLongestSeconds = 60;
// Between two looks at what else the daemon has to do: about a millisecond.
constexpr std::size_t kTasksAtOnce = 64;
// A leader that has not passed on what it was told by then gets more all the same: one view
// that hangs must not hold up the others for ever.
constexpr auto kToldTimeout = std::chrono::seconds(5);

}  // namespace

AgentView::AgentView(asio::io_context& context, Hooks hooks)
    : context_(context), hooks_(std::move(hooks)), next_round_(context) {}

void AgentView::subscribe(double interval_seconds) {
  ++subscription_;
  next_round_.cancel();
  if (!(interval_seconds > 0)) return hooks_.listen(nullptr);
  scanner_.forget();
  pacer_ = RoundPacer(std::chrono::duration_cast<Clock::duration>(std::chrono::duration<double>(
      std::clamp(interval_seconds, kShortestSeconds, kLongestSeconds))));
  hooks_.listen([this](const TaskNews& news) { on_news(news); });
  asio::co_spawn(context_, run(this, subscription_), asio::detached);
}

Awaitable<> AgentView::run(AgentView* self, std::uint64_t subscription) {
  log::info("the single view watches this node");
  while (subscription == self->subscription_) {
    self->pacer_.begin(Clock::now());
    if (!co_await self->round(subscription)) {
      // Without a leader to tell nobody needs events.
      if (subscription == self->subscription_) self->hooks_.listen(nullptr);
      co_return;
    }
    self->pacer_.end(Clock::now());
    // Again after each piece of news: it may bring the next round forward.
    while (subscription == self->subscription_ && Clock::now() < self->pacer_.next()) {
      self->next_round_.expires_at(self->pacer_.next());
      (void)co_await self->next_round_.async_wait(kAsResult);
    }
  }
}

void AgentView::on_news(const TaskNews& news) {
  auto where = hooks_.where();
  if (where.proc.empty()) return;
  // One that cannot be told any more: rather a round too many.
  auto cluster = pid_namespace_of("/proc", where.init_pid).value_or(PidNamespace{});
  if (!concerns(news, cluster) || !pacer_.note(Clock::now())) return;
  next_round_.cancel();
}

// One message is on the way at a time: a slow leader, or a slow view, is told less often.
Awaitable<bool> AgentView::tell(std::vector<wire::ViewDelta> deltas, std::uint64_t subscription) {
  for (auto& delta : deltas) {
    wire::Message message;
    *message.mutable_view_delta() = std::move(delta);
    auto told = co_await hooks_.ask_leader(std::move(message), kToldTimeout);
    bool gone = !told && told.error().code != ErrorCode::kTimeout;
    // The leader asks again when it is back.
    if (gone || subscription != subscription_) co_return false;
  }
  co_return true;
}

Awaitable<bool> AgentView::round(std::uint64_t subscription) {
  std::vector<wire::ViewDelta> deltas;
  auto sink = [&](wire::ViewDelta delta) { deltas.push_back(std::move(delta)); };
  if (subscription != subscription_) co_return false;
  auto where = hooks_.where();
  if (where.proc.empty()) co_return true;
  auto tasks = hooks_.glimpse(where);
  if (!tasks) co_return true;
  if (!scanner_.begin_round(where.proc, std::move(*tasks), hooks_.hidden(), sink)) co_return true;
  bool more = true;
  while (more) {
    more = scanner_.step(kTasksAtOnce, sink);
    co_await asio::post(context_, asio::use_awaitable);
    if (!co_await tell(std::exchange(deltas, {}), subscription)) co_return false;
    if (subscription != subscription_) co_return false;
  }
  scanner_.end_round(sink);
  co_return co_await tell(std::exchange(deltas, {}), subscription);
}

}  // namespace gestalt
