#!/bin/bash
# Each numbered fault of common/fault.h in each mode, at both ends, as a failure and as a
# crash. Before the grant the victim goes on where it was; after it, where it went; and
# where the only copy of something dies with a stand-in, the job ends as a whole: it never
# runs on with what is left.
# shellcheck source=tests/cluster/lib.sh
. "$(dirname "$0")/lib.sh"
# shellcheck source=tests/cluster/jobs.sh
. "$repo/tests/cluster/jobs.sh"
# shellcheck source=tests/cluster/modes.sh
. "$repo/tests/cluster/modes.sh"

# Where all pages come before it runs there, or some of them even before the freeze.
fetches_before() { [[ $1 == @(eager|pre-copy) ]]; }

# The faults that must be hit before the grant.
source_faults() { # MODE
  echo 1 2 3 4 5 7 8 9
  ! fetches_before "$1" || echo 6
  ! has_rounds "$1" || echo 13
}

destination_faults() { # MODE
  echo 20 21 22 23 25 26 27 28
  ! { fetches_before "$1" || has_rounds "$1"; } || echo 24
}

# Of these, where something is sent next: garbage instead.
source_garbage() { # MODE
  echo 1 5 7
  ! { fetches_before "$1" || has_rounds "$1"; } || echo 6
}

destination_garbage() { # MODE
  echo 21 26
  ! fetches_before "$1" || has_rounds "$1" || echo 24
}

# Writes without a pause: something is dirty at any moment.
begin_victim() { begin victim node1 memory --mib 8 --rate "${1:-0}" --tick-ms 50; }

# attempt MODE NODE FAULT [OPTION…]: to node2, with the fault on NODE; sets status.
attempt() {
  local -a options=("${@:4}")
  echo "--- $1: fault $3 on $2"
  ! has_rounds "$1" || options+=(--max-rounds 1 --downtime-goal 1us)
  fault "$2" "$3"
  status=0
  migrate "$pid" node2 --mode "$1" --timeout "$(scaled 10)" "${options[@]}" || status=$?
  no_faults
  ((status != 124 && status < 126)) || fail "migrate ended with $status"
}

expect_rolled_back() {
  ((status != 0)) || fail "the migration succeeded"
  [[ -s $scratch/migration.err ]] || fail "it did not say why"
  # What was restored there never ran, but takes a moment to remove.
  (wait_until 10 there_only node1 "$job" 1) || expect_there node1 "$job" 1
  works_on victim
}

expect_moved() {
  assert_eq "$status" 0 "exit status ($(cat "$scratch/migration.err"))"
  expect_there node2 "$job" 1
  works_on victim
}

# Its end is noticed, there is nothing of it anywhere, and it never saw a wrong byte.
expect_dead() { # [STATUS]
  (wait_until 20 ended victim) || fail "the job has not ended: $(for n in $(nodes); do live_on "$n" "$job"; done)"
  [[ $(cat "$scratch/victim.status") != 0 ]] || fail "it ended with 0"
  [[ -z ${1:-} ]] || assert_eq "$(cat "$scratch/victim.status")" "$1" "exit status of the job"
  ! grep '^BAD' "$scratch/victim.out" || fail "it ran on with what was left"
  wait_until 10 there_only nowhere "$job" 0
}

# rolled_back_by NODE ACTION LIST: one victim for all of them, moved in the end.
rolled_back_by() {
  local mode number status
  for mode in "${modes[@]}"; do
    begin_victim
    for number in $("$3" "$mode"); do
      attempt "$mode" "$1" "$number$2"
      expect_rolled_back
    done
    # While leftovers are removed it may be told to come again.
    wait_until 10 migrate "$pid" node2 --mode "$mode"
    expect_there node2 "$job" 1
    works_on victim
    finish victim "$pid"
  done
}

test_source_fails() { rolled_back_by node1 '' source_faults; }
test_destination_fails() { rolled_back_by node2 '' destination_faults; }
test_garbage_from_the_source() { rolled_back_by node1 :garbage source_garbage; }
test_garbage_from_the_destination() { rolled_back_by node2 :garbage destination_garbage; }
test_destination_crashes() { rolled_back_by node2 :exit destination_faults; }

test_failures_after_the_grant_only_delay() {
  local mode number node status
  for mode in "${modes[@]}"; do
    begin_victim 2000
    for number in 10 11 12 14 29 30 31; do
      node=node1
      ((number < 20)) || node=node2
      attempt "$mode" "$node" "$number"
      expect_moved
      move_by eager "$pid" node1 # with all pages
    done
    finish victim "$pid"
  done
}

# The job's own stand-in dies, and the job with it. In all modes at once.
test_source_crashes() {
  local number mode status
  local -a pids jobs movers
  for number in 1 2 3 4 5 6 7 8 9 13; do
    pids=() jobs=() movers=()
    for mode in "${modes[@]}"; do
      [[ " $(source_faults "$mode" | tr '\n' ' ') " == *" $number "* ]] || continue
      begin "$mode" node1 memory --mib 8 --tick-ms 50
      pids+=("$pid") jobs+=("$job")
    done
    echo "--- fault $number"
    fault node1 "$number:exit"
    crash_all "$number"
    no_faults
    for job in "${jobs[@]}"; do
      (wait_until 20 there_only nowhere "$job" 0) || fail "job $job lives on"
    done
  done
}

