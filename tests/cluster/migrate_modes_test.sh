#!/bin/bash
# Every victim in every mode: there and back while it works. It checks itself from
# inside; from outside we look at where it is, at its output and its exit status.
# $GESTALT_TEST_MODES names single modes.
# shellcheck source=tests/cluster/lib.sh
. "$(dirname "$0")/lib.sh"
# shellcheck source=tests/cluster/jobs.sh
. "$repo/tests/cluster/jobs.sh"
# shellcheck source=tests/cluster/modes.sh
. "$repo/tests/cluster/modes.sh"

# there_and_back NAME PROCESSES: by each mode in turn. On its way there it need not have
# all its pages when it moves on: those are fetched first.
there_and_back() {
  local name=$1 processes=$2 mode
  for mode in "${modes[@]}"; do
    echo "--- $mode"
    move_by "$mode" "$pid" node2 --no-wait
    expect_there node2 "$job" "$processes"
    works_on "$name"
    move_by "$mode" "$pid" node1
    expect_there node1 "$job" "$processes"
    works_on "$name"
  done
}

# travel PROCESSES VICTIM [OPTION…]: '' when they vary.
travel() {
  local processes=$1 victim=$2
  shift 2
  begin "$victim" node1 "$victim" --tick-ms 100 "$@"
  there_and_back "$victim" "$processes"
  finish "$victim" "$pid"
}

test_memory() { travel 1 memory --mib 32; }
test_static_binary() { travel 1 static --mib 16; }
test_threads() { travel 1 threads; }
test_eight_threads_writing() { travel 1 writers --mib 24; }
test_eight_processes_writing_shared_memory() { travel 9 writers --mib 16 --kind processes; }
test_forks() { travel '' forker --mib 16; }
test_mappings_that_change() { travel 1 mapper --mib 32; }
test_huge_pages() { travel 1 huge --mib 32; }
test_protections() { travel 1 protections --mib 16; }
test_sequential_reader() { travel 1 reader --mib 32; }
test_random_reader() { travel 1 reader --mib 32 --kind random; }
test_tree_with_pipes() { travel 3 tree; }
test_shared_memory() { travel 2 shared; }
test_appender() { travel 1 appender; }
test_timers() { travel 1 timers; }
test_identity() { travel 1 identity; }

test_python() {
  begin python node1 python_victim.py
  there_and_back python 1
  finish python "$pid"
}

# Filters of system calls, each thread's own; capabilities that root has given up; personality.
test_what_was_given_up() {
  start restricted node1 setpriv --bounding-set=-sys_boot,-net_admin --inh-caps=-all \
    setarch --addr-no-randomize "$victims/restricted.py" --until /run/end-restricted
  await_pid restricted
  find_job
  there_and_back restricted 1
  on node1 touch /run/end-restricted
  await_status restricted 0
  check_report restricted
}

# Each signal once, also while pages follow.
test_signals() {
  local mode sent=0
  begin signals node1 signals --tick-ms 100
  for mode in "${modes[@]}"; do
    echo "--- $mode"
    move_by "$mode" "$pid" node2 --no-wait
    gestalt kill -USR1 "$pid"
    works_on signals
    move_by "$mode" "$pid" node1
    gestalt kill -USR1 "$pid"
    works_on signals
    sent=$((sent + 2))
  done
  finish signals "$pid"
  assert_contains "$(tail -n 1 "$scratch/signals.out")" "outside=$sent"
}

# A shell that forks for each number, and two programs that read from it.
test_shell_pipeline() {
  # shellcheck disable=SC2016
  start pipeline node1 bash -c 'echo "ready $$"; n=0 want=0 ticks=0
    while [[ ! -e /run/end-pipeline ]]; do echo "$((n++))"; sleep 0.01; done | cat | {
      while read -r number; do
        ((number == want++)) || echo "BAD number $number"
        ((want % 10)) || echo "tick $((ticks++))"
      done
      echo "ok ticks=$ticks"
    }'
  await_pid pipeline
  find_job
  there_and_back pipeline ''
  on node1 touch /run/end-pipeline
  await_status pipeline 0
  check_report pipeline
}

test_nothing_is_left() { expect_nothing_left; }

cluster_up 3
run_tests "$@"
