#include "daemon/membership.h"

#include <algorithm>
#include <utility>

#include "common/format.h"

namespace gestalt {
namespace {

NodeState live_state(const Member& member) {
  return member.draining ? NodeState::kDraining : NodeState::kOnline;
}

bool gone(NodeState state) { return state == NodeState::kFailed || state == NodeState::kOffline; }

std::string silence(Clock::time_point since, Clock::time_point now) {
  return formatted("silent for {:.1f} s", seconds_between(since, now));
}

}  // namespace

std::string_view to_string(NodeState state) {
  switch (state) {
    case NodeState::kJoining:
      return "joining";
    case NodeState::kOnline:
      return "online";
    case NodeState::kSuspect:
      return "suspect";
    case NodeState::kFailed:
      return "failed";
    case NodeState::kDraining:
      return "draining";
    case NodeState::kOffline:
      return "offline";
  }
  return "unknown";
}

void Membership::move(Member& member, NodeState to, std::string why, Transitions& out) {
  if (member.state == to) return;
  out.push_back({member.name, member.state, to, std::move(why)});
  member.state = to;
  if (gone(to)) member.connected = false;
}

void Membership::restore(const std::string& name, bool draining, bool left_cleanly,
                         Clock::time_point now) {
  Member& member = members_[name];
  member.name = name;
  member.draining = draining;
  member.state = left_cleanly ? NodeState::kOffline : NodeState::kSuspect;
  // No transition to suspect is due any more, so that only failed_after counts.
  member.last_heard = now;
}

Result<Admission> Membership::hello(const std::string& name, const std::string& boot_id,
                                    Clock::time_point now) {
  auto found = members_.find(name);
  if (found == members_.end()) {
    found = members_.emplace(name, Member{}).first;
    found->second.name = name;
  }
  Member& member = found->second;
  Admission admission;
  bool other_boot = !member.boot_id.empty() && member.boot_id != boot_id;
  if (!gone(member.state) && other_boot) {
    if (member.state != NodeState::kSuspect && now - member.last_heard < suspect_after_)
      return fail(ErrorCode::kBusy,
                  formatted("a node named {} is alive already, under another boot id", name),
                  formatted("if it was restarted wait {:.0f} s, else choose another name",
                            std::chrono::duration<double>(suspect_after_).count()));
    move(member, NodeState::kFailed, "the node was booted anew", admission.transitions);
  }
  if (gone(member.state)) {
    move(member, NodeState::kJoining, "hello", admission.transitions);
  } else if (member.state == NodeState::kSuspect) {
    // After a leader's restart nothing is known of its load yet: like a new node.
    bool known = !member.boot_id.empty();
    move(member, known ? live_state(member) : NodeState::kJoining, "reconnected",
         admission.transitions);
  }
  member.boot_id = boot_id;
  member.connected = true;
  member.connection = next_connection_++;
  member.last_heard = now;
  admission.connection = member.connection;
  return admission;
}

Transitions Membership::heartbeat(const std::string& name, ConnectionId connection,
                                  const NodeLoad& load, Clock::time_point now) {
  Transitions out;
  auto found = members_.find(name);
  if (found == members_.end()) return out;
  Member& member = found->second;
  if (connection != member.connection || gone(member.state)) return out;
  member.last_heard = now;
  member.load = load;
  move(member, live_state(member),
       member.state == NodeState::kSuspect ? "heard again" : "first heartbeat", out);
  return out;
}

Transitions Membership::goodbye(const std::string& name, ConnectionId connection) {
  Transitions out;
  auto found = members_.find(name);
  if (found == members_.end()) return out;
  Member& member = found->second;
  if (connection != member.connection || gone(member.state)) return out;
  move(member, NodeState::kOffline, "goodbye", out);
  return out;
}

void Membership::disconnect(const std::string& name, ConnectionId connection) {
  auto found = members_.find(name);
  if (found != members_.end() && found->second.connection == connection)
    found->second.connected = false;
}

Result<Transitions> Membership::set_draining(const std::string& name, bool draining) {
  auto found = members_.find(name);
  if (found == members_.end())
    return fail(ErrorCode::kNotFound, formatted("there is no node {}", name),
                "see `gestalt nodes`");
  Transitions out;
  Member& member = found->second;
  member.draining = draining;
  if (member.state == NodeState::kOnline || member.state == NodeState::kDraining)
    move(member, live_state(member), draining ? "drain requested" : "drain ended", out);
  return out;
}

Transitions Membership::tick(Clock::time_point now) {
  Transitions out;
  // Heartbeats that came while the leader was stopped are still unread in its sockets.
  auto gap = now - last_tick_;
  bool leader_was_stopped = last_tick_ != Clock::time_point{} && gap >= suspect_after_;
  last_tick_ = now;
  for (auto& [name, member] : members_) {
    if (gone(member.state)) continue;
    if (leader_was_stopped) member.last_heard = std::min(now, member.last_heard + gap);
    auto silent = now - member.last_heard;
    if (silent >= failed_after_) {
      if (member.state != NodeState::kSuspect)
        move(member, NodeState::kSuspect, silence(member.last_heard, now), out);
      move(member, NodeState::kFailed, silence(member.last_heard, now), out);
    } else if (silent >= suspect_after_) {
      move(member, NodeState::kSuspect, silence(member.last_heard, now), out);
    }
  }
  return out;
}

const Member* Membership::find(const std::string& name) const {
  auto found = members_.find(name);
  return found == members_.end() ? nullptr : &found->second;
}

}  // namespace gestalt
