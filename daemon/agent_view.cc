#include "daemon/agent_view.h"

#include <algorithm>

namespace gestalt {
namespace {

constexpr double kShortestSeconds = 0.1;
constexpr double kLongestSeconds = 60;
// Between two looks at what else the daemon has to do: about a millisecond.
constexpr std::size_t kTasksAtOnce = 64;
// Beyond this the leader is too slow for more; heartbeats wait behind it, too.
constexpr std::size_t kMostQueuedBytes = 2U << 20;
constexpr auto kQueuePoll = std::chrono::milliseconds(20);

}  // namespace

AgentView::AgentView(asio::io_context& context, Hooks hooks)
    : context_(context), hooks_(std::move(hooks)) {}

void AgentView::subscribe(double interval_seconds) {
  ++subscription_;
  if (!(interval_seconds > 0)) return;
  scanner_.forget();
  interval_ = std::chrono::duration_cast<Clock::duration>(std::chrono::duration<double>(
      std::clamp(interval_seconds, kShortestSeconds, kLongestSeconds)));
  asio::co_spawn(context_, run(this, subscription_), asio::detached);
}

Awaitable<> AgentView::run(AgentView* self, std::uint64_t subscription) {
  log::info("the single view watches this node");
  auto next = Clock::now();
  while (co_await self->round(subscription)) {
    // The period counts from start to start; a round that took longer is followed at once.
    next = std::max(next + self->interval_, Clock::now());
    co_await sleep_for(next - Clock::now());
  }
}

Awaitable<bool> AgentView::round(std::uint64_t subscription) {
  bool connected = true;
  auto sink = [&](wire::ViewDelta delta) {
    wire::Message message;
    *message.mutable_view_delta() = std::move(delta);
    connected = connected && hooks_.to_leader(message);
  };
  if (subscription != subscription_) co_return false;
  auto proc = hooks_.proc();
  if (proc.empty()) co_return true;
  if (auto begun = scanner_.begin_round(proc, hooks_.hidden(), sink); !begun) co_return true;
  while (scanner_.step(kTasksAtOnce, sink)) {
    co_await asio::post(context_, asio::use_awaitable);
    while (connected && hooks_.queued_bytes() > kMostQueuedBytes) {
      co_await sleep_for(kQueuePoll);
      if (subscription != subscription_) co_return false;
    }
    if (subscription != subscription_) co_return false;
    if (!connected) co_return false;  // the leader asks again when it is back
  }
  scanner_.end_round(sink);
  co_return connected;
}

}  // namespace gestalt
