#!/bin/bash
# Every victim is moved while it works: leader → node1 → node2 → leader. It checks
# itself from inside; from outside we look at where it is, at its pid, its output and its
# exit status. tests/victims/victim.h says what they print.
# shellcheck source=tests/cluster/lib.sh
. "$(dirname "$0")/lib.sh"
# shellcheck source=tests/cluster/jobs.sh
. "$repo/tests/cluster/jobs.sh"

# travel PROCESSES VICTIM [OPTION…]
travel() {
  local processes=$1 victim=$2 node
  shift 2
  start_victim "$victim" leader "$victim" "$@"
  expect_only_on leader "$victim" "$processes"
  for node in node1 node2 leader; do
    move "$pid" "$node"
    assert_eq "$(reported .processes)" "$processes" "processes moved"
    expect_only_on "$node" "$victim" "$processes"
    keeps_working "$victim"
  done
  finish "$victim" "$pid"
}

test_memory() { travel 1 memory --mib 64; }

test_static_binary() { travel 1 static; }

test_threads() {
  travel 1 threads
  (($(reported .threads) >= 9)) || fail "only $(reported .threads) threads were reported"
}

test_tree_with_pipes() { travel 3 tree; }

test_shared_memory() { travel 2 shared; }

test_appender() { travel 1 appender; }

test_timers() { travel 1 timers; }

test_identity() { travel 1 identity; }

test_identity_of_an_ordinary_user() { user=alice travel 1 identity --dir /home/alice; }

test_python() { travel 1 python_victim.py; }

# Signals from outside reach it wherever it is, and each just once.
test_signals() {
  local node
  start_victim signals leader signals
  gestalt kill -USR1 "$pid"
  for node in node1 node2 leader; do
    move "$pid" "$node"
    gestalt kill -USR1 "$pid"
    keeps_working signals
  done
  gestalt kill -USR2 "$pid"
  finish signals "$pid"
  assert_contains "$(tail -n 1 "$scratch/signals.out")" "outside=4"
}

test_twenty_times_in_a_row() {
  local i node
  start_victim memory node1 memory --mib 32
  for ((i = 0; i < 20; i++)); do
    node=node$((2 - i % 2))
    migrate "$pid" "$node" || fail "move $i to $node: $(cat "$scratch/migration.err")"
  done
  expect_only_on node1 memory 1
  keeps_working memory
  finish memory "$pid"
}

test_an_ordinary_user_moves_his_own() {
  user=alice start_victim memory node1 memory
  gestalt_as alice migrate "$pid" node2 --json >"$scratch/migration.json"
  assert_eq "$(reported .destination)" node2
  keeps_working memory
  assert_eq "$(on node2 sh -c 'ps -o user= -p "$(pgrep -f "^/usr/lib/gestalt/tests/memory")"')" alice
  gestalt_as alice kill "$pid"
  await_status memory 0
  check_report memory
}

cluster_up 3
run_tests "$@"
