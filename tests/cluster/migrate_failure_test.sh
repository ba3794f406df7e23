#!/bin/bash
# Migrations that fail at each of the numbered points of common/fault.h: the command says
# so, and the victim goes on as if nothing had been, on one node only. One victim goes
# through all of them and is moved properly after each.
# shellcheck source=tests/cluster/lib.sh
. "$(dirname "$0")/lib.sh"
# shellcheck source=tests/cluster/jobs.sh
. "$repo/tests/cluster/jobs.sh"

here=node1  # where the victim is
there=node2 # where it is to go

begin() { start_victim victim "$here" tree; }

# after_failure: exit status of `migrate` in $1, wanted in $2 (0, or any other).
after_failure() {
  local status=$1 want=$2 kept=$there swap
  no_faults
  if [[ $want == 0 ]]; then
    assert_eq "$status" 0 "exit status ($(cat "$scratch/migration.err"))"
  else
    kept=$here
    ((status != 0 && status != 124 && status < 126)) || fail "migrate exited with $status"
    [[ -s $scratch/migration.err ]] || fail "it did not say why"
  fi
  wait_until 10 only_on "$kept" victim 3
  assert_eq "$(node_of "$pid")" "$kept" "where ps shows it"
  keeps_working victim
  [[ $want != 0 ]] || { swap=$here here=$there there=$swap; }
  # Nothing is left behind that would be in the way of the next one.
  wait_until 10 migrate "$pid" "$there"
  expect_only_on "$there" victim 3
  swap=$here here=$there there=$swap
}

# fail_at NODE FAULT [WANT]: the victim is on $here.
fail_at() {
  local status=0
  echo "--- fault $2 on $1"
  fault "$1" "$2"
  migrate "$pid" "$there" --timeout "$(scaled 10)" || status=$?
  after_failure "$status" "${3:-failure}"
}

test_source_fails() {
  local number
  begin
  for number in 1 2 3 4 5 6 7 8 9; do fail_at "$here" "$number"; done
  finish victim "$pid"
}

# After the leader's word nothing at the source can take it back.
test_source_faults_after_the_grant_only_delay() {
  local number
  begin
  for number in 10 11 12; do fail_at "$here" "$number" 0; done
  finish victim "$pid"
}

test_destination_fails() {
  local number
  begin
  for number in 20 21 22 23 24 25 26 27 28; do fail_at "$there" "$number"; done
  fail_at "$there" 29 0
  finish victim "$pid"
}

test_destination_crashes() {
  local number
  begin
  for number in 20 21 22 23 24 25 26 27 28; do fail_at "$there" "$number:exit"; done
  finish victim "$pid"
}

# It ran there for a moment, unconfirmed: whatever the verdict, there is one of it.
test_destination_crashes_after_the_resume() {
  local status=0 where
  begin
  fault "$there" 29:exit
  migrate "$pid" "$there" --timeout "$(scaled 10)" || status=$?
  no_faults
  if ((status)); then where=$here; else where=$there; fi
  if ended victim; then fail "the victim is lost (migrate exited with $status)"; fi
  wait_until 10 only_on "$where" victim 3
  keeps_working victim
  finish victim "$pid"
}

test_leader_fails() {
  begin
  fail_at leader 40
  fail_at leader 41
  finish victim "$pid"
}

# The leader cannot write down that all is done: both ends wait for it.
test_leader_completes_late() {
  local status=0
  begin
  fault leader 42
  migrate "$pid" "$there" --timeout "$(scaled 10)" &
  sleep "$(scaled 4)" # longer than a copy may run unconfirmed
  no_faults
  wait $! || status=$?
  assert_eq "$status" 0 "exit status of migrate"
  wait_until 10 only_on "$there" victim 3
  keeps_working victim
  finish victim "$pid"
}

# --- bad requests ------------------------------------------------------------

test_bad_requests() {
  start_victim victim node1 memory
  expect_exit 3 migrate 4000000 node2
  expect_exit 3 migrate "$pid" nosuch
  assert_contains "$(cat "$scratch/migration.err")" nosuch
  expect_exit 2 migrate "$pid" node2 --mode nonsense
  expect_exit 4 gestalt_as alice migrate "$pid" node2
  migrate "$pid" node1 && fail "it was moved to where it is"
  sandbox kill node2
  wait_until 15 node_is node2 failed
  expect_exit 6 migrate "$pid" node2
  assert_contains "$(cat "$scratch/migration.err")" node2
  keeps_working victim
  finish victim "$pid"
}

# Only the root of a job moves; the error names it.
test_a_child_is_not_a_unit() {
  local child
  start_victim victim node1 tree
  child=$(on node1 sh -c 'pgrep -nf "^/usr/lib/gestalt/tests/tree"' >/dev/null;
    gestalt ps --json | on leader jq -r --argjson pid "$pid" '[.[] | select(.parent_pid == $pid)][0].pid')
  migrate "$child" node2 && fail "a child was moved alone"
  assert_contains "$(cat "$scratch/migration.err")" "$pid"
  keeps_working victim
  finish victim "$pid"
}

