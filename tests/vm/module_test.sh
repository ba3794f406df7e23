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

# storm COUNT FIRST LAST: forks from sixteen processes at once, each COUNT times (0: until
# /run/calm is there). Prints the pids that are not from FIRST to LAST, and `ok` for each.
# shellcheck disable=SC2016
readonly storm='
forkers=
for _ in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16; do
  /usr/lib/gestalt/forker "$@" & forkers="$forkers $!"
done
while [ "$1" = 0 ] && [ ! -e /run/calm ]; do sleep 0.2; done
[ "$1" != 0 ] || kill $forkers
for pid in $forkers; do
  wait $pid; status=$?
  if [ $status = 0 ] || [ "$1$status" = 0143 ]; then echo ok; fi
done
'

test_no_fork_of_a_storm_leaves_the_slice() {
  local first last
  on node1 insmod "$module"
  wait_until 20 source_is node1 kmod
  wait_until 20 slice_is_kept
  read -r first last <<<"$(node_says node1 pid_first) $(node_says node1 pid_last)"
  on leader timeout "$(bound 100)" gestalt run --node node1 -- sh -c "$storm" sh 700 "$first" "$last" >"$scratch/storm"
  assert_eq "$(sort "$scratch/storm" | uniq -c | xargs)" "16 ok" "storms from $first to $last, and pids outside"
}

test_a_module_that_goes_under_load() {
  on node1 insmod "$module"
  wait_until 20 source_is node1 kmod
  start storm node1 sh -c "$storm" sh 0 0 4194304
  for _ in 1 2 3; do
    on node1 rmmod gestalt
    gestalt ps >/dev/null
    on node1 insmod "$module"
    gestalt ps >/dev/null
  done
  on node1 touch /run/calm
  await_status storm 0 60
  assert_eq "$(uniq -c "$scratch/storm.out" | xargs)" "16 ok" "storms that came to their end"
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
