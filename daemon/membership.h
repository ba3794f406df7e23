// Who is in the cluster, as the leader sees it: a state machine without I/O and without
// a clock of its own. Every event returns the transitions it caused, in order; the
// caller acts on them (record, un-merge, tell clients). Not thread-safe.
//
//             hello            heartbeat                silence
//   (new) ───────────▶ joining ─────────▶ online ───────────────▶ suspect
//   offline, failed ──▶   │               draining ◀─────────────── │ heard again
//                         └─────────────────── silence ──────────▶ │
//                                                                    ▼ more silence
//   online, draining, suspect ── goodbye ──▶ offline              failed
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "common/clock.h"
#include "common/result.h"

namespace gestalt {

enum class NodeState { kJoining, kOnline, kSuspect, kFailed, kDraining, kOffline };
[[nodiscard]] std::string_view to_string(NodeState state);  // as in wire::NodeInfo.state

struct NodeLoad {
  double cpus = 0;
  double load = 0;  // runnable and uninterruptible tasks now
  std::uint64_t memory_total_bytes = 0;
  std::uint64_t memory_available_bytes = 0;
  std::uint32_t tasks = 0;
  std::uint32_t jobs = 0;
  double load_average_1 = 0;
};

struct Transition {
  std::string node;
  NodeState from = NodeState::kOffline;
  NodeState to = NodeState::kOffline;
  std::string why;
};
using Transitions = std::vector<Transition>;

// Tells the connections of one node apart, so that the end of an old one does no harm.
using ConnectionId = std::uint64_t;

struct Member {
  std::string name;
  NodeState state = NodeState::kOffline;
  bool draining = false;  // wanted by the admin; survives failures and restarts
  bool connected = false;
  ConnectionId connection = 0;
  std::string boot_id;  // empty: not known since the leader restarted
  Clock::time_point last_heard;
  NodeLoad load;  // zeros until the first heartbeat

  // Takes new jobs: online, connected, not draining.
  [[nodiscard]] bool usable() const { return state == NodeState::kOnline && connected; }
};

struct Admission {
  ConnectionId connection = 0;  // hand it to heartbeat, goodbye and disconnect
  Transitions transitions;
};

class Membership {
 public:
  Membership(Clock::duration suspect_after, Clock::duration failed_after)
      : suspect_after_(suspect_after), failed_after_(failed_after) {}

  // A node on record when the leader starts: offline if it left cleanly, else suspect
  // until failed_after from now.
  void restore(const std::string& name, bool draining, bool left_cleanly, Clock::time_point now);

  // A node with a valid certificate says hello on a new connection.
  //  - the same boot: the new connection replaces the old one at once; the node stays as
  //    it is, or becomes online again if it was suspect;
  //  - another boot of a node that is alive and was heard less than suspect_after ago:
  //    kBusy (two machines with one name, or a restart that was quicker than we notice);
  //  - another boot of a node that is suspect: it fails (its jobs are gone), then joins;
  //  - failed, offline, unknown: it joins, and is online with its first heartbeat.
  // After restore() the boot is not known: any is taken, and the caller must compare the
  // jobs in the hello with the record.
  [[nodiscard]] Result<Admission> hello(const std::string& name, const std::string& boot_id,
                                        Clock::time_point now);
  // Ignored when it comes on a connection that was replaced, or from a failed node,
  // which must say hello again (close the connection: `find(name)->connected` is false).
  [[nodiscard]] Transitions heartbeat(const std::string& name, ConnectionId connection,
                                      const NodeLoad& load, Clock::time_point now);
  [[nodiscard]] Transitions goodbye(const std::string& name, ConnectionId connection);
  // Only marks the node as not connected: silence decides.
  void disconnect(const std::string& name, ConnectionId connection);
  // An unknown node is kNotFound. Takes effect at once on an online node, else with the
  // state it returns to.
  [[nodiscard]] Result<Transitions> set_draining(const std::string& name, bool draining);
  // Call at least twice in suspect_after. A longer gap means that the leader itself was
  // stopped: it is not held against the nodes.
  [[nodiscard]] Transitions tick(Clock::time_point now);
  // Forgets a node.
  void remove(const std::string& name) { members_.erase(name); }

  // Valid until the next call of a non-const function.
  [[nodiscard]] const Member* find(const std::string& name) const;
  [[nodiscard]] const std::map<std::string, Member>& members() const { return members_; }

 private:
  void move(Member& member, NodeState to, std::string why, Transitions& out);

  Clock::duration suspect_after_;
  Clock::duration failed_after_;
  Clock::time_point last_tick_{};
  ConnectionId next_connection_ = 1;
  std::map<std::string, Member> members_;
};

}  // namespace gestalt
