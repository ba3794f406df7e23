#!/bin/bash
# What happens to a job that is stopped, killed or ends in the phases of a migration, and
# to one whose pages follow when nodes, daemons, stand-ins or cables fail. It never runs
# twice, never runs on with pages that are lost, and leaves nothing behind.
# shellcheck source=tests/cluster/lib.sh
. "$(dirname "$0")/lib.sh"
# shellcheck source=tests/cluster/jobs.sh
. "$repo/tests/cluster/jobs.sh"
# shellcheck source=tests/cluster/modes.sh
. "$repo/tests/cluster/modes.sh"

# Modes in which pages follow, out of those to be tested.
paging_modes() {
  local mode
  for mode in "${modes[@]}"; do ! pages_follow "$mode" || echo "$mode"; done
}

# begin_paging MODE: a victim from node1 that runs on node2, while most of its pages are
# at node1 and will be for half a minute. In hybrid it is some megabytes that were written
# since the only round, for two seconds.
begin_paging() {
  local mode=$1
  echo "--- $mode"
  case $mode in
    lazy) begin victim node1 memory --mib "$(scaled 16)" --rate 50 --tick-ms 50; move_by lazy "$pid" node2 ;;
    post-copy)
      begin victim node1 memory --mib "$(scaled 16)" --rate 50 --tick-ms 50
      move_by post-copy "$pid" node2 --no-wait --bandwidth 2M
      ;;
    hybrid)
      begin victim node1 memory --mib "$(scaled 12)" --rate 0 --tick-ms 50
      move_by hybrid "$pid" node2 --no-wait --bandwidth 3M --max-rounds 1 --downtime-goal 1us
      ;;
  esac
  assert_eq "$(listed "$pid" .state)" paging "state of the migration"
}

# It has all its bytes, wherever they were, and may move on.
survives() {
  works_on victim
  expect_there node2 "$job" 1
  move_by eager "$pid" node1 --timeout "$(scaled 60)"
  expect_there node1 "$job" 1
  works_on victim
  finish victim "$pid"
}

# Its end is noticed, there is nothing of it anywhere, and it never saw a wrong byte.
expect_dead() { # STATUS [SECONDS]
  (wait_until "${2:-20}" ended victim) || fail "the job has not ended"
  assert_eq "$(cat "$scratch/victim.status")" "$1" "exit status of the job ($(tail -n 1 "$scratch/victim.err"))"
  ! grep '^BAD' "$scratch/victim.out" || fail "it ran on with what was left"
  (wait_until 10 there_only nowhere "$job" 0) || expect_there nowhere "$job" 0
}

# expect_failed PART…: the migration is listed so, and its error says why.
expect_failed() {
  local part
  (wait_until 15 last_state_is "$pid" failed) || fail "the migration is $(listed "$pid" .state)"
  for part in "$@"; do assert_contains "$(listed "$pid" .error)" "$part" "error of the migration"; done
}