# Each in the mode after which it is called.
crash_all() { # NUMBER
  local mode i=0
  for mode in "${modes[@]}"; do
    [[ " $(source_faults "$mode" | tr '\n' ' ') " == *" $1 "* ]] || continue
    gestalt migrate "${pids[i]}" node2 --mode "$mode" --timeout "$(scaled 10)" >"$scratch/$mode.moved" 2>&1 &
    movers+=($!)
    i=$((i + 1))
  done
  for i in "${!movers[@]}"; do wait "${movers[i]}" && fail "a migration whose source crashed succeeded"; done
  for mode in "${modes[@]}"; do
    [[ " $(source_faults "$mode" | tr '\n' ' ') " == *" $1 "* ]] || continue
    (wait_until 20 ended "$mode") || fail "$mode: the job has not ended"
    [[ $(cat "$scratch/$mode.status") != 0 ]] || fail "$mode: it ended with 0"
    ! grep '^BAD' "$scratch/$mode.out" || fail "$mode: it ran on with what was left"
  done
}

# The leader has given the word: without the pages at the source the job lives if it
# needs none of them.
test_source_crashes_after_the_grant() {
  local mode number status
  for mode in "${modes[@]}"; do
    for number in 10 11 12; do
      begin_victim 2000
      attempt "$mode" node1 "$number:exit"
      if fetches_before "$mode" || { [[ $mode != lazy ]] && ((number == 12)); }; then
        (wait_until 10 there_only node2 "$job" 1) || fail "it does not run on node2"
        works_on victim
        finish victim "$pid"
      elif [[ $mode == lazy && $number == 12 ]]; then
        gestalt kill -KILL "$pid" # until then pages follow
        expect_dead 137
      else
        sleep 0.5
        lives_or_died
      fi
    done
  done
}

lives_or_died() {
  if ended victim; then
    expect_dead
  elif there_only node1 "$job" 1 || there_only node2 "$job" 1; then
    works_on victim
    finish victim "$pid"
  else
    expect_dead
  fi
}

test_source_crashes_while_it_serves() {
  local mode status
  for mode in lazy post-copy hybrid; do
    [[ " ${modes[*]} " == *" $mode "* ]] || continue
    begin_victim 100
    attempt "$mode" node1 14:exit --bandwidth 2M
    # hybrid: of the few pages that were left all may have come already
    if [[ $mode == hybrid ]]; then
      sleep 0.5
      lives_or_died
    else
      expect_dead 137
      assert_eq "$(listed "$pid" .state)" failed
      assert_contains "$(listed "$pid" .error)" node1
    fi
  done
}

# It ran there, for a moment or until the last page had come.
test_destination_crashes_after_the_resume() {
  local mode status
  for mode in "${modes[@]}"; do
    begin_victim 2000
    attempt "$mode" node2 29:exit
    sleep 0.5
    lives_or_died
  done
}

test_destination_crashes_while_pages_follow() {
  local mode number status
  for mode in lazy post-copy hybrid; do
    [[ " ${modes[*]} " == *" $mode "* ]] || continue
    for number in 30 31; do
      [[ $mode-$number != lazy-31 ]] || continue
      begin_victim 100
      attempt "$mode" node2 "$number:exit" --bandwidth 8M
      expect_dead
      wait_until 15 eval '! last_state_is "$pid" paging'
    done
  done
}

# The connections break with each request, until they do not any more.
broken_while_serving() { # NODE FAULT
  local mode
  for mode in lazy post-copy; do
    [[ " ${modes[*]} " == *" $mode "* ]] || continue
    echo "--- $mode"
    begin victim node1 reader --mib 16 --rate 4000 --tick-ms 50
    move_by "$mode" "$pid" node2 --no-wait --bandwidth 4M
    fault "$1" "$2"
    sleep 1.5
    ! ended victim || fail "it ended"
    no_faults
    works_on victim
    move_by eager "$pid" node1
    works_on victim
    finish victim "$pid"
  done
}

test_source_fails_while_it_serves() { broken_while_serving node1 6; }
test_destination_fails_while_pages_follow() { broken_while_serving node2 24; }
test_garbage_while_it_serves() { broken_while_serving node1 6:garbage; }
test_garbage_while_pages_follow() { broken_while_serving node2 24:garbage; }

# crash_while_serving NODE FAULT
crash_while_serving() {
  local mode
  for mode in lazy post-copy; do
    [[ " ${modes[*]} " == *" $mode "* ]] || continue
    echo "--- $mode"
    begin victim node1 reader --mib 16 --rate 2000 --tick-ms 50
    move_by "$mode" "$pid" node2 --no-wait --bandwidth 1M
    fault "$1" "$2:exit"
    expect_dead
    no_faults
    wait_until 15 eval '! last_state_is "$pid" paging'
  done
}

test_source_crashes_with_a_page_in_its_hand() { crash_while_serving node1 6; }
test_destination_crashes_with_a_page_in_its_hand() { crash_while_serving node2 24; }

test_nothing_is_left() { expect_nothing_left; }

cluster_up 3
set_limit 8
run_tests "$@"