# --- the process ends meanwhile ----------------------------------------------

test_a_process_that_exits_meanwhile() {
  local i status
  for i in 0 1 2 3 4 5; do
    start brief node1 bash -c "echo \"ready \$\$\" >&2; sleep 0.$i; sleep 0.3; echo done; exit 4$i"
    await_pid brief
    status=0
    migrate "$pid" node2 || status=$?
    case $status in
      0 | 1 | 3 | 6) ;;
      *) fail "migrate exited with $status: $(cat "$scratch/migration.err")" ;;
    esac
    await_status brief "4$i"
    assert_eq "$(cat "$scratch/brief.out")" "done"
  done
}

test_a_process_that_is_killed_meanwhile() {
  local i
  for i in 0 1 2 3; do
    start_victim victim node1 memory --mib 200 --rate 1000
    migrate "$pid" node2 &
    sleep "0.$i"
    gestalt kill -KILL "$pid"
    wait $! || true
    await_status victim 137
    wait_until 10 only_on nowhere victim 0
    wait_until 5 on node2 sh -c '! pgrep -x gestalt-stand-i'
  done
}

test_the_command_is_killed_meanwhile() {
  local mover
  start_victim victim node1 memory --mib 200 --rate 1000
  migrate "$pid" node2 &
  mover=$!
  sleep 0.2
  on leader pkill -KILL -f '^gestalt migrate' || true
  wait "$mover" || true
  keeps_working victim
  wait_until 10 eval "only_on node1 victim 1 || only_on node2 victim 1"
  finish victim "$pid"
}

test_two_at_once_of_one_process() {
  local first=0 second=0
  start_victim victim node1 memory --mib 100
  gestalt migrate "$pid" node2 >"$scratch/first" 2>&1 &
  gestalt migrate "$pid" leader >"$scratch/second" 2>&1 || second=$?
  wait $! || first=$?
  ((first == 0 || second == 0)) || fail "neither worked: $(cat "$scratch/first" "$scratch/second")"
  ((first == 0 || first == 6)) && ((second == 0 || second == 6)) || fail "exit statuses $first and $second"
  keeps_working victim
  expect_only_on "$(node_of "$pid")" victim 1
  finish victim "$pid"
}

# --- no room -----------------------------------------------------------------

# In the mount namespaces of the node, its daemon, its init and its jobs' stand-ins. A stand-in
# that ends meanwhile, after a move or a failed one, has taken its namespace along.
each_namespace() { # NODE CMD
  # shellcheck disable=SC2016
  on "$1" sh -c 'for pid in 1 $(pgrep -x "gestaltd|gestalt-init|gestalt-stand-i"); do
    mounts=$(cat "/proc/$pid/mountinfo" 2>/dev/null) || continue
    case $mounts in *" /run/gestalt/images "*tmpfs*) mounted=1 ;; *) mounted=0 ;; esac
    nsenter -t "$pid" -m -p sh -c "mounted=$mounted; $1" || ! kill -0 "$pid" 2>/dev/null || exit
  done' sh "$2"
}

full_disk() { # NODE: hardly any room where images are put
  on "$1" mkdir -p /run/gestalt/images
  each_namespace "$1" '[ $mounted = 1 ] || mount -t tmpfs -o size=8k tmpfs /run/gestalt/images'
}

empty_disk() { each_namespace "$1" '[ $mounted = 0 ] || umount -l /run/gestalt/images'; }

no_room_on() {
  local status=0
  start_victim victim node1 memory
  full_disk "$1"
  migrate "$pid" node2 --timeout "$(scaled 20)" || status=$?
  empty_disk "$1"
  assert_eq "$status" 1 "exit status ($(cat "$scratch/migration.err"))"
  assert_contains "$(cat "$scratch/migration.err")" image
  expect_only_on node1 victim 1
  keeps_working victim
  move "$pid" node2
  finish victim "$pid"
}

test_no_room_for_images_at_the_source() { no_room_on node1; }

test_no_room_for_images_at_the_destination() { no_room_on node2; }

images_on() { on "$1" sh -c 'find /run/gestalt/images -mindepth 1 2>/dev/null | wc -l'; }

no_images_on() { [[ $(images_on "$1") == 0 ]]; }

# Neither by a migration that works, nor by one that fails or crashes at either end.
test_nothing_is_left_behind() {
  local node number
  start_victim victim node1 memory
  move "$pid" node2
  for number in 22 23:exit 26:exit; do
    fault node1 "$number"
    migrate "$pid" node1 && fail "the fault had no effect"
    no_faults
  done
  finish victim "$pid"
  for node in node1 node2; do
    wait_until 10 no_images_on "$node"
    wait_until 5 on "$node" sh -c '! pgrep -x "criu|gestalt-stand-i"'
  done
}

cluster_up 3
run_tests "$@"
