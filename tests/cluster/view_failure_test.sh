#!/bin/bash
# The single view when something is lost: a node, the program that serves the view, the
# leader's daemon. An open session never hangs, and sees again what there is.
# shellcheck disable=SC2154 # scratch, pid are of lib.sh and jobs.sh
# shellcheck source=tests/cluster/lib.sh
. "$(dirname "$0")/lib.sh"
# shellcheck source=tests/cluster/jobs.sh
. "$repo/tests/cluster/jobs.sh"
# shellcheck source=tests/cluster/view.sh
. "$repo/tests/cluster/view.sh"

readonly all=(leader node1 node2 node3)

# A job on node2, one on node3, and a session that sees them: sets staying, lost.
staying='' lost=''

watch_two_jobs() {
  start_tree stays node2
  staying=$pid
  start_tree lost node3
  lost=$pid
  open_session
  wait_until 15 session_sees "$staying"
  wait_until 15 session_sees "$lost"
  wait_until 15 session_counts_cpus "$(cpus_of_nodes "${all[@]}")"
}

# loses FAULT: of node3, and what of the processes and CPUs comes of it.
loses() {
  local node3_cpus cpus
  cpus=$(cpus_of_nodes "${all[@]}")
  node3_cpus=$(on node3 nproc --all)
  watch_two_jobs
  sandbox "$1" node3
  # Something that must be asked of the node: an error, but an answer.
  in_session "timeout 10 sh -c 'cat /proc/$lost/environ /proc/$lost/maps; ls /proc/$lost/fd; ls -l /proc/$lost/cwd'" >/dev/null || true
  wait_until 30 session_misses "$lost"
  wait_until 15 session_counts_cpus $((cpus - node3_cpus))
  session_sees "$staying" || fail "$staying of node2 is no longer seen"
  assert_eq "$(in_session 'timeout 10 numactl -H | grep -c "^node [0-9]* cpus"')" 3 "NUMA nodes"
  assert_eq "$(in_session "timeout 10 awk '/^MemTotal:/ { print \$2 }' /proc/meminfo")" \
    "$(memory_of_nodes leader node1 node2)" "memory of the others"
  in_session 'timeout 10 top -b -n1 >/dev/null; timeout 10 ps aux >/dev/null'
  expect_not_hung
  heal
  wait_until 20 session_counts_cpus "$cpus"
  start_tree again node3
  wait_until 15 session_sees "$pid"
  session_sees "$staying" || fail "$staying of node2 is no longer seen"
  expect_same_as_native node1 node2 node3
  no_pid_twice
  expect_not_hung
}

test_a_node_is_killed() { loses kill; }
test_a_node_is_paused() { loses pause; }
test_a_node_is_cut_off() { loses cut; }

worker_pid() { on leader pgrep -f '^/usr/lib/gestalt/gestalt-view --worker --uid 0( |$)'; }

another_worker() {
  local now
  now=$(worker_pid) && [[ $now != "$1" ]]
}

# The worker gets a signal; the open session, and new ones, see all again.
worker_gets() {
  local before
  watch_two_jobs
  before=$(worker_pid)
  in_session "cd /proc/$lost; timeout 10 cat comm" >/dev/null
  on leader kill "-$1" "$before"
  wait_until 20 another_worker "$before"
  in_session 'cd /'
  wait_until 20 session_sees "$lost"
  wait_until 10 session_sees "$staying"
  wait_until 10 session_counts_cpus "$(cpus_of_nodes "${all[@]}")"
  assert_eq "$(in_session "timeout 10 readlink /proc/$lost/cwd")" "$(native node3 "readlink $lost/cwd")"
  in_session 'timeout 10 ps aux >/dev/null && timeout 10 free >/dev/null'
  expect_same_as_native node2 node3
  # What it does is no less up to date than before.
  gestalt kill "$lost"
  wait_until 10 session_misses "$lost"
}

test_the_views_program_is_killed() { worker_gets KILL; }
test_the_views_program_is_stopped() { worker_gets STOP; }

