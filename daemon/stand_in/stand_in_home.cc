// The stand-in of a process that comes home: only for as long as its pages follow.
#include "common/log.h"
#include "daemon/stand_in/stand_in.h"

namespace gestalt {
namespace {

constexpr auto kWatchInterval = std::chrono::milliseconds(100);

}  // namespace

Result<RestorePlan> StandIn::prepare_home(wire::HandOver hand_over) {
  GESTALT_ASSIGN(auto state, home_->pause_deputy(deadline_in(std::chrono::seconds(5))));
  home_streams_ = std::make_unique<HomeStreams>(*home_, *group_);
  return home_streams_->restore(std::move(hand_over), std::move(state));
}

Result<void> StandIn::granted() {
  return home_streams_ ? home_streams_->deliver() : Result<void>();
}

// Its end is its parent's business, but nobody needs its pages then.
void StandIn::watch_returned() {
  if (!paging_) return;
  if (auto members = group_->processes(); members && members->empty()) paging_->processes_ended();
  (void)loop_.after(kWatchInterval, [this] { watch_returned(); });
}

void StandIn::process_returned() {
  log::info("process is home", log::field("job", job_id_), log::field("pid", root_));
  move_members(*group_, home_->home_group());
  wire::Message message;
  message.mutable_job_returned()->set_job_id(job_id_);
  agent_.send(message);
  home_streams_.reset();
  forget_job();
}

}  // namespace gestalt
