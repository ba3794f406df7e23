// The agent's part in the single view: while the leader has subscribed, tells it of this
// node's processes; answers what it asks about one.
#pragma once

#include <memory>

#include "daemon/connection.h"
#include "daemon/round_pacer.h"
#include "daemon/sources/task_events.h"
#include "daemon/task_scanner.h"

namespace gestalt {

class AgentView {
 public:
  struct Hooks {
    std::function<ClusterPids()> where;  // proc is empty: none now
    std::function<Result<std::vector<TaskGlimpse>>(const ClusterPids&)> glimpse;
    std::function<TaskScanner::Hidden()> hidden;
    // Of what processes do, told from now on; an empty function ends that.
    std::function<void(std::function<void(const TaskNews&)>)> listen;
    std::function<Awaitable<Result<wire::Message>>(wire::Message, Clock::duration timeout)>
        ask_leader;
  };
  AgentView(asio::io_context& context, Hooks hooks);

  // A period of zero ends it. Each call starts with a full round. Between periods there is a
  // round when processes have done something.
  void subscribe(double interval_seconds);

 private:
  void on_news(const TaskNews& news);
  static Awaitable<> run(AgentView* self, std::uint64_t subscription);
  // False: the leader is gone, or has subscribed anew.
  [[nodiscard]] Awaitable<bool> round(std::uint64_t subscription);
  [[nodiscard]] Awaitable<bool> tell(std::vector<wire::ViewDelta> deltas,
                                     std::uint64_t subscription);

  asio::io_context& context_;
  Hooks hooks_;
  TaskScanner scanner_;
  std::uint64_t subscription_ = 0;
  RoundPacer pacer_;
  asio::steady_timer next_round_;
};

}  // namespace gestalt
