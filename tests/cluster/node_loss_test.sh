#!/bin/bash
# The destination dies, is cut off or freezes in the middle of a migration, in each phase
# of it. The victim goes on at the source, there alone. A phase is held by a fault that
# hangs.
# shellcheck source=tests/cluster/lib.sh
. "$(dirname "$0")/lib.sh"
# shellcheck source=tests/cluster/jobs.sh
. "$repo/tests/cluster/jobs.sh"

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
  local began=$SECONDS
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
  local began=$SECONDS
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
  local began=$SECONDS
  begin_held node2 "$1"
  sandbox pause node2
  expect_rolled_back
  sandbox kill node2
  and_then_it_works
}

test_destination_freezes_receiving_pages() { pause_at 24; }
test_destination_freezes_at_the_resume() { pause_at 28; }

cluster_up 3
run_tests "$@"
