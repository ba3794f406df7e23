#!/bin/bash
# The kernel module, and the kernel's proc connector, under gestaltd and gestalt-init, on a kernel
# of Debian's.
# shellcheck source=tests/cluster/lib.sh
. "$(dirname "$0")/../cluster/lib.sh"
# shellcheck source=tests/cluster/jobs.sh
. "$(dirname "$0")/../cluster/jobs.sh"
# shellcheck source=tests/cluster/view.sh
. "$(dirname "$0")/../cluster/view.sh"

readonly module=/usr/lib/gestalt/gestalt.ko

node_says() { # NODE KEY
  gestalt node list --json |
    on leader jq -r --arg name "$1" --arg key "$2" '.[] | select(.name == $name) | .[$key]'
}

source_is() { [[ $(node_says "$1" task_source) == "$2" ]]; }
events_are() { [[ $(node_says "$1" task_events) == "$2" ]]; }

end_of_case=$(declare -f after_each)
eval "heal_and_${end_of_case}"

after_each() {
  local node
  heal_and_after_each
  for node in leader node1; do on "$node" sh -c "rmmod gestalt 2>/dev/null || true"; done
}

test_changes_over_as_the_module_comes_and_goes() {
  local before loaded
  wait_until 20 source_is node1 proc
  before=$(gestalt node show node1)
  assert_contains "$before" "proc (the module gestalt is not loaded)"
  assert_contains "$before" "connector (the module gestalt is not loaded)"
  start_victim mover node1 memory
  on node1 insmod "$module"
  wait_until 20 source_is node1 kmod
  wait_until 20 events_are node1 kmod
  source_is leader proc || fail "the leader has no module"
  loaded=$(node_of "$pid")
  assert_eq "$loaded" node1 "where the module's node has $pid"
  on node1 rmmod gestalt
  wait_until 20 source_is node1 proc
  wait_until 20 events_are node1 connector
  assert_eq "$(node_of "$pid")" node1 "where $pid is, by /proc again"
  keeps_working mover
  gestalt kill "$pid"
}

test_what_moves_is_seen_by_either_source() {
  on node1 insmod "$module"
  wait_until 20 source_is node1 kmod
  start_victim mover node1 memory
  migrate "$pid" leader
  wait_until 20 is_on "$pid" leader
  migrate "$pid" node1
  wait_until 20 is_on "$pid" node1
  gestalt kill "$pid"
}

slice_is_kept() { sandbox daemon node1 log | grep -q "pid slice kept by the kernel module"; }

# Prints the pids' range: `first last`.
readonly storm='
import os
pids = []
for _ in range(16):
    parent = os.fork()
    if parent: pids.append(parent); continue
    seen = []
    for _ in range(700):
        child = os.fork()
        if child == 0: os._exit(0)
        seen.append(child); os.waitpid(child, 0)
    print(min(seen), max(seen), flush=True)
    os._exit(0)
for pid in pids: os.waitpid(pid, 0)
'

test_no_fork_of_a_storm_leaves_the_slice() {
  local first last lowest highest
  on node1 insmod "$module"
  wait_until 20 source_is node1 kmod
  wait_until 20 slice_is_kept
  read -r first last <<<"$(node_says node1 pid_first) $(node_says node1 pid_last)"
  on leader timeout "$(bound 100)" gestalt run --node node1 -- python3 -c "$storm" >"$scratch/storm"
  lowest=$(sort -n "$scratch/storm" | head -n 1 | cut -d' ' -f1)
  highest=$(sort -n -k2 "$scratch/storm" | tail -n 1 | cut -d' ' -f2)
  echo "slice $first to $last, pids $lowest to $highest"
  ((lowest >= first && highest <= last)) || fail "pids $lowest to $highest left the slice"
  assert_eq "$(wc -l <"$scratch/storm")" 16 "storms that came to their end"
}

test_a_module_that_goes_under_load() {
  on node1 insmod "$module"
  wait_until 20 source_is node1 kmod
  start storm node1 python3 -c "$storm"
  for _ in 1 2 3; do
    on node1 rmmod gestalt
    gestalt ps >/dev/null
    on node1 insmod "$module"
    gestalt ps >/dev/null
  done
  await_status storm 0 300
  assert_eq "$(on node1 sh -c 'dmesg | grep -cE "WARNING|BUG:|Oops" || true')" 0 "warnings of the kernel"
}

# Not by a regular round: the next is a minute away.
sees_what_begins_and_ends() { # NAME
  start_victim "$1" node1 memory
  wait_until 10 session_sees "$pid"
  gestalt kill "$pid"
  wait_until 10 session_misses "$pid"
}

test_events_bring_rounds_of_the_view_forward() {
  open_session
  in_session true
  wait_until 20 events_are node1 connector
  sees_what_begins_and_ends by_connector
  on node1 insmod "$module"
  wait_until 20 events_are node1 kmod
  sees_what_begins_and_ends by_module
  on node1 rmmod gestalt
  wait_until 20 events_are node1 connector
  sees_what_begins_and_ends by_connector_again
  expect_not_hung
}

[[ -n ${GESTALT_TEST_VM:-} ]] || skip_all "needs virtual machines: GESTALT_TEST_VM=trixie $0"
# Rounds of the single view come a minute apart, but for what events bring forward.
printf '[view]\ninterval_seconds = 60\n' >"$scratch/config"
cluster_up 2 --config "$scratch/config"
on leader test -e "$module" || fail "the module is not built; make test-vm builds it"
run_tests "$@"
