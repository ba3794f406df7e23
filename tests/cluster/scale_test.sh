#!/bin/bash
# Sixteen nodes on one machine: all come online, each runs a job, one list shows all.
# shellcheck source=tests/cluster/lib.sh
. "$(dirname "$0")/lib.sh"
# shellcheck source=tests/cluster/jobs.sh
. "$repo/tests/cluster/jobs.sh"

readonly count=16

test_all_are_online() {
  assert_eq "$(gestalt node list --json | on leader jq '[.[] | select(.state == "online")] | length')" "$count"
}

test_each_has_its_own_pids() {
  local overlaps
  overlaps=$(gestalt node list --json | on leader jq '[sort_by(.pid_first) | . as $n | range(1; length) |
    select($n[.].pid_first <= $n[. - 1].pid_last)] | length')
  assert_eq "$overlaps" 0 "overlapping pid slices"
}

test_a_job_on_each() {
  local node
  for node in $(nodes); do start "job-$node" "$node" sh -c 'echo "ready $$" >&2; uname -n; exec sleep 500'; done
  for node in $(nodes); do
    await_pid "job-$node"
    wait_until 10 grep -qx "$node" "$scratch/job-$node.out"
  done
  assert_eq "$(gestalt ps --json | on leader jq '[.[] | select(.command == "sleep 500") | .node] | unique | length')" \
    "$count" "nodes in one list of processes"
  # Each node has an init of its own.
  assert_eq "$(gestalt ps --json | on leader jq '[.[] | .pid | select(. != 1)] | length - (unique | length)')" 0 "pids that occur twice"
}

test_moving_through_many() {
  local node
  start_victim memory node15 memory --mib 8
  for node in node14 node7 node1 leader; do move "$pid" "$node"; done
  keeps_working memory
  finish memory "$pid"
}

cluster_up "$count"
run_tests "$@"
