#!/bin/bash
# With Debian 13's own CRIU (4.1) instead of the newer one of the toolbox: all modes, dumps of the
# state only, and what it cannot do said before anything is frozen.
# shellcheck source=tests/cluster/lib.sh
. "$(dirname "$0")/lib.sh"
# shellcheck source=tests/cluster/jobs.sh
. "$repo/tests/cluster/jobs.sh"
# shellcheck source=tests/cluster/modes.sh
. "$repo/tests/cluster/modes.sh"

test_it_is_that_version() {
  local want
  want=$("$repo/pxe/criu" version "$GESTALT_TEST_CRIU")
  assert_eq "$(on leader criu --version | sed -n 's/^Version: //p')" "${want%-*}" "CRIU"
  assert_contains "$(gestalt node show node1)" "${want%-*}"
}

test_dumps_of_the_state_only() {
  wait_until 20 on leader test -s /run/gestalt/state-dump
  assert_eq "$(on leader cat /run/gestalt/state-dump)" state-only
}

there_and_back() { # VICTIM [OPTION…]
  local mode
  begin victim node1 "$@"
  for mode in "${modes[@]}"; do
    move_by "$mode" "$pid" leader
    keeps_working victim
    move_by "$mode" "$pid" node1
    keeps_working victim
  done
  finish victim "$pid"
}

test_memory() { there_and_back memory; }
test_threads() { there_and_back threads; }
test_tree() { there_and_back tree; }

test_output_by_relay() {
  start writer node1 sh -c 'echo "ready $$"; i=0; while [ $i -lt 200 ]; do echo "tick $i"; i=$((i + 1)); sleep 0.02; done'
  await_pid writer
  migrate "$pid" leader
  await_status writer 0
  assert_eq "$(ticks writer)" 200 "lines"
}

# Kernels from 6.16 on do not tell what it asks of every socket.
test_internet_sockets() {
  local said status=0
  net=own start server node1 "$victims/network.py" serve 7000
  await_pid server
  said=$(gestalt migrate --dry-run "$pid" leader 2>&1) || status=$?
  if ((status == 0)); then
    assert_contains "$said" "can move"
    migrate "$pid" leader
    assert_eq "$(node_of "$pid")" leader "where it is"
    return
  fi
  assert_eq "$status" 5 "exit status of the dry run"
  assert_contains "$said" "CRIU $(on leader criu --version | sed -n 's/^Version: //p') cannot save on this kernel"
  expect_exit 5 migrate "$pid" leader
  assert_contains "$(cat "$scratch/migration.err")" "install CRIU 4.2"
  ! ended server || fail "the server ended"
  assert_eq "$(node_of "$pid")" node1 "where it is"
}

test_nothing_is_left() { expect_nothing_left; }

export GESTALT_TEST_CRIU=trixie
cluster_up 2
run_tests "$@"
