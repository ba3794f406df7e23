#!/bin/bash
# Who is in the cluster: states of a node that is killed, cut, paused, stopped, drained
# and that comes back; a leader whose daemon restarts under running jobs.
# shellcheck source=tests/cluster/lib.sh
. "$(dirname "$0")/lib.sh"
# shellcheck source=tests/cluster/jobs.sh
. "$repo/tests/cluster/jobs.sh"

# Heartbeats each second; three seconds of silence make a node suspect, five failed.
# On a busy machine a look may come late: see both within some seconds more.
readonly silence=12

online() { gestalt node list --json | on leader jq '[.[] | select(.state == "online")] | length'; }

node_field() { gestalt node show "$1" --json | on leader jq -r ".[0].$2"; }

# The states that a node goes through from now on, until it is in the last one.
expect_states() { # NODE STATE…
  local node=$1 state
  shift
  for state in "$@"; do wait_until "$silence" node_is "$node" "$state"; done
}

log_of() { sandbox daemon "$1" log; }

test_all_are_online() {
  assert_eq "$(online)" 3
  assert_eq "$(gestalt node list --json | on leader jq -c '[.[] | [.name, .role, .address]] | sort')" \
    '[["leader","leader","10.77.0.1"],["node1","compute","10.77.0.2"],["node2","compute","10.77.0.3"]]'
  assert_eq "$(gestalt node list 'node[1-2]' --json | on leader jq length)" 2
  expect_exit 3 gestalt node show nosuch
  assert_contains "$(gestalt node list)" node2
}

test_objects_are_complete() {
  local key
  for key in cpus load memory_total_bytes memory_available_bytes tasks jobs pid_first pid_last \
    heartbeat_age_seconds version kernel criu certificate_sha256; do
    gestalt node show node1 --json | on leader jq -e ".[0] | has(\"$key\")" >/dev/null || fail "no key $key"
  done
  assert_contains "$(node_field node1 criu)" 4.
  (($(node_field node1 memory_total_bytes) > 1000000000)) || fail "too little memory"
}

test_load_files() {
  local before
  for node in leader node1 node2; do
    on node2 grep -qx "node=$node" "/var/lib/gestalt/load/$node"
    on node2 grep -q '^memory_available_bytes=[1-9]' "/var/lib/gestalt/load/$node"
  done
  before=$(on leader stat -c %Y /var/lib/gestalt/load/node1)
  wait_until 5 on leader sh -c "[ \$(stat -c %Y /var/lib/gestalt/load/node1) -gt $before ]"
}

test_a_killed_node_fails_and_comes_back() {
  local first
  first=$(node_field node2 pid_first)
  sandbox kill node2
  expect_states node2 suspect failed
  expect_exit 125 gestalt run --node node2 -- true
  assert_eq "$(gestalt run --node node1 uname -n)" node1
  sandbox boot node2
  expect_states node2 online
  assert_eq "$(node_field node2 pid_first)" "$first" "the node's pids"
  assert_eq "$(gestalt run --node node2 uname -n)" node2
}

# The job is lost, and whoever waits for it is told so.
test_a_job_on_a_failed_node_ends_its_command() {
  start lost node2 sh -c 'echo "ready $$" >&2; echo begun; exec sleep 1000'
  await_pid lost
  sandbox kill node2
  await_status lost 125 "$silence"
  assert_eq "$(cat "$scratch/lost.out")" begun
  assert_contains "$(cat "$scratch/lost.err")" node2
  assert_eq "$(node_of "$pid")" ""
}

test_a_cut_node_fails_and_rejoins() {
  sandbox cut node1
  expect_states node1 suspect failed
  sandbox join node1
  expect_states node1 online
  assert_eq "$(gestalt run --node node1 uname -n)" node1
}

test_a_short_cut_costs_nothing() {
  start_victim memory node1 memory
  sandbox cut node1
  wait_until "$silence" node_is node1 suspect
  sandbox join node1
  expect_states node1 online
  keeps_working memory
  finish memory "$pid"
  assert_not_contains "$(log_of leader | grep -c 'state=failed.*node1' || true)" failed
}

# A job of a node that was un-merged must not go on unseen when the node is back.
test_a_job_of_a_node_that_was_cut_too_long_is_ended() {
  start_victim memory node1 memory
  sandbox cut node1
  await_status memory 125 "$silence"
  sandbox join node1
  expect_states node1 online
  wait_until 10 only_on nowhere memory 0
}

test_a_paused_node_fails_and_rejoins() {
  sandbox pause node2
  expect_states node2 suspect failed
  sandbox resume node2
  expect_states node2 online
  assert_eq "$(gestalt run --node node2 uname -n)" node2
}

