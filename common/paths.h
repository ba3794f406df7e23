// Where things lie on a node. /run is node-local everywhere.
#pragma once

namespace gestalt::paths {

inline constexpr char kRunDirectory[] = "/run/gestalt";
inline constexpr char kClientSocket[] = "/run/gestalt/gestaltd.sock";  // users, mode 0666
inline constexpr char kAgentSocket[] = "/run/gestalt/agent.sock";      // stand-ins, root only
inline constexpr char kInitSocket[] = "/run/gestalt/init.sock";  // the cluster init, root only
inline constexpr char kViewSocket[] = "/run/gestalt/view.sock";  // views and ghosts, root only
// Where the view of a user gives sessions their mounts: his uid and ".sock" follow. Root only.
inline constexpr char kViewSessions[] = "/run/gestalt/view-";
// Where a deputy and a launcher meet the stand-in of a process that comes home: the job's id
// follows. Mode 0666; it looks at who connects.
inline constexpr char kHomeSocket[] = "/run/gestalt/home-";
inline constexpr char kImageDirectory[] = "/run/gestalt/images";  // CRIU's images, by migration
inline constexpr char kCriuProgram[] = "/usr/sbin/criu";
inline constexpr char kStandInProgram[] = "/usr/lib/gestalt/gestalt-stand-in";
inline constexpr char kViewProgram[] = "/usr/lib/gestalt/gestalt-view";
inline constexpr char kGhostsProgram[] = "/usr/lib/gestalt/gestalt-ghosts";
inline constexpr char kLauncherProgram[] = "/usr/lib/gestalt/gestalt-launcher";
inline constexpr char kWitnessName[] = "gestalt-witness";  // a process's (cli/group_witness.h)
inline constexpr char kInitProgram[] = "/usr/lib/gestalt/gestalt-init";
inline constexpr char kConfigFile[] = "/etc/gestalt/gestalt.toml";
inline constexpr char kJoinToken[] = "/etc/gestalt/join-token";
inline constexpr char kLeaderState[] = "/var/lib/gestalt/leader";  // leader's own disk, 0700
inline constexpr char kLoadDirectory[] = "/var/lib/gestalt/load";  // shared, a file a node

}  // namespace gestalt::paths
