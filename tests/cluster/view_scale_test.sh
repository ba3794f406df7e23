#!/bin/bash
# Sessions with many processes on other nodes: 10,000, or as many as TASKS says (50,000 need
# 12 GiB and two minutes).
# shellcheck disable=SC2154 # scratch, pid are of lib.sh and jobs.sh
# shellcheck source=tests/cluster/lib.sh
. "$(dirname "$0")/lib.sh"
# shellcheck source=tests/cluster/jobs.sh
. "$repo/tests/cluster/jobs.sh"
# shellcheck source=tests/cluster/view.sh
. "$repo/tests/cluster/view.sh"

readonly tasks=${TASKS:-10000}
readonly each=10000 # a node's slice has 16,384 pids
readonly crowd=/usr/lib/gestalt/bench/crowd
count=$(((tasks + each - 1) / each))
others=()
for ((i = 1; i <= count; i++)); do others+=("node$i"); done
readonly count others

shown() { in_session 'timeout 60 ps -e --no-headers -o pid= | wc -l'; }

sees_all() { (($(shown) >= tasks)); }

none_is_shown() { (($(shown) < 1000)); }

test_all_are_shown_have_ghosts_and_go() {
  local node last
  open_session
  for node in "${others[@]}"; do
    start "crowd-$node" "$node" "$crowd" "$each" $((each / 100))
    await_pid "crowd-$node"
  done
  wait_until 120 sees_all
  no_pid_twice_in_session
  last=$(native "${others[-1]}" "ls -d [0-9]* | sort -n | tail -n 1")
  wait_until 60 in_session "kill -0 $last"
  in_session 'timeout 60 top -b -n1 >/dev/null'
  expect_not_hung
  # Who is slow is told less often, and is not given up (sandbox daemon LOG).
  assert_not_contains "$(sandbox daemon leader log)" "given up" "the leader's log"
  assert_not_contains "$(sandbox daemon leader log)" "ghosts not updated" "the leader's log"
  for node in "${others[@]}"; do on "$node" pkill -KILL -x crowd; done
  wait_until 60 none_is_shown
  # At most what the nodes have themselves.
  few_ghosts() { (($(on leader pgrep -c -x ghost) < 100)); }
  wait_until 60 few_ghosts
  expect_not_hung
}

no_pid_twice_in_session() {
  assert_eq "$(in_session 'timeout 60 ps -e --no-headers -o pid= | sort | uniq -d | wc -l')" 0 "pids shown twice"
}

cluster_up $((count + 1))
run_tests "$@"
