#!/bin/bash
# Many migrations: several at once in mixed modes and both ways, one after the other
# before all pages of the last have come, and two hundred in a row by random modes.
# $GESTALT_TEST_SEED repeats a certain row.
# shellcheck source=tests/cluster/lib.sh
. "$(dirname "$0")/lib.sh"
# shellcheck source=tests/cluster/jobs.sh
. "$repo/tests/cluster/jobs.sh"
# shellcheck source=tests/cluster/modes.sh
. "$repo/tests/cluster/modes.sh"

readonly seed=${GESTALT_TEST_SEED:-20130624}

# name victim processes options…
readonly eight=(
  'a memory 1 --mib 16' 'b writers 1 --mib 8' 'c forker - --mib 8' 'd mapper 1 --mib 16'
  'e tree 3' 'f threads 1' 'g writers 9 --mib 4 --kind processes' 'h huge 1 --mib 16'
)

other_node() { [[ $1 == node1 ]] && echo node2 || echo node1; }

# move_in_background NAME PID MODE NODE: its status in $scratch/NAME.moved
move_in_background() {
  {
    local status=0
    gestalt migrate "$2" "$4" --mode "$3" --no-wait --json --timeout 40 \
      >"$scratch/$1.json" 2>"$scratch/$1.moved-err" || status=$?
    echo "$status" >"$scratch/$1.moved"
  } &
  movers+=($!)
}

test_eight_at_once() {
  local i round name processes node mode
  local -a words movers pids jobs where
  for i in "${!eight[@]}"; do
    read -r -a words <<<"${eight[i]}"
    where[i]=node$((i % 2 + 1))
    begin "${words[0]}" "${where[i]}" "${words[1]}" --tick-ms 100 "${words[@]:3}"
    pids[i]=$pid jobs[i]=$job
  done
  for round in 0 1 2; do
    movers=()
    for i in "${!eight[@]}"; do
      where[i]=$(other_node "${where[i]}")
      mode=${modes[(i + round) % ${#modes[@]}]}
      move_in_background "${eight[i]%% *}" "${pids[i]}" "$mode" "${where[i]}"
    done
    wait "${movers[@]}"
    for i in "${!eight[@]}"; do
      read -r name _ processes _ <<<"${eight[i]}"
      assert_eq "$(cat "$scratch/$name.moved")" 0 \
        "round $round, move of $name to ${where[i]} ($(cat "$scratch/$name.moved-err"))"
      expect_there "${where[i]}" "${jobs[i]}" "${processes/-/}"
      works_on "$name"
    done
  done
  for i in "${!eight[@]}"; do finish "${eight[i]%% *}" "${pids[i]}"; done
}

# Each move fetches what the one before has left behind.
test_a_chain_of_lazy_moves() {
  local i node
  begin chain node1 writers --mib 32 --tick-ms 100
  for i in 1 2 3; do
    for node in node2 leader node1; do
      move_by lazy "$pid" "$node"
      expect_there "$node" "$job" 1
    done
  done
  works_on chain
  finish chain "$pid"
}

# One that is asked for while another is under way waits or is refused: it does not break.
test_a_chain_without_waiting() {
  local i status
  begin chain node1 memory --mib 32 --tick-ms 100
  for i in 1 2 3 4 5 6; do
    move_by "${modes[i % ${#modes[@]}]}" "$pid" node2 --no-wait
    status=0
    migrate "$pid" leader --mode lazy || status=$?
    assert_eq "$status" 0 "exit status of the move right after ($(cat "$scratch/migration.err"))"
    move_by "${modes[(i + 1) % ${#modes[@]}]}" "$pid" node1
  done
  expect_there node1 "$job" 1
  works_on chain
  finish chain "$pid"
}

# What a job has left behind dies slowly on a busy node, and holds its thread ids so long.
test_back_at_once_on_busy_nodes() {
  local i node
  local -a hogs=()
  begin back node1 writers --mib 64 --tick-ms 100
  for i in 1 2 3 4; do
    # shellcheck disable=SC2034 # endless on purpose
    (while :; do i=0; done) &
    hogs+=($!)
  done
  for i in 1 2 3 4 5; do
    for node in node2 node1; do
      migrate "$pid" "$node" --mode eager ||
        { kill "${hogs[@]}"; fail "move $i to $node: $(cat "$scratch/migration.err")"; }
    done
  done
  kill "${hogs[@]}"
  expect_there node1 "$job" 1
  works_on back
  finish back "$pid"
}

test_two_hundred_in_a_row() {
  local i mode node=node1 next wait
  local -a all=(leader node1 node2)
  echo "seed $seed"
  RANDOM=$seed
  begin many node1 writers --mib 16 --tick-ms 100
  for ((i = 1; i <= 200; i++)); do
    mode=${modes[RANDOM % ${#modes[@]}]}
    next=${all[RANDOM % 3]}
    while [[ $next == "$node" ]]; do next=${all[RANDOM % 3]}; done
    wait=--no-wait
    [[ $mode == lazy ]] || ((RANDOM % 2)) || wait=--wait
    echo "--- $i: $mode from $node to $next $wait"
    node=$next
    migrate "$pid" "$node" --mode "$mode" "$wait" ||
      fail "move $i (seed $seed): $(cat "$scratch/migration.err")"
    ! ended many || fail "it ended: $(tail -n 2 "$scratch/many.out" "$scratch/many.err")"
    ((i % 20)) || {
      expect_there "$node" "$job" 1
      works_on many
    }
  done
  finish many "$pid"
}

test_nothing_is_left() { expect_nothing_left; }

cluster_up 3
set_limit 8
run_tests "$@"