gone_from() { # NODE: what it held of the job
  # shellcheck disable=SC2016
  (wait_until 15 on "$1" sh -c '! pgrep -f "^/usr/lib/gestalt/gestalt-stand-in --job $1( |\$)" &&
    [ -z "$(cat "/sys/fs/cgroup/gestalt/job-$1/cgroup.procs" 2>/dev/null)" ]' sh "$job") ||
    fail "left of job $job on $1: $(leftovers_on "$1")"
}

# `gestalt run` stops with its job, as any program in a shell; the shell brings it back.
continue_job() {
  gestalt kill -CONT "$pid"
  on leader pkill -CONT -x gestalt
}

# --- the process itself ------------------------------------------------------

stopped_on() { # NODE: all its processes
  on "$1" sh -c 'for pid in $(cat "/sys/fs/cgroup/gestalt/job-$1/cgroup.procs"); do
    grep -q "^State:.T" "/proc/$pid/status" || exit 1; done' sh "$job"
}

# still_stopped NODE: it has not got on.
still_stopped() {
  local before
  wait_until 5 stopped_on "$1"
  sleep 0.2 # what it said is on its way
  before=$(ticks victim)
  sleep 0.4
  stopped_on "$1" || fail "it is not stopped on $1"
  assert_eq "$(ticks victim)" "$before" "ticks of a stopped process"
}

test_stopped_before() {
  local mode
  begin victim node1 memory --mib 8 --tick-ms 50
  for mode in "${modes[@]}"; do
    echo "--- $mode"
    gestalt kill -STOP "$pid"
    wait_until 5 stopped_on node1
    move_by "$mode" "$pid" node2
    still_stopped node2
    continue_job
    works_on victim
    move_by eager "$pid" node1
  done
  finish victim "$pid"
}

# begin_slow MODE: a migration that takes some seconds, in rounds or in the freeze. Sets mover.
begin_slow() {
  echo "--- $1"
  begin victim node1 memory --mib "$(scaled 8)" --rate 2000 --tick-ms 50
  gestalt migrate "$pid" node2 --mode "$1" --bandwidth 3M --timeout "$(scaled 30)" --json >"$scratch/slow.json" 2>"$scratch/slow.err" &
  mover=$!
  sleep "$(scaled 1)"
}

moved_slowly() {
  local status=0
  wait "$mover" || status=$?
  assert_eq "$status" 0 "exit status of migrate ($(cat "$scratch/slow.err"))"
}

test_stopped_meanwhile() {
  local mode
  for mode in "${modes[@]}"; do
    begin_slow "$mode"
    gestalt kill -STOP "$pid"
    moved_slowly
    still_stopped node2
    continue_job
    works_on victim
    finish victim "$pid"
  done
}

test_killed_meanwhile() {
  local mode
  for mode in "${modes[@]}"; do
    begin_slow "$mode"
    gestalt kill -KILL "$pid"
    wait "$mover" || true # both is true
    expect_dead 137
  done
  gone_from node1
  gone_from node2
}

# It verifies all its memory before it ends: whatever is missing comes.
test_ends_meanwhile() {
  local mode
  for mode in "${modes[@]}"; do
    begin_slow "$mode"
    gestalt kill "$pid"
    wait "$mover" || true
    await_status victim 0 30
    check_report victim
    (wait_until 10 there_only nowhere "$job" 0) || fail "something of it lives on"
  done
  gone_from node1
  gone_from node2
}

test_stopped_while_paging() {
  local mode
  for mode in $(paging_modes); do
    begin_paging "$mode"
    gestalt kill -STOP "$pid"
    still_stopped node2
    move_by eager "$pid" node1 --timeout "$(scaled 60)"
    still_stopped node1
    continue_job
    works_on victim
    finish victim "$pid"
  done
}

test_killed_while_paging() {
  local mode
  for mode in $(paging_modes); do
    begin_paging "$mode"
    gestalt kill -KILL "$pid"
    expect_dead 137
    gone_from node1
    gone_from node2
    assert_eq "$(listed "$pid" .state)" "done" "state of the migration"
  done
}

# --- cables ------------------------------------------------------------------

# Shorter than it takes to un-merge a node.
test_short_cut_while_paging() {
  local mode node
  for mode in lazy post-copy; do
    for node in node1 node2; do
      begin_paging "$mode"
      sandbox cut "$node"
      sleep 2.5
      sandbox join "$node"
      ! ended victim || fail "it ended: $(tail -n 2 "$scratch/victim.err")"
      wait_until 15 node_is "$node" online
      survives
    done
  done
}

test_source_cut_off_while_paging() {
  begin_paging lazy
  sandbox cut node1
  expect_dead 137 25
  expect_failed node1
  sandbox join node1
  wait_until 20 healthy node1
  gone_from node1
}

test_destination_cut_off_while_paging() {
  begin_paging post-copy
  sandbox cut node2
  wait_until 25 ended victim
  [[ $(cat "$scratch/victim.status") != 0 ]] || fail "it ended with 0"
  gone_from node1
  sandbox join node2
  wait_until 20 healthy node2
  expect_dead "$(cat "$scratch/victim.status")"
  gone_from node2
}

test_a_slow_network() {
  local mode node
  # Bursts of 10 ms; what does not fit into the queue is lost and sent again.
  on node1 tc qdisc add dev eth0 root tbf rate 40mbit burst 50kb latency 50ms
  begin victim node1 memory --mib 8 --rate 500 --tick-ms 50
  for mode in "${modes[@]}"; do
    echo "--- $mode"
    for node in node2 node1; do
      move_by "$mode" "$pid" "$node" --timeout "$(scaled 60)"
      works_on victim
    done
  done
  on node1 tc qdisc del dev eth0 root
  finish victim "$pid"
}

# --- nodes -------------------------------------------------------------------

test_source_dies_while_paging() {
  local mode
  for mode in $(paging_modes); do
    begin_paging "$mode"
    sandbox kill node1
    # Of what hybrid left behind all may have come in the meantime.
    if [[ $mode == hybrid ]] && ! (wait_until 12 ended victim) 2>/dev/null; then
      works_on victim
      finish victim "$pid"
    else
      expect_dead 137 25
      expect_failed node1
    fi
    gone_from node2
    heal
  done
}

test_destination_dies_while_paging() {
  local mode
  for mode in lazy post-copy; do
    begin_paging "$mode"
    sandbox kill node2
    wait_until 25 ended victim
    [[ $(cat "$scratch/victim.status") != 0 ]] || fail "it ended with 0"
    gone_from node1
    expect_failed node2
    heal
  done
}

# --- daemons and stand-ins ---------------------------------------------------

test_leader_restarts_while_paging() {
  local mode
  for mode in lazy post-copy; do
    begin_paging "$mode"
    sandbox daemon leader restart
    wait_until 20 eval 'node_is node1 online && node_is node2 online'
    works_on victim
    wait_until 10 last_state_is "$pid" paging
    survives
    gone_from node2
  done
}

test_daemons_restart_while_paging() {
  local mode node
  for mode in lazy post-copy; do
    for node in node1 node2; do
      begin_paging "$mode"
      sandbox daemon "$node" restart
      wait_until 20 node_is "$node" online
      works_on victim
      survives
    done
  done
}

kill_stand_in() { # NODE: the only one there
  on "$1" sh -c 'pids=$(pgrep -x gestalt-stand-i); [ "$(echo "$pids" | wc -l)" = 1 ] && kill -KILL $pids'
}

test_source_stand_in_dies_while_paging() {
  local mode
  for mode in lazy post-copy; do
    begin_paging "$mode"
    kill_stand_in node1
    expect_dead 137
    expect_failed node1
    gone_from node1
    gone_from node2
  done
}

# The kernel would give it zeroes for all that is missing.
test_destination_stand_in_dies_while_paging() {
  local mode
  for mode in lazy post-copy; do
    begin_paging "$mode"
    kill_stand_in node2
    expect_dead 137
    gone_from node1
    gone_from node2
    wait_until 15 eval '! last_state_is "$pid" paging'
  done
}

test_nothing_is_left() { expect_nothing_left; }

cluster_up 3
run_tests "$@"