test_the_views_program_is_upgraded() {
  local before program=/usr/lib/gestalt/gestalt-view
  watch_two_jobs
  before=$(worker_pid)
  on leader sh -c "cp $program $program.new && mv $program.new $program"
  wait_until 20 another_worker "$before"
  wait_until 20 session_sees "$lost"
  wait_until 10 session_sees "$staying"
  assert_eq "$(on leader stat -Lc %i "/proc/$(worker_pid)/exe")" "$(on leader stat -c %i $program)" "the new program"
  expect_same_as_native node2 node3
  before=$(worker_pid)
  sleep 3 # it is not replaced again
  assert_eq "$(worker_pid)" "$before" "the worker"
}

test_the_views_program_is_killed_again_and_again() {
  local before i
  watch_two_jobs
  for i in 1 2 3; do
    before=$(worker_pid)
    on leader kill -KILL "$before"
    wait_until 20 another_worker "$before"
    wait_until 20 session_sees "$lost"
  done
  assert_eq "$(in_session "grep -c ' /proc .* - fuse.gestalt ' /proc/self/mountinfo")" 1 \
    "views over /proc"
}

test_gestaltd_restarts_under_a_session() {
  local how
  watch_two_jobs
  in_session 'kept=1'
  for how in restart kill; do
    sandbox daemon leader "$how"
    [[ $how == restart ]] || sandbox daemon leader start
    assert_eq "$(in_session 'timeout 10 ps -o pid= -p $$ >/dev/null && echo "alive $kept"')" "alive 1"
    wait_until 20 healthy node3
    wait_until 20 session_sees "$lost"
    wait_until 20 session_sees "$staying"
    wait_until 20 session_counts_cpus "$(cpus_of_nodes "${all[@]}")"
    # It is told of what is new.
    start_tree "after-$how" node1
    wait_until 15 session_sees "$pid"
    gestalt kill "$pid"
    wait_until 15 session_misses "$pid"
    expect_same_as_native node2 node3
  done
  expect_not_hung
}

# What a session writes waits for gestaltd, so a loop in it tells a file how it goes.
test_gestaltd_is_away_for_a_while() {
  local before
  watch_two_jobs
  in_session "while ! [ -e /var/tmp/view-end ]; do
      for c in 'ps aux' 'top -b -n1' free lscpu 'cat /proc/$lost/environ' 'ls /proc/$lost/fd'; do
        timeout 10 \$c; [ \$? != 124 ] || echo \"\$c\" >>/var/tmp/view-hung
      done >/dev/null 2>&1
      echo round >>/var/tmp/view-rounds
    done &"
  rounds() { on leader sh -c 'cat /var/tmp/view-rounds | wc -l'; }
  more_rounds() { (($(rounds) >= $1)); }
  wait_until 15 more_rounds 1
  sandbox daemon leader stop
  before=$(rounds)
  wait_until 30 more_rounds $((before + 3))
  sandbox daemon leader start
  wait_until 20 healthy node3
  on leader touch /var/tmp/view-end
  [[ ! -e $(sandbox root)/var/tmp/view-hung ]] || fail "hung: $(on leader cat /var/tmp/view-hung)"
  start_tree later node3
  wait_until 15 session_sees "$pid"
  expect_same_as_native node2 node3
  expect_not_hung
}

# Whoever reads meanwhile gets an error, or what there is; never nothing.
test_readers_while_the_views_program_dies() {
  local i before
  watch_two_jobs
  for i in 1 2 3 4; do
    view 'hung=0; for i in $(seq 150); do timeout 10 ps -ef >/dev/null 2>&1; [ $? != 124 ] || hung=1; done
      echo "hung=$hung"' >"$scratch/reader.$i" &
  done
  for i in KILL KILL STOP; do
    before=$(worker_pid)
    on leader kill "-$i" "$before"
    wait_until 20 another_worker "$before"
  done
  for i in 1 2 3 4; do
    read_all() { grep -q hung= "$scratch/reader.$i"; }
    wait_until 30 read_all
    assert_eq "$(cat "$scratch/reader.$i")" hung=0
  done
  wait_until 15 session_sees "$lost"
  expect_not_hung
}

test_an_agent_restarts() {
  watch_two_jobs
  sandbox daemon node3 restart
  wait_until 20 healthy node3
  wait_until 15 session_sees "$lost"
  expect_same_as_native node2 node3
  no_pid_twice
  expect_not_hung
}

cluster_up ${#all[@]}
run_tests "$@"