# A process that cannot be looked for is not said to be none.
test_a_silent_node_may_have_any_process() {
  local said
  assert_contains "$(gestalt kill 4194000 2>&1 || true)" "no process 4194000 in the cluster"
  sandbox pause node2
  said=$(gestalt kill 4194000 2>&1 || true)
  sandbox resume node2
  assert_contains "$said" "node2 does not answer"
  expect_states node2 online
}

test_clean_stop_is_offline_at_once() {
  sandbox daemon node2 stop
  wait_until 3 node_is node2 offline
  expect_exit 125 gestalt run --node node2 -- true
  sandbox daemon node2 start
  expect_states node2 online
}

test_a_restarted_agent_keeps_its_jobs() {
  start_victim memory node1 memory
  sandbox daemon node1 kill
  sandbox daemon node1 start
  keeps_working memory
  assert_eq "$(node_of "$pid")" node1
  finish memory "$pid"
}

test_drain_and_resume() {
  start_victim memory node2 memory
  gestalt node drain node2
  expect_states node2 draining
  expect_exit 125 gestalt run --node node2 -- true
  keeps_working memory
  move "$pid" node1
  keeps_working memory
  expect_exit 6 migrate "$pid" node2
  sandbox daemon leader restart
  wait_until 10 node_is node2 draining
  gestalt node resume node2
  expect_states node2 online
  finish memory "$pid"
  expect_exit 3 gestalt node drain nosuch
}

# A node that boots again must not give out pids of processes that have moved away.
test_pids_stay_unique_after_a_reboot() {
  local first other
  start_victim memory node1 memory
  first=$pid
  move "$first" node2
  sandbox kill node1
  wait_until "$silence" node_is node1 failed
  sandbox boot node1
  expect_states node1 online
  start other node1 sh -c 'echo "ready $$" >&2; exec sleep 1000'
  await_pid other
  other=$pid
  [[ $other != "$first" ]] || fail "two processes have the pid $first"
  assert_eq "$(node_of "$first")" node2
  assert_eq "$(node_of "$other")" node1
  keeps_working memory
  move "$other" node2
  move "$first" node1
  keeps_working memory
  finish memory "$first"
  gestalt kill "$other"
  await_status other 143
}

# --- the leader's daemon -----------------------------------------------------

slices() { gestalt node list --json | on leader jq -c '[.[] | [.name, .pid_first, .pid_last]] | sort'; }

all_online() { [[ $(online) == 3 ]]; }

test_leader_restart_keeps_nodes_and_jobs() {
  local before i
  before=$(slices)
  start_victim memory node1 memory
  start counter node2 "$victims/counter" --rate 500
  await_pid counter
  for i in restart kill; do
    sandbox daemon leader "$i"
    [[ $i == restart ]] || sandbox daemon leader start
    wait_until 15 all_online
    assert_eq "$(slices)" "$before" "pid slices"
    keeps_working memory
  done
  start_after=$(wc -l <"$scratch/counter.out")
  wait_until 10 eval "(( \$(wc -l <$scratch/counter.out) > $start_after ))"
  gestalt kill "$pid"
  await_status counter 0
  seq 0 $(($(wc -l <"$scratch/counter.out") - 1)) | cmp - "$scratch/counter.out"
  pid=$(sed -n 's/^ready //p' "$scratch/memory.out")
  move "$pid" node2
  finish memory "$pid"
}

# Jobs of the node whose daemon is away, and of others.
test_exit_while_a_daemon_is_down() {
  local where away
  for where in node1:leader leader:leader node1:node1; do
    away=${where#*:}
    start brief "${where%:*}" sh -c 'echo "ready $$" >&2; until [ -e /tmp/leave ]; do sleep 0.05; done; echo bye; exit 44'
    await_pid brief
    sandbox daemon "$away" kill
    on "${where%:*}" touch /tmp/leave
    wait_until 10 on "${where%:*}" sh -c '! pgrep -x -f "sh -c echo .*until.*"'
    sandbox daemon "$away" start
    await_status brief 44
    assert_eq "$(cat "$scratch/brief.out")" bye
    on leader rm -f /tmp/leave
    wait_until 15 all_online
  done
}

test_leader_power_loss_keeps_the_node_table() {
  local before
  before=$(slices)
  sandbox kill leader
  sandbox boot leader
  wait_until 20 all_online
  assert_eq "$(slices)" "$before" "pid slices"
  assert_eq "$(gestalt run --node node1 uname -n)" node1
}

cluster_up 3
run_tests "$@"
