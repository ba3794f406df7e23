#!/bin/bash
# A node dies, is cut off or freezes in the middle of a migration, in each phase of it.
# The victim runs on exactly one node afterwards, or is lost with the node it was on, and
# then its command says so. A phase is held by a fault that hangs.
# timeout: 420
# shellcheck source=tests/cluster/lib.sh
. "$(dirname "$0")/lib.sh"
# shellcheck source=tests/cluster/jobs.sh
. "$repo/tests/cluster/jobs.sh"

# begin_held NODE FAULT: a victim on node1 on its way to node2, held at the fault.
begin_held() {
  start_victim victim node1 memory
  fault "$1" "$2:hang"
  migrate "$pid" node2 --timeout 40 &
  mover=$!
  wait_until 15 held_at "$1" "$2"
}

held_at() { sandbox daemon "$1" log | tail -n 50 | grep -q "injected fault.*number=$2"; }

# The migration fails in bounded time; the source's copy goes on.
expect_rolled_back() {
  local status=0
  wait "$mover" || status=$?
  ((status != 0 && status != 124 && status < 126)) || fail "migrate exited with $status"
  expect_only_on node1 victim 1
  assert_eq "$(node_of "$pid")" node1
  keeps_working victim
  ((SECONDS - began <= 25)) || fail "that took $((SECONDS - began)) s"
}

# The other node as new, and the victim can go there.
and_then_it_works() {
  heal
  move "$pid" node2
  expect_only_on node2 victim 1
  keeps_working victim
  finish victim "$pid"
}

dies_at() {
  local began=$SECONDS mover
  begin_held node2 "$1"
  sandbox kill node2
  expect_rolled_back
  and_then_it_works
}

test_destination_dies_before_the_source_came() { dies_at 21; }
test_destination_dies_receiving_the_state() { dies_at 22; }
test_destination_dies_restoring() { dies_at 23; }
test_destination_dies_receiving_pages() { dies_at 24; }
test_destination_dies_ready() { dies_at 26; }
test_destination_dies_awaiting_the_verdict() { dies_at 27; }
test_destination_dies_at_the_resume() { dies_at 28; }

# It may even have run there, but nobody has heard of it.
test_destination_dies_before_it_confirms() { dies_at 29; }

cut_at() {
  local began=$SECONDS mover
  begin_held node2 "$1"
  sandbox cut node2
  expect_rolled_back
  sandbox kill node2 # what hangs in there would hang for ten minutes
  and_then_it_works
}

test_destination_is_cut_off_receiving_pages() { cut_at 24; }
test_destination_is_cut_off_awaiting_the_verdict() { cut_at 27; }
test_destination_is_cut_off_at_the_resume() { cut_at 28; }

pause_at() {
  local began=$SECONDS mover
  begin_held node2 "$1"
  sandbox pause node2
  expect_rolled_back
  sandbox kill node2
  and_then_it_works
}

test_destination_freezes_receiving_pages() { pause_at 24; }
test_destination_freezes_at_the_resume() { pause_at 28; }

# --- the source --------------------------------------------------------------

# All that there was died with it: the command says so, nothing is left anywhere.
source_dies_at() { # NODE FAULT
  local mover
  begin_held "$1" "$2"
  sandbox kill node1
  wait "$mover" && fail "a migration without a source succeeded"
  await_status victim 125 15
  wait_until 15 only_on nowhere victim 0
}

test_source_dies_before_the_state_is_sent() { source_dies_at node1 5; }
test_source_dies_before_it_asks() { source_dies_at node1 9; }
test_source_dies_while_the_destination_is_ready() { source_dies_at node2 26; }

# Completed: the job lives on the other node, whatever becomes of this one.
test_source_dies_after_the_commit() {
  local mover
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
  local mover where
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
