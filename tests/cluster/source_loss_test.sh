#!/bin/bash
# The source or the leader's daemon dies in the middle of a migration. What was not yet
# granted is lost with the source, and the victim's command says so; what is, lives on at
# the destination; the leader's daemon may come back. A phase is held by a fault that
# hangs.
# shellcheck source=tests/cluster/lib.sh
. "$(dirname "$0")/lib.sh"
# shellcheck source=tests/cluster/jobs.sh
. "$repo/tests/cluster/jobs.sh"

# --- the source --------------------------------------------------------------

# All that there was died with it: the command says so, nothing is left anywhere.
source_dies_at() { # NODE FAULT
  begin_held "$1" "$2"
  sandbox kill node1
  wait "$mover" && fail "a migration without a source succeeded"
  await_status victim 125 15
  wait_until 15 only_on nowhere victim 0
  [[ $1 != node2 ]] || sandbox kill node2 # what hangs in there would hang for ten minutes
}

test_source_dies_before_the_state_is_sent() { source_dies_at node1 5; }
test_source_dies_before_it_asks() { source_dies_at node1 9; }
test_source_dies_while_the_destination_is_ready() { source_dies_at node2 26; }

# Completed: the job lives on the other node, whatever becomes of this one.
test_source_dies_after_the_commit() {
  begin_held node1 12
  sandbox kill node1
  wait "$mover" || true
  wait_until 15 is_on "$pid" node2
  expect_only_on node2 victim 1
  keeps_working victim
  finish victim "$pid"
}

# --- the leader --------------------------------------------------------------

# Its daemon dies and comes back: the command fails or not, the job is there once.
leader_dies_at() { # NODE FAULT
  local where
  begin_held "$1" "$2"
  sandbox daemon leader kill
  wait "$mover" && fail "migrate succeeded without its daemon"
  sandbox daemon leader start
  wait_until 15 node_is node1 online
  wait_until 20 eval 'only_on node1 victim 1 || only_on node2 victim 1'
}

test_leader_dies_while_the_destination_listens() {
  leader_dies_at node2 21
  keeps_working victim
  expect_only_on node1 victim 1
  finish victim "$pid"
}

# Both ends hold a copy, granted and unconfirmed, when the leader's daemon dies.
test_leader_dies_before_it_completes() {
  local where status=0
  start_victim victim node1 memory
  fault leader 42:exit
  migrate "$pid" node2 --timeout 40 || status=$?
  ((status != 0)) || fail "migrate succeeded without its daemon"
  no_faults
  sandbox daemon leader start
  wait_until 20 eval 'node_is node1 online && node_is node2 online'
  keeps_working victim
  where=$(node_of "$pid")
  wait_until 15 only_on "$where" victim 1
  finish victim "$pid"
}

test_leader_dies_before_it_grants() {
  local status=0
  start_victim victim node1 memory
  fault leader 41:exit
  migrate "$pid" node2 --timeout 40 || status=$?
  ((status != 0)) || fail "migrate succeeded without its daemon"
  no_faults
  sandbox daemon leader start
  wait_until 20 eval 'node_is node1 online && node_is node2 online'
  wait_until 20 only_on node1 victim 1
  keeps_working victim
  move "$pid" node2
  finish victim "$pid"
}

cluster_up 3
run_tests "$@"
