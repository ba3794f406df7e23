# shellcheck shell=bash
# shellcheck disable=SC2154 # scratch is of lib.sh
# modes.sh: for cluster tests that move jobs in every mode. Sourced after jobs.sh.
#
#   begin NAME NODE VICTIM [OPTION…]            start_victim; also sets job
#   modes                                       all five, or those of $GESTALT_TEST_MODES
#   move_by MODE PID NODE [OPTION…]             migrate, and check what was reported
#   expect_there NODE JOB [COUNT]               all its processes run there, and nowhere else
#   await_state PID STATE [SECONDS]             of its newest migration
#   expect_nothing_left                         no copies, images, helpers or frozen groups

job= # set by begin and find_job
declare -a modes
read -r -a modes <<<"${GESTALT_TEST_MODES:-eager lazy pre-copy post-copy hybrid}"

# In these modes pages may be at the source when the process runs at the destination.
pages_follow() { [[ $1 == @(lazy|post-copy|hybrid) ]]; }

has_rounds() { [[ $1 == @(pre-copy|hybrid) ]]; }

move_by() { # MODE PID NODE [OPTION…]
  local mode=$1 pid=$2 node=$3 status=0
  shift 3
  migrate "$pid" "$node" --mode "$mode" "$@" || status=$?
  ((status == 0)) || fail "$mode migration of $pid to $node failed ($status): $(cat "$scratch/migration.err")"
  reported 'select(.mode == "'"$mode"'" and .pid == '"$pid"' and .destination == "'"$node"'" and
    .freeze_seconds > 0 and .wire_bytes > 0 and .error == null)' >/dev/null ||
    fail "odd report: $(cat "$scratch/migration.json")"
}

# begin NAME NODE VICTIM [OPTION…]: start_victim; also sets job.
begin() {
  start_victim "$@"
  find_job
}

# Of $pid, wherever it runs.
find_job() {
  job=$(listing '.[] | select(.pid == ($value | tonumber)) | .job_id' "$pid")
  [[ -n $job ]] || fail "there is no process $pid"
}

# Processes of a job on a node, by the node's own control groups: none if they are frozen,
# for a store of pages is no copy. They are not found by their arguments, which are pages,
# too, and may still be elsewhere.
live_on() { # NODE JOB
  # shellcheck disable=SC2016
  on "$1" sh -c 'cd "/sys/fs/cgroup/gestalt/job-$1" 2>/dev/null || { echo 0; exit; }
    if grep -q "^frozen 1" cgroup.events; then echo 0; exit; fi
    live=0
    for pid in $(cat cgroup.procs); do
      grep -q "^State:.[ZX]" "/proc/$pid/status" 2>/dev/null || live=$((live + 1))
    done
    echo "$live"' sh "$2"
}

# COUNT: exactly so many (else at least one).
there_only() { # NODE JOB [COUNT]
  local node count
  for node in $(sandbox status | awk 'NR > 1 && $2 == "running" { print $1 }'); do
    count=$(live_on "$node" "$2")
    if [[ $node != "$1" ]]; then
      [[ $count == 0 ]] || return 1
    elif [[ -n ${3:-} ]]; then
      [[ $count == "$3" ]] || return 1
    else
      ((count > 0)) || return 1
    fi
  done
}

expect_there() { # NODE JOB [COUNT]
  local node
  there_only "$@" && return
  for node in $(nodes); do echo "$node: $(live_on "$node" "$2")"; done
  tail -n 3 "$scratch"/*.out "$scratch"/*.err | cut -c1-500
  fail "job $2 has not all its ${3:-} processes on $1 and nowhere else"
}

# Like keeps_working, and not longer than it takes to see.
works_on() { # NAME
  local before
  before=$(ticks "$1")
  wait_until 15 ticked_beyond "$1" $((before + 1))
  ! ended "$1" || fail "$1 ended: $(tail -n 2 "$scratch/$1.out" "$scratch/$1.err")"
}

# The newest migration of the pid, as `gestalt migrations` lists it.
listed() { # PID EXPRESSION
  gestalt migrations --json |
    on leader jq -r --argjson pid "$1" '[.[] | select(.pid == $pid)] | max_by(.migration_id) | '"$2"
}

last_state_is() { [[ $(listed "$1" .state) == "$2" ]]; }

await_state() { # PID STATE [SECONDS]
  wait_until "${3:-20}" last_state_is "$1" "$2"
}

# Before there are any jobs: how many migrations may be under way.
set_limit() { # NUMBER
  on leader sh -c 'sed -i "/^\[migration\]/,\$d" /etc/gestalt/gestalt.toml
    printf "[migration]\nmax_concurrent = %s\n" "$1" >>/etc/gestalt/gestalt.toml' sh "$1"
  sandbox daemon leader restart
  wait_until 20 eval 'node_is node1 online && node_is node2 online'
}

# What one node still has of migrations that are over: a line for each.
leftovers_on() {
  # shellcheck disable=SC2016
  on "$1" sh -c 'find /run/gestalt/images -mindepth 1 2>/dev/null | head -n 5
    pgrep -a -x "criu|gestalt-stand-i"
    for events in $(find /sys/fs/cgroup -name cgroup.events); do
      grep -q "^frozen 1" "$events" && echo "frozen: $events"
    done
    true'
}

nothing_left_on() { [[ -z $(leftovers_on "$1") ]]; }

# Once all jobs have ended.
expect_nothing_left() {
  local node
  for node in $(sandbox status | awk 'NR > 1 && $2 == "running" { print $1 }'); do
    (wait_until 10 nothing_left_on "$node") || fail "left on $node: $(leftovers_on "$node")"
  done
}
